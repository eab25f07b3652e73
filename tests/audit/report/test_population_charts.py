"""Drawings of many findings are well formed, count what they show and hide no model."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.report.axes import WIDTH, Scale
from audit.report.charts import LEFT, PLOT, RIGHT, Interval
from audit.report.population_charts import (
    HIGHEST,
    MOST_STACKED,
    PITCH,
    START,
    Edge,
    Lane,
    Mark,
    lanes_chart,
    models_a_mark,
    share_at_or_above,
    shares_chart,
    tippett_plot,
)
from tests.fakes.pages import HOSTILE

EDGES = [Edge(at=-1, word="weak"), Edge(at=-0.3, word=""), Edge(at=0.3, word="weak")]
EDGES += [Edge(at=1, word="moderate"), Edge(at=2, word="moderately strong")]
ENDS = (-3.0, 5.0)
scores = st.floats(*ENDS)


def marks(*values, truth="negative", supported=False):
    return [Mark(score=value, truth=truth, supported=supported) for value in values]


def lane(*made, name="maker-a-1"):
    return Lane(name=name, marks=made)


def lanes(*made, models=1, name="t"):
    return lanes_chart(made, ENDS, models, title=name, x_label="score")


def tippett(positive, negative, edges=EDGES):
    return tippett_plot(positive, negative, edges, title="t")


def interval(point, low, high, name="all"):
    return Interval(label=name, point=point, low=low, high=high)


DRAWINGS = {
    "tippett": tippett([0.2, 1.5, 1.6], [-1.2, -1.2, 0.4]),
    "one side": tippett([], [-1.2]),
    "no ratios": tippett([], []),
    "shares": shares_chart(
        [interval(0.04, 0.03, 0.06), interval(0.2, 0.1, 0.3)], 0.05, title="t", x_label="x"
    ),
    "no shares": shares_chart([], 0.05, title="t", x_label="x"),
    "lanes": lanes(
        lane(*marks(0.0, 0.1, 4.9), *marks(3.0, truth="positive", supported=True)),
        lane(*marks(-2.9, truth="unknown"), name="maker-b-1"),
    ),
    "full lane": lanes(lane(*marks(*[0.5] * MOST_STACKED))),
    "empty lane": lanes(lane()),
    "no lanes": lanes(),
}


def places(drawing, kind):
    """Return where the marks of this kind are: x and y of each."""
    found = re.findall(rf'class="known {kind}" d="([^"]*)"', drawing.split("</text>", 4)[4])
    return [tuple(map(float, at)) for d in found for at in re.findall(r"M([\d.]+) ([\d.]+)m", d)]


@pytest.mark.parametrize("drawing", DRAWINGS.values(), ids=DRAWINGS)
def test_a_drawing_is_well_formed_named_and_styled_by_the_sheet(drawing):
    svg = ElementTree.fromstring(drawing)
    assert svg.get("role") == "img" and "width" not in svg.attrib
    assert svg.findtext("title") and svg.findtext("desc")
    for element in svg.iter():
        assert not {"style", "fill", "stroke"} & element.attrib.keys()
    assert "nan" not in drawing and "inf" not in drawing


@pytest.mark.parametrize("drawing", DRAWINGS.values(), ids=DRAWINGS)
def test_marks_and_labels_stay_on_the_paper(drawing):
    svg = ElementTree.fromstring(drawing)
    _, _, width, height = map(float, svg.get("viewBox").split())
    assert width == WIDTH
    for element in svg.iter("text"):
        assert 0 <= float(element.get("x")) <= width
        assert 0 <= float(element.get("y")) <= height
    for x, y in re.findall(r"[ML](-?[\d.e+-]+) (-?[\d.e+-]+)", drawing):
        assert -1 <= float(x) <= width + 1 and -1 <= float(y) <= height + 1


def test_names_are_escaped_and_their_hidden_characters_shown():
    drawings = [
        lanes(lane(*marks(1.0), name=HOSTILE), name=HOSTILE),
        shares_chart([interval(0.1, 0, 1, name=HOSTILE)], 0.05, title=HOSTILE, x_label="x"),
        tippett_plot([1.0], [], [Edge(at=0.2, word=HOSTILE)], title=HOSTILE),
    ]
    for drawing in drawings:
        tags = {element.tag for element in ElementTree.fromstring(drawing).iter()}
        assert tags <= {"svg", "title", "desc", "text", "path"}
        assert "\u202e" not in drawing


def steps(drawing, kind):
    """Return the corners of a step curve: across, then down."""
    (d,) = re.findall(rf'class="line {kind}" d="(M[^"]*V[^"]*)"', drawing)
    return [(float(x), float(y)) for x, y in re.findall(r"H([\d.]+)V([\d.]+)", d)]


def test_a_tippett_curve_steps_down_where_pairs_lie_by_their_share():
    corners = steps(tippett([0.0, 1.0, 1.0, 1.0], []), "s1")
    top, bottom = 72, 72 + PLOT
    assert [y for _, y in corners] == [top + PLOT / 4, bottom]
    (first, _), (second, _) = corners
    # The axis runs from -0.5 to 1 and a twentieth of that further on both sides.
    assert first == pytest.approx(Scale(-0.575, 1.075, LEFT, RIGHT)(0.0), abs=0.1)
    assert second == pytest.approx(Scale(-0.575, 1.075, LEFT, RIGHT)(1.0), abs=0.1)


def test_the_two_sides_of_a_tippett_plot_differ_in_dash_and_are_told_in_words():
    drawing = tippett([1.0, 2.0], [-1.0, 0.5, 0.0, -0.1])
    assert steps(drawing, "s1") and steps(drawing, "s2")
    first, second = ElementTree.fromstring(drawing).findtext("desc").split(". ")
    assert first == "100.0% of 2 related pairs at or above 0"
    assert second == "50.0% of 4 unrelated pairs at or above 0."


def test_a_long_tippett_curve_has_one_step_for_each_place_on_the_paper():
    drawing = tippett([i / 50_000 for i in range(50_000)], [])
    assert len(drawing) < 70_000
    assert steps(drawing, "s1")[-1][1] == 72 + PLOT


def test_edges_of_the_verbal_scale_are_drawn_inside_the_axis_and_named_where_there_is_room():
    words = [e.text for e in ElementTree.fromstring(tippett([1.9], [-0.8])).iter("text")]
    assert "moderate" in words and "moderately strong" not in words
    assert words.count("weak") == 1  # the lower one begins left of the axis


def test_a_value_on_a_bound_counts_as_reaching_it():
    assert share_at_or_above([1.0, 2.0, 3.0, 0.0], 2.0) == 0.5
    assert share_at_or_above([], 2.0) is None


def test_a_share_whose_interval_is_above_the_level_has_another_mark():
    rows = [interval(0.04, 0.03, 0.06), interval(0.2, 0.1, 0.3), interval(0.06, 0.05, 0.1)]
    drawing = shares_chart(rows, 0.05, title="t", x_label="x")
    assert drawing.count('"square-outer"') == 1 and drawing.count('"dot-estimate"') == 2
    said = ElementTree.fromstring(drawing).findtext("desc")
    assert said == "3 shares; of 1 the whole interval is above 0.05."


def test_the_level_is_drawn_where_a_share_as_large_would_be():
    drawing = shares_chart([interval(0.05, 0.01, 0.09)], 0.05, title="t", x_label="x")
    (level,) = re.findall(r'class="zero" d="M([\d.]+) ', drawing)
    (dot,) = re.findall(r'class="dot-estimate" d="M([\d.]+) ', drawing)
    assert level == dot


def test_a_lane_has_a_mark_for_every_model_and_none_hides_another():
    drawing = lanes(lane(*marks(*[0.5] * 9, *[0.51] * 5, 2.0)))
    found = places(drawing, "negative")
    assert len(found) == len(set(found)) == 15
    heights = [y for _, y in found[:14]]
    assert min(below - above for below, above in pairwise(heights)) >= PITCH - 0.2


def test_higher_scores_are_further_right_and_lanes_share_one_axis():
    low, high = (lanes(lane(*marks(score))) for score in (-1.0, 2.5))
    (x_low, _), (x_high, _) = (places(drawing, "negative")[0] for drawing in (low, high))
    scale = Scale(*ENDS, START, WIDTH - START)
    assert x_low == pytest.approx(scale(-1.0), abs=PITCH / 2)
    assert x_high == pytest.approx(scale(2.5), abs=PITCH / 2)


def test_truths_differ_in_shape_and_supported_ones_are_filled():
    made = [
        *marks(0.0, 1.0, 2.0),
        *marks(3.0, 3.5, truth="positive", supported=True),
        *marks(1.5, truth="positive"),
        *marks(2.5, truth="unknown", supported=True),
    ]
    drawing = lanes(lane(*made))
    assert len(places(drawing, "negative")) == 3
    assert len(places(drawing, "positive solid")) == 2
    assert len(places(drawing, "positive")) == len(places(drawing, "unknown solid")) == 1
    outlines = re.findall(r'class="known (\w+)(?: solid)?" d="M[\d.]+ [\d.]+(m[^M"]*)', drawing)
    assert {truth for truth, _ in outlines} == {"negative", "positive", "unknown"}
    assert len({shape for _, shape in outlines}) == len(set(outlines)) == 3


def test_few_models_have_a_mark_each_and_many_share_one():
    few, many = lane(*marks(*[0.5] * MOST_STACKED)), lane(*marks(*[0.5] * 10 * MOST_STACKED, 4.0))
    assert models_a_mark([few], ENDS) == 1
    assert models_a_mark([few, many], ENDS) == 10
    heights = [y for _, y in places(lanes(few), "negative")]
    assert len(set(heights)) == MOST_STACKED and max(heights) - min(heights) <= HIGHEST
    drawn = places(lanes(many, models=10), "negative")
    assert len(drawn) == MOST_STACKED + 1  # and the one that stands alone is among them
    assert max(x for x, _ in drawn) == pytest.approx(
        Scale(*ENDS, START, WIDTH - START)(4.0), abs=PITCH / 2
    )


@given(st.lists(scores, max_size=300))
def test_no_stack_is_higher_than_allowed(values):
    made = lane(*marks(*values))
    found = places(lanes(made, models=models_a_mark([made], ENDS)), "negative")
    stacks = [x for x, _ in found]
    assert max(map(stacks.count, stacks), default=0) <= MOST_STACKED
    assert len(found) == len(set(found))


def test_a_lane_is_told_in_words():
    made = [*marks(0.0, 2.0), *marks(3.0, truth="positive", supported=True)]
    said = ElementTree.fromstring(lanes(lane(*made), lane(name="b"))).findtext("desc")
    assert said == (
        "maker-a-1: 1 related from 3 to 3, 1 supported; 2 unrelated from 0 to 2, 0 supported. "
        "b: no scores."
    )
