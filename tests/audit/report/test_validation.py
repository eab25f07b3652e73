"""The page of a validation says who was right and wrong, fits any bank, and runs nothing."""

import dataclasses
import html
import math
import re

import pytest

from audit.attest import digest
from audit.evidence import Verdict
from audit.lineup.ruling import SAME_WEIGHTS, TRAINED
from audit.population import wilson
from audit.report.frame import MOST_BYTES
from audit.report.validation import (
    MOST_SHARES,
    RoleRow,
    by_group,
    found_columns,
    ratio_shares,
    render,
    role_rows,
    wrong_families,
)
from audit.validation.rates import confusion
from tests.fakes import validations
from tests.fakes.pages import (
    HOSTILE,
    Page,
    apart,
    assert_policy_allows_the_style_alone,
    assert_self_contained,
    drawings,
)
from tests.fakes.validations import judged, validation

SUPPORTED, NOT_SUPPORTED = Verdict.SUPPORTED, Verdict.NOT_SUPPORTED


@pytest.fixture(scope="module")
def page() -> str:
    return render(validation())


def prose(page: str) -> str:
    return " ".join(html.unescape(Page(page).text).split())


def section(page: str, name: str) -> str:
    return page.split(f'<section id="{name}">')[1].partition("</section>")[0]


def rows(part: str) -> list[str]:
    """Return the text of each body row."""
    return [prose(row) for row in re.findall(r"<tr><th scope=\"row\">.*?</tr>", part, re.DOTALL)]


def values(page: str) -> set[str]:
    return set(re.findall(r'<data value="([^"]*)"', page))


def test_the_page_is_self_contained(page):
    assert_self_contained(page)
    assert_policy_allows_the_style_alone(page)
    assert "http" not in re.sub("http-equiv", "", page)


def test_the_same_validation_gives_the_same_bytes(page):
    assert render(validation()) == page


def test_the_page_prints_the_digests_of_the_bank_and_of_its_metrics(page):
    found = validation()
    assert found.bank_sha256 in page and digest(found.metrics) in page


def test_sections_come_in_the_order_a_reviewer_asks(page):
    assert re.findall(r'<section id="([^"]*)"', page) == [
        "glance", "answer", "calibration", "ratios", "relations", "populations", "confusion",
        "doubtful", "checks", "limits",
    ]  # fmt: skip


def test_wrong_right_and_silent_are_counted_on_the_first_screen():
    found = [
        judged("s-1", truth="positive", verdict=SUPPORTED),
        judged("s-2", truth="positive", verdict=NOT_SUPPORTED),
        judged("s-3", truth="positive", verdict=Verdict.INCONCLUSIVE),
        judged("c-1", verdict=SUPPORTED, role="control"),
        judged("c-2", verdict=SUPPORTED, role="control"),
        judged("v-1", role="vendor"),
        judged("s-4", truth="unknown", verdict=SUPPORTED),
    ]
    page = render(validation(found))
    lead = prose(page.split('<p class="lead">')[1].split("</p>")[0])
    assert "Each of 7 models of 7 families" in lead and "against 1 groups of teachers" in lead
    said = prose(apart(section(page, "glance")))
    wrong, right = said.split("How often is it right?")
    assert "Of 3 pairs that documents call unrelated, 2 came out as supported." in wrong
    assert "families concerned: 2 of 3, a share of 0.667; 95 % interval 0.208 to 0.939" in wrong
    assert "control: 2 of 2 vendor: 0 of 1" in wrong
    assert "Of 3 pairs that documents call related, 1 came out as supported." in right
    assert "answered a share of 0.833 of these pairs" in right


def test_every_rate_of_a_relation_stands_in_its_column():
    names = ("suspects", "top_1", "top_1_vendor", "auc", "auc_within_group")
    names += ("tpr_at_5_percent_fpr", "tpr_at_1_percent_fpr", "supported")
    row = {name: place + 0.5 for place, name in enumerate(names)}
    assert set(row) <= set(validation().metrics["by_relation"]["single"])
    changed = {**validation().metrics, "by_relation": {"of one kind": row}}
    page = render(dataclasses.replace(validation(), metrics=changed))
    assert rows(section(page, "relations")) == ["of one kind0.51.52.53.54.55.56.57.5 of 0.5"]


def test_the_costs_of_the_ratios_and_every_stratum_are_printed(page):
    found = validation()
    assert {repr(found.metrics["cllr"]), repr(found.metrics["brier"])} <= values(
        section(page, "ratios")
    )
    shown = values(section(page, "calibration"))
    assert len(found.calibration) == 8
    for row in found.calibration:
        assert {repr(v) for v in (row.votes, row.share, row.low, row.high)} <= shown


def test_a_stratum_above_its_level_is_named_and_the_others_hold(page):
    said = rows(section(page, "calibration"))
    (row,) = [row for row in said if "no, above" in row]
    # At .01 the share is above the level, too, but the interval reaches below it.
    assert row.startswith("human-data controls") and row.count("no, above") == 1


