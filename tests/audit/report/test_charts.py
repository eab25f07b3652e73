"""Drawings are well formed, named, and put values where they belong."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from audit.evidence import Member, PromptRow
from audit.report.axes import (
    LONGEST,
    WIDTH,
    Scale,
    log_spread,
    number,
    power_of_ten,
    shorten,
    spread,
)
from audit.report.charts import (
    Interval,
    Series,
    dot_interval_chart,
    duration,
    heat_strip,
    line_chart,
    paired_dots,
    strip_plot,
    time_split_bar,
)
from tests.fakes.pages import HOSTILE

finite = st.floats(-1e12, 1e12)


def curve(values, *, log_y=False, name="loss"):
    return line_chart(
        list(range(len(values))),
        [Series(name=name, values=values), Series(name="other", values=values)],
        title="t",
        x_label="step",
        y_label="y",
        log_y=log_y,
    )


def members(*scores, name="m"):
    roles = ["suspect", "control", "reference"]
    return [
        Member(name=f"{name}{i}", role=roles[min(i, 2)], score=score)
        for i, score in enumerate(scores)
    ]


def rows(*pairs):
    return [PromptRow(id=str(i), suspect=s, others=o) for i, (s, o) in enumerate(pairs)]


DRAWINGS = {
    "line": curve([3.0, 2.0, None, 1.0]),
    "log line": curve([300.0, 2.0, 0.0, 0.01], log_y=True),
    "nothing to draw": curve([None, None]),
    "no steps": curve([]),
    "not finite": curve([float("nan"), float("inf"), 1.0]),
    "strip": strip_plot(members(2.0, 0.1, 0.2, 0.2, -1.0), title="t", x_label="x"),
    "one model": strip_plot(members(2.0), title="t", x_label="x"),
    "intervals": dot_interval_chart(
        [Interval(label="a", point=0.1, low=-0.1, high=0.3)], title="t", x_label="x"
    ),
    "few pairs": paired_dots(rows((1.0, 0.5), (0.2, 0.4)), title="t", unit="u"),
    "many pairs": paired_dots(rows(*[(i / 9, i / 8) for i in range(200)]), title="t", unit="u"),
    "heat": heat_strip([[0.5, 0.5, 0.0, 0.0], [0.25] * 4], ["layer 1", "layer 2"], title="t"),
    "deep heat": heat_strip([[1 / 256] * 256] * 60, [f"layer {i}" for i in range(60)], title="t"),
    "time": time_split_bar({"capture": 70.1, "training": 90.0}, title="t"),
    "no time": time_split_bar({"capture": 0.0}, title="t"),
}


@pytest.mark.parametrize("drawing", DRAWINGS.values(), ids=DRAWINGS)
def test_a_drawing_is_well_formed_named_and_scales_to_its_column(drawing):
    svg = ElementTree.fromstring(drawing)
    assert svg.get("role") == "img"
    assert svg.findtext("title") and svg.findtext("desc")
    assert svg.get("viewBox").startswith(f"0 0 {WIDTH} ")
    assert "width" not in svg.attrib


@pytest.mark.parametrize("drawing", DRAWINGS.values(), ids=DRAWINGS)
def test_a_drawing_takes_its_colours_from_the_style_sheet(drawing):
    for element in ElementTree.fromstring(drawing).iter():
        assert not {"style", "fill", "stroke"} & element.attrib.keys()
    assert "nan" not in drawing.lower() and "inf" not in re.sub(r"<desc>.*?</desc>", "", drawing)


@pytest.mark.parametrize("drawing", DRAWINGS.values(), ids=DRAWINGS)
def test_marks_and_labels_stay_on_the_paper(drawing):
    svg = ElementTree.fromstring(drawing)
    _, _, width, height = map(float, svg.get("viewBox").split())
    for element in svg.iter("text"):
        assert 0 <= float(element.get("x")) <= width
        assert 0 <= float(element.get("y")) <= height
    for x, y in re.findall(r"[ML](-?[\d.e+-]+) (-?[\d.e+-]+)", drawing):
        assert -1 <= float(x) <= width + 1 and -1 <= float(y) <= height + 1


def test_a_drawing_is_markup_with_its_labels_escaped_and_revealed():
    drawings = [
        curve([1.0, 2.0], name=HOSTILE),
        strip_plot(members(1.0, 2.0, name=HOSTILE), title=HOSTILE, x_label=HOSTILE),
        dot_interval_chart(
            [Interval(label=HOSTILE, point=0, low=0, high=1)], title="t", x_label="x"
        ),
        time_split_bar({HOSTILE: 1.0}, title="t"),
    ]
    for drawing in drawings:
        assert isinstance(drawing, Markup)
        tags = {element.tag for element in ElementTree.fromstring(drawing).iter()}
        assert tags <= {"svg", "title", "desc", "text", "path"}
        assert "\u202e" not in drawing


def test_a_series_of_another_length_than_x_is_refused():
    with pytest.raises(ValueError, match="each x"):
        line_chart([1], [Series(name="a", values=[1, 2])], title="t", x_label="", y_label="")


def test_a_gap_breaks_the_line():
    (d,) = re.findall(r'class="line s1" d="(M[^"]*L[^"]*)"', curve([1.0, 2.0, None, 3.0, 4.0]))[1:]
    assert d.count("M") == 2


def test_a_long_series_is_thinned_and_keeps_its_spike():
    quiet, spiked = [1.0] * 50_000, [1.0] * 50_000
    spiked[31_007] = 90.0
    assert len(curve(quiet)) < 20_000
    assert "highest 90" in curve(spiked)
    assert curve(spiked) != curve(quiet)


def test_higher_values_are_drawn_higher_and_later_ones_further_right():
    up, across = Scale(0, 10, 100, 0), Scale(0, 10, 0, 100)
    assert (up(0), up(10)) == (100, 0)
    assert (across(0), across(5), across(10)) == (0, 50, 100)
    assert Scale(1, 100, 0, 100, True)(10) == pytest.approx(50)


def test_kinds_of_model_differ_in_shape():
    drawing = DRAWINGS["strip"]
    assert all(kind in drawing for kind in ('"mark-suspect"', '"square-outer"', '"disc"'))


def test_every_reference_is_drawn_even_where_scores_are_equal():
    drawing = strip_plot(members(2.0, 0.1, *[0.5] * 30), title="t", x_label="x")
    (discs,) = re.findall(r'class="disc" d="([^"]*)"', drawing)
    places = re.findall(r"M[^h]*", discs)
    assert len(places) == len(set(places)) == 30


def test_the_description_counts_prompts_where_the_suspect_is_higher():
    drawing = paired_dots(rows((1.0, 0.5), (0.2, 0.4), (0.9, 0.1)), title="t", unit="u")
    assert "higher on 2 of 3 prompts" in ElementTree.fromstring(drawing).findtext("desc")


def test_an_idle_expert_and_an_overloaded_one_differ_from_an_equal_share():
    drawing = heat_strip([[0.5, 0.25, 0.25, 0.0]], ["layer 1"], title="t")
    cells = drawing.split("<desc>")[1]
    assert "1 experts with no token" in cells and "2.00" in cells
    assert cells.count('"heat h8"') == cells.count('"heat h0"') == 2  # in the row and in the key


def test_time_parts_name_their_share():
    drawing = time_split_bar({"capture": 25.0, "training": 75.0}, title="t")
    assert "25 s, 25%" in drawing and "75 s, 75%" in drawing


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.5, "0.5"),
        (-1.234, "\u22121.23"),
        (999.6, "1,000"),
        (2300.4, "2,300"),
        (3.1e-9, "3.1\u00d710\u207b\u2079"),
        (float("nan"), "not finite"),
    ],
)
def test_numbers_are_written_for_readers(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(12.0, "12 s"), (90.0, "1 min 30 s"), (7260.0, "2 h 1 min")]
)
def test_durations_are_written_for_readers(seconds, shown):
    assert duration(seconds) == shown


def test_ticks_are_round():
    assert Scale(0.013, 0.98, 0, 1).ticks() == [0.2, 0.4, 0.6, 0.8]
    assert Scale(0.02, 300, 0, 1, True).ticks() == [0.1, 1, 10, 100]


def test_small_ticks_share_a_power_of_ten():
    assert power_of_ten([0.0005, 0.001]) == -3
    assert power_of_ten([0.5, 20]) == 0


@given(st.lists(finite, max_size=20))
def test_a_scale_over_any_values_has_a_few_ticks_inside_it(values):
    low, high = spread(values)
    ticks = Scale(low, high, 0, 100).ticks()
    assert 1 <= len(ticks) <= 12
    assert all(low - (high - low) * 1e-6 <= tick <= high + (high - low) * 1e-6 for tick in ticks)


@given(st.lists(st.floats(1e-9, 1e9), max_size=20))
def test_a_logarithmic_scale_over_any_values_has_a_few_positive_ticks(values):
    ticks = Scale(*log_spread(values), 0, 100, True).ticks()
    assert 1 <= len(ticks) <= 12
    assert min(ticks) > 0


def test_a_long_label_keeps_both_ends():
    assert shorten("teacher-a-student-seed-0", 12) == "teacher\u2026ed-0"


def test_an_axis_label_too_long_for_the_drawing_is_cut_and_not_hidden():
    drawn = strip_plot([Member(name="m", role="suspect", score=1.0)], title="t", x_label="u" * 90)
    (label,) = re.findall(r"<text[^>]*>(u[^<]*)</text>", drawn)
    assert len(label) == LONGEST and "\u2026" in label
