"""Intervals, ranks of references, and the correction of makers whose p-values are too small."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from audit.bank import load
from audit.lineup import case, index, known, reading
from audit.lineup.case import examine, lineup, reference_p, stratum
from audit.lineup.standing import votes
from audit.population import wilson
from tests.fakes import banks, lineups


def world(tmp_path, people, **settings):
    bank = load(lineups.write(tmp_path / "bank", people, **settings))
    made = index.of(bank, reading.VIEWS, cache=None, tell=lambda done, steps: None)
    facts = known.facts(bank)
    return bank, lineup(bank, made, facts, 20), facts


PEOPLE = [*lineups.teachers(3), *lineups.unrelated(8), *lineups.unrelated(3, "control")]


def test_references_are_ranked_among_other_families_by_votes(tmp_path):
    _, models, _ = world(tmp_path, PEOPLE, prompts=25)
    score_NK = np.random.default_rng(0).normal(size=models.negative_NK.shape)
    among_KK = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=bool)
    found_NK = reference_p(models, score_NK, among_KK)
    weight_NK = votes(models.family, models.negative_NK)
    for i, k in zip(*np.nonzero(models.negative_NK), strict=True):
        above = total = 0.0
        for j, g in zip(*np.nonzero(models.negative_NK), strict=True):
            if models.family[j] != models.family[i] and among_KK[k, g]:
                total += weight_NK[j, g]
                above += weight_NK[j, g] * (score_NK[j, g] >= score_NK[i, k])
        assert found_NK[i, k] == pytest.approx((1 + above) / (1 + total))
    assert np.isnan(found_NK[~models.negative_NK]).all()


def test_a_stratum_counts_votes_of_families():
    p_NK = np.array([[0.01], [0.9], [0.9]])
    part_NK = np.ones((3, 1), dtype=bool)
    found = stratum("all", p_NK, part_NK, ("a", "a", "b"), 0.05)
    assert (found.votes, found.share) == (2.0, 0.25)
    assert (found.low, found.high) == wilson(0.5, 2.0)
    assert not found.fails
    assert replace(found, low=0.06).fails


def test_pairs_before_a_groups_launch_are_known_by_date(tmp_path):
    people = [
        *lineups.teachers(2),
        lineups.Someone(name="old", labels={"outputs_published_by": "2022-01-31"}),
        lineups.Someone(name="new", labels={"outputs_published_by": "2023-06-01"}),
        lineups.Someone(name="undated"),
    ]
    _, _, facts = world(tmp_path, people, prompts=3, launches={"g0": "2023-01-01"})
    assert facts.launch == (date(2023, 1, 1), None)
    assert facts.impossible().tolist()[-3:] == [[True, False], [False, False], [False, False]]
    assert not facts.impossible()[:4].any()


def test_a_maker_whose_unrelated_pairs_have_small_p_values_is_ranked_among_its_own(
    tmp_path, monkeypatch
):
    bank, models, facts = world(tmp_path, PEOPLE, prompts=25)
    suspect = [m.name for m in bank.models].index("vendor0")
    plain = examine(models, facts, [suspect], frozenset({"vendor0"}))
    assert not any(one.fails for one in plain.strata)
    np.testing.assert_array_equal(plain.p_SK, plain.main.p_values())

    real = case.stratum

    def failing(name, p_NK, part_NK, family, alpha, *, corrected=False):
        found = real(name, p_NK, part_NK, family, alpha, corrected=corrected)
        bad = name == "groups of v1" and not corrected
        return replace(found, low=alpha + 0.01) if bad else found

    monkeypatch.setattr(case, "stratum", failing)
    mended = examine(models, facts, [suspect], frozenset({"vendor0"}))
    own = mended.main.p_values(np.eye(3, dtype=bool))
    assert mended.p_SK[0, 1] == max(plain.p_SK[0, 1], own[0, 1])
    assert (mended.p_SK[0, [0, 2]] == plain.p_SK[0, [0, 2]]).all()
    assert {one.corrected for one in mended.strata} == {False, True}


def test_every_stratum_is_there_before_and_after(tmp_path):
    bank, models, facts = world(tmp_path, PEOPLE, prompts=25)
    found = examine(models, facts, [len(bank.models) - 1], frozenset({"control2"}))
    names = [(one.name, one.alpha) for one in found.strata if not one.corrected]
    wanted = ["all", "human-data controls", "certain by chronology"]
    wanted += ["groups of v0", "groups of v1", "groups of v2"]
    assert names == [(name, alpha) for name in wanted for alpha in (0.05, 0.01)]
    assert names == [(one.name, one.alpha) for one in found.strata if one.corrected]


def test_a_ratio_of_weights_needs_known_derivatives(tmp_path):
    students = [lineups.student(f"s{n}", n % 3) for n in range(5)]
    tuned = [
        lineups.student(f"d{n}", n % 3, 0.9, relation="derivative", body=True) for n in range(5)
    ]
    _, models, facts = world(tmp_path, [*PEOPLE, *students], prompts=25)
    without = examine(models, facts, [8], frozenset({"vendor2"}))
    assert without.weights is None
    assert without.ratio is not None
    assert without.ratio.slope > 0
    _, models, facts = world(tmp_path / "more", [*PEOPLE, *students, *tuned], prompts=25)
    found = examine(models, facts, [8], frozenset({"vendor2"})).weights
    assert found is not None
    assert found.slope > 0


def test_the_very_same_answers_are_counted_where_both_answer_at_length(tmp_path):
    def said(word, count):
        return " ".join(f"{word}{n}" for n in range(count)) + "."

    answers = {
        "t0": {f"q{n}": said("a", 25) for n in range(4)} | {"q4": "Yes."},
        "t1": {f"q{n}": said("b", 25) for n in range(5)},
        "copy": {f"q{n}": said("a" if n < 3 else "c", 25) for n in range(5)},
        "brief": {f"q{n}": "Yes." for n in range(5)},
    }
    labels = {
        name: {"role": "teacher", "group": f"g{name[1]}", "relation": "none"}
        for name in ("t0", "t1")
    }
    groups = {f"g{n}": {"vendor": f"v{n}", "public_launch": ""} for n in range(2)}
    bank = load(banks.write(tmp_path / "bank", answers, labels=labels, groups=groups))
    made = index.of(bank, reading.VIEWS, cache=None, tell=lambda done, steps: None)
    facts = known.facts(bank)
    models = lineup(bank, made, facts, 3)
    found_NK = case.same_answers(models)
    assert found_NK[2].tolist() == [0.75, 0.0]  # of the 4 that both answer at length
    assert np.isnan(found_NK[3]).all()
    assert np.isnan(found_NK[0, 0])
    few = lineup(bank, made, facts, 5)
    assert np.isnan(case.same_answers(few)[2, 0])