def test_documented_negatives_are_counted_by_role_with_their_families():
    found = [
        judged("a", "g-1", role="student", family="f", verdict=SUPPORTED),
        judged("a", "g-2", role="student", family="f", verdict=SUPPORTED),
        judged("b", "g-1", role="student", family="f"),
        judged("b", "g-2", role="student", family="f", truth="unknown", verdict=SUPPORTED),
        judged("c", "g-1", role="control"),
    ]
    assert role_rows(found) == [
        RoleRow(role="control", suspects=1, families=1, pairs=1, supported=0, accused=0),
        RoleRow(role="student", suspects=2, families=1, pairs=3, supported=2, accused=1),
    ]


def test_families_with_a_false_finding_are_counted_once():
    found = [
        judged("a", "g-1", family="f", verdict=SUPPORTED),
        judged("b", "g-2", family="f", verdict=SUPPORTED),
        judged("c", "g-1", family="g"),
        judged("d", "g-1", family="h", truth="positive", verdict=SUPPORTED),
    ]
    wrong = wrong_families(found)
    assert wrong is not None and (wrong.concerned, wrong.families, wrong.share) == (1, 2, 0.5)
    assert (wrong.low, wrong.high) == wilson(1, 2)
    assert wrong_families(found[3:]) is None


def test_groups_keep_the_banks_order_though_members_are_not_asked_about_their_own():
    found = [judged("of-a", "b"), judged("of-a", "c"), judged("of-b", "a"), judged("of-b", "c")]
    found += [judged("of-none", name) for name in "abc"]
    assert list(by_group(found)) == ["a", "b", "c"]
    assert [len(part) for part in by_group(found).values()] == [2, 2, 3]


def test_ratios_are_shared_out_at_the_edges_of_the_scale():
    found = [
        judged(f"p{i}", truth="positive", log10_lr=value) for i, value in enumerate([0.0, 0.5, 1.2])
    ]
    found += [judged(f"n{i}", log10_lr=value) for i, value in enumerate([-1.1, -0.1])]
    found.append(judged("u", truth="unknown", log10_lr=5.0))
    assert ratio_shares(found) == [
        (-1.0, 1.0, 0.5),
        (-math.log10(2), 1.0, 0.5),
        (0.0, 1.0, 0.0),
        (math.log10(2), 2 / 3, 0.0),
        (1.0, 1 / 3, 0.0),
    ]


def test_there_are_drawings_of_ratios_of_each_level_and_of_the_populations(page):
    assert [len(drawings(section(page, name))) for name in ("ratios", "calibration")] == [1, 2]
    many = validation(validations.population(models=12, groups=9))
    found = drawings(section(render(many), "populations"))
    assert len(found) == 2
    lanes = [text.text for svg in found for text in svg.iter("text")]
    assert [name for name in lanes if name.startswith("maker-")] == [
        f"maker-{group // 2}-{group}" for group in range(9)
    ]


def test_a_group_names_the_unrelated_models_that_stand_out():
    found = [judged(f"model-{i}", score=float(i)) for i in range(9)]
    found.append(judged("student", truth="positive", score=20.0, verdict=SUPPORTED))
    found.append(judged("other", truth="unknown", score=30.0))
    found.append(judged("empty", verdict=Verdict.INSUFFICIENT))
    (row,) = rows(section(render(validation(found)), "populations"))
    names = re.findall(r"(?:model|student|other|empty)-?\d*", row)
    assert names == ["model-8", "model-7", "model-6", "model-5", "model-4"]
    assert row.startswith("maker-a-1maker-a1 of 10 of 90 of 11model-8 (8; p")


def test_what_was_found_of_each_relation_is_counted():
    found = [
        judged("a", truth="positive", verdict=SUPPORTED, relation=TRAINED),
        judged("b", truth="positive", verdict=SUPPORTED, relation=TRAINED),
        judged(
            "c", truth="positive", verdict=SUPPORTED, relation=SAME_WEIGHTS, documented="derivative"
        ),
        judged("d", truth="positive", verdict=NOT_SUPPORTED),
        judged("e", verdict=SUPPORTED, relation=SAME_WEIGHTS),
    ]
    assert found_columns(confusion(found)) == [TRAINED, SAME_WEIGHTS, "NOT_SUPPORTED"]
    assert rows(section(render(validation(found)), "confusion")) == [
        "single2013",
        "derivative0101",
    ]


def test_a_finding_of_another_word_still_has_its_column():
    assert found_columns({"single": {"of a third kind": 1, "INCONCLUSIVE": 2}}) == [
        "INCONCLUSIVE",
        "of a third kind",
    ]


def test_false_and_doubtful_findings_stand_under_what_documents_say():
    found = [
        judged("wrong", verdict=SUPPORTED, reason="it resembles the group in that way"),
        judged("open", truth="unknown", verdict=SUPPORTED, reason="it resembles it so"),
        judged("missed", truth="positive", reason="unrelated models resemble it as much"),
        judged("right", truth="positive", verdict=SUPPORTED),
        judged("silent", truth="positive", verdict=Verdict.INCONCLUSIVE),
        judged("clear"),
        judged("clear-too", truth="unknown"),
    ]
    parts = section(render(validation(found)), "doubtful").split("<h3>")[1:]
    told = [rows(part) for part in parts]
    assert [len(part) for part in told] == [1, 1, 1]
    assert told[0][0].startswith("wrongstudent; documented: single")
    assert "It resembles the group in that way." in told[0][0]
    assert told[1][0].startswith("open") and "It resembles it so." in told[1][0]
    assert told[2][0].startswith("missed") and "as much." in told[2][0]


def test_every_supported_finding_has_its_checks_and_those_that_do_not_hold_are_named():
    held = judged("held", verdict=SUPPORTED, truth="positive", score=4.0)
    fails = validations.with_ruling(
        judged("opens-alike", verdict=SUPPORTED, score=4.0),
        checks={
            "format stripped": (3.9, 0.011),
            "length matched": (3.1, 0.05),
            "after the first words": (0.2, 0.051),
            "another reading": (None, None),
        },
    )
    part = section(render(validation([held, fails, judged("clear")])), "checks")
    first, second = rows(part)
    assert first.startswith("heldmaker-a-1related4") and first.count("not seen") == 1
    assert "0.2p 0.051, not seen" in second and "nonep none, not seen" in second
    assert second.count("not seen") == 2
    assert "3.1p 0.050" in second and "3.9p 0.011" in second


def test_settings_are_those_of_the_validation(page):
    found = dataclasses.replace(validation(), least_prompts=31)
    said = prose(section(render(found), "limits"))
    assert "least_prompts31" in said and "alpha0.05" in said and "separated4" in said
    assert "least_prompts31" not in prose(page)


def test_a_bank_without_related_or_unrelated_pairs_still_has_a_page():
    for found in (
        [],
        [judged(truth="unknown")],
        [judged(truth="positive")],
        [judged()],
        [judged(verdict=Verdict.INSUFFICIENT)],
    ):
        page = render(validation(found, calibration=()))
        assert_self_contained(page)
        assert '<span class="absent">' in page


def test_a_name_or_reason_that_is_hostile_is_shown_and_never_obeyed():
    one = judged(
        HOSTILE, HOSTILE, verdict=SUPPORTED, reason=HOSTILE, relation=HOSTILE,
        documented=HOSTILE, family=HOSTILE, vendor=HOSTILE, truth="positive",
    )  # fmt: skip
    missed = judged(HOSTILE * 9, HOSTILE, truth="positive", documented=HOSTILE)
    calibration = [dataclasses.replace(row, name=HOSTILE) for row in validations.strata()]
    page = render(validation([one, missed, judged()], bank=HOSTILE, calibration=calibration))
    page.encode()
    assert_self_contained(page)
    assert_policy_allows_the_style_alone(page)
    assert "<script>alert(1)</script>" in prose(page) and "{{ 7 * 7 }}" in prose(page)


def test_nobody_is_accused(page):
    said = prose(page).lower()
    for word in ("accus", "guilt", "cheat", "stole", "copied", "suspicious", "innocent"):
        assert word not in said


def test_of_many_strata_the_drawing_keeps_those_that_stand_out():
    makers = [f"maker-{i}" for i in range(MOST_SHARES + 6)]
    page = render(validation(calibration=validations.strata(makers)))
    first = drawings(section(page, "calibration"))[0]
    labels = {text.text for text in first.iter("text")}
    assert len([label for label in labels if label.startswith("groups of")]) == MOST_SHARES - 2
    assert "human-data controls" in labels
    assert "leaves out 8 parts" in prose(section(page, "calibration"))
    assert len(rows(section(page, "calibration"))) == len(makers) + 2


def test_a_bank_of_a_thousand_models_and_fifty_groups_fits_and_says_what_is_left_out():
    found = validation(validations.population(models=1000, groups=50))
    page = render(found)
    assert len(page.encode()) <= MOST_BYTES
    assert "a mark stands for up to" in prose(page)
    everything = [
        validations.with_ruling(one, verdict=SUPPORTED, reason="it resembles it. " * 60)
        for one in found.judged[:8000]
    ]
    full = render(validation(everything))
    assert MOST_BYTES / 20 <= len(full.encode()) <= MOST_BYTES
    for name in ("doubtful", "checks"):
        said = prose(section(full, name))
        assert re.search(r"\d+ of \d,\d+ rows; findings.jsonl and verdicts.csv have all", said)
    assert "more characters in the JSON file" in prose(section(full, "doubtful"))


def test_what_does_not_fit_is_cut_shorter_and_at_last_refused(monkeypatch):
    found = validation(validations.population(models=400, groups=20))
    whole = len(render(found).encode())
    monkeypatch.setattr("audit.report.validation.MOST_BYTES", whole - 1)
    page = render(found)
    assert len(page.encode()) < whole
    assert_self_contained(page)
    monkeypatch.setattr("audit.report.validation.MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="would exceed 1000 bytes"):
        render(found)


def test_a_bank_of_the_size_of_the_public_set_is_shown_whole():
    page = render(validation(validations.population(models=135, groups=16)))
    assert len(page.encode()) <= MOST_BYTES / 4
    assert "findings.jsonl and verdicts.csv have all" not in prose(page)
    assert "Models at one place are stacked" in prose(page)
