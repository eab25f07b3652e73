"""Each rate of a validation beside the same worked out by hand on a handful of findings."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.evidence import Verdict
from audit.lineup.ruling import Ruling
from audit.validation.judged import Judged
from audit.validation.rates import auc, c_at_1, confusion, f_05_u, rates, vote_weights

S, N = Verdict.SUPPORTED, Verdict.NOT_SUPPORTED
Q, X = Verdict.INCONCLUSIVE, Verdict.INSUFFICIENT
VENDORS = {"A": "alpha", "A2": "alpha", "B": "beta", "C": "gamma"}


def one(
    suspect: str,
    group: str,
    truth: str,
    score: float | None = 0.0,
    *,
    verdict: Verdict = Q,
    log10_lr: float | None = None,
    family: str = "",
    role: str = "student",
    relation: str = "single",
    found: str = "not decided",
) -> Judged:
    """Return a finding; by default a student's, a family of its own, undecided."""
    return Judged(
        ruling=Ruling(
            suspect=suspect,
            group=group,
            verdict=verdict,
            reason="",
            relation=found,
            score=score,
            log10_lr=log10_lr,
            checks={},
        ),
        truth=truth,
        family=family or suspect,
        role=role,
        relation=relation,
        vendor=VENDORS[group],
    )


def row(suspect: str, said: dict[str, tuple[str, float | None]], family: str = "") -> list[Judged]:
    """Return one suspect's findings: truth and score by group."""
    return [
        one(suspect, group, truth, score, family=family) for group, (truth, score) in said.items()
    ]


def of_single(judged: list[Judged]) -> dict[str, float]:
    return rates(judged, alpha=0.05)["by_relation"]["single"]


def negatives(scores: list[float], families: list[str] | None = None) -> list[Judged]:
    """Return unrelated pairs with group A, of controls."""
    names = families or [f"n{place}" for place in range(len(scores))]
    return [
        one(f"c{place}", "A", "negative", score, family=name, role="control", relation="none")
        for place, (score, name) in enumerate(zip(scores, names, strict=True))
    ]


# Attribution.


def test_top_1_is_the_share_of_suspects_whose_likest_group_is_documented():
    judged = [
        *row("hit", {"A": ("positive", 2.0), "B": ("negative", 1.9)}),
        *row("miss", {"A": ("positive", 1.0), "B": ("negative", 1.5), "C": ("unknown", 0.0)}),
        *row("two", {"A": ("positive", -1.0), "B": ("positive", 0.5), "C": ("negative", 0.1)}),
        *row("not asked", {"A": ("negative", 3.0)}),
    ]
    found = of_single(judged)
    assert found["suspects"] == 3
    assert found["top_1"] == found["top_1_vendor"] == pytest.approx(2 / 3)


def test_top_1_of_decidable_leaves_groups_of_unknown_truth_aside():
    judged = row("s", {"A": ("positive", 1.0), "B": ("unknown", 2.0), "C": ("negative", 0.0)})
    found = of_single(judged)
    assert (found["top_1"], found["top_1_vendor"]) == (0.0, 0.0)
    assert found["top_1_of_decidable"] == 1.0


def test_another_group_of_the_same_maker_is_half_right():
    found = of_single(row("s", {"A": ("positive", 1.0), "A2": ("unknown", 2.0)}))
    assert (found["top_1"], found["top_1_vendor"]) == (0.0, 1.0)
    found = of_single(row("s", {"A": ("positive", 1.0), "A2": ("negative", 2.0)}))
    assert (found["top_1_of_decidable"], found["top_1_vendor"]) == (0.0, 1.0)


def test_groups_without_a_score_and_a_suspect_s_own_are_not_the_likest():
    said = {"A": ("positive", 1.0), "B": ("self", 9.0), "C": ("negative", None)}
    assert of_single(row("s", said))["top_1"] == 1.0
    assert of_single(row("s", {"A": ("positive", None), "B": ("negative", -9.0)}))["top_1"] == 0.0
    found = of_single(row("s", {"A": ("positive", None), "B": ("negative", None)}))
    assert (found["top_1"], found["top_1_vendor"], found["auc"]) == (0.0, 0.0, None)


def test_of_groups_as_like_as_each_other_the_first_counts():
    tied = row("s", {"A": ("positive", 1.0), "B": ("negative", 1.0)})
    assert of_single(tied)["top_1"] == 1.0
    assert of_single(tied[::-1])["top_1"] == 0.0


# Scores.


def test_auc_counts_ties_half():
    assert auc(np.array([1.0, 3.0]), np.array([0.0, 1.0, 2.0])) == pytest.approx(4.5 / 6)
    assert auc(np.array([1.0]), np.array([1.0])) == 0.5
    assert auc(np.array([]), np.array([1.0])) is None
    assert auc(np.array([1.0]), np.array([])) is None


@given(st.lists(st.integers(-3, 3), min_size=1), st.lists(st.integers(-3, 3), min_size=1))
def test_auc_equals_its_definition(positive, negative):
    expected = np.mean([(p > n) + (p == n) / 2 for p in positive for n in negative])
    found = auc(np.array(positive, dtype=float), np.array(negative, dtype=float))
    assert found == pytest.approx(expected)


def test_auc_is_pooled_over_groups_and_within_each():
    judged = [
        one("p", "A", "positive", 1.0),
        one("q", "B", "positive", 0.0),
        one("r", "C", "positive", 7.0),  # no negative of its group
        one("s", "A", "positive", None),
        one("n1", "A", "negative", 0.5, relation="none"),
        one("n2", "A", "negative", 2.0, relation="none"),
        one("n3", "B", "negative", -1.0, relation="none"),
        one("n4", "B", "negative", None, relation="none"),
    ]
    found = of_single(judged)
    assert found["auc"] == pytest.approx((2 + 1 + 3) / 9)
    assert found["auc_within_group"] == pytest.approx((0.5 + 1.0) / 2)
    assert rates(judged, alpha=0.05)["auc"] == found["auc"]


def test_a_relation_has_its_own_positives_and_all_negatives():
    judged = [
        one("s", "A", "positive", 1.0),
        one("m", "A", "positive", -1.0, relation="mixed"),
        one("m", "B", "negative", 0.0, relation="mixed"),
        one("c", "A", "negative", 0.5, relation="none"),
        one("u", "A", "unknown", 5.0, relation="undisclosed"),
    ]
    found = rates(judged, alpha=0.05)["by_relation"]
    assert list(found) == ["mixed", "single"]
    assert (found["single"]["auc"], found["mixed"]["auc"]) == (1.0, 0.0)
    assert (found["single"]["top_1"], found["mixed"]["top_1"]) == (1.0, 0.0)
    assert rates(judged, alpha=0.05)["auc"] == 0.5


# True positives at a level of false ones.


def test_tpr_is_the_share_of_suspects_above_what_the_level_of_negatives_exceed():
    # 40 negatives: two of them, 5 %, may be above the bound, which is the third.
    background = negatives([float(score) for score in range(40)])
    judged = [*background]
    for place, score in enumerate((36.9, 37.0, 37.1, 38.5, 39.1)):
        judged += row(f"s{place}", {"A": ("positive", score)})
    found = of_single(judged)
    assert found["tpr_at_5_percent_fpr"] == found["tpr_at_5_percent_fpr_plain"] == 3 / 5
    # Less than one of them is 1 %: none may be above.
    assert found["tpr_at_1_percent_fpr"] == found["tpr_at_1_percent_fpr_plain"] == 1 / 5


def test_the_bound_is_never_exceeded_by_more_negatives_than_the_level_ties_included():
    background = negatives([0.0] * 37 + [5.0] * 3)  # three are tied, and two may be above
    judged = [*background, *row("s", {"A": ("positive", 5.0)}), *row("t", {"A": ("positive", 5.1)})]
    assert of_single(judged)["tpr_at_5_percent_fpr"] == 0.5
    background = negatives([0.0] * 38 + [5.0] * 2)
    judged = [*background, *row("s", {"A": ("positive", 1.0)}), *row("t", {"A": ("positive", 0.0)})]
    assert of_single(judged)["tpr_at_5_percent_fpr"] == 0.5


def test_in_rates_by_family_each_has_one_vote_among_suspects_and_negatives():
    # One family of 20 and 20 of one each: the high family is 1 of 21 votes, and 20 of 40 pairs.
    families = ["big"] * 20 + [f"n{place}" for place in range(20)]
    background = negatives([9.0] * 20 + [0.0] * 20, families)
    judged = [*background]
    for place, score in enumerate((1.0, 1.0, 1.0)):
        judged += row(f"s{place}", {"A": ("positive", score)}, family="kin")
    judged += row("alone", {"A": ("positive", -1.0)})
    found = of_single(judged)
    assert found["tpr_at_5_percent_fpr"] == pytest.approx(1 / 2)  # 1/21 of votes is below 5 %
    assert found["tpr_at_1_percent_fpr"] == 0.0
    assert found["tpr_at_5_percent_fpr_plain"] == 0.0
    judged += row("above all", {"A": ("positive", 9.5)})
    assert of_single(judged)["tpr_at_5_percent_fpr_plain"] == pytest.approx(1 / 5)
    assert of_single(judged)["tpr_at_1_percent_fpr"] == pytest.approx(1 / 3)


def test_a_suspect_of_several_teachers_counts_by_the_likest_of_them():
    background = negatives([0.0] * 20)
    for scores in ((2.0, -1.0), (-1.0, 2.0), (None, 2.0), (2.0, None)):
        said = dict(zip("AB", (("positive", score) for score in scores), strict=True))
        found = of_single([*background, *row("s", said)])
        assert found["tpr_at_1_percent_fpr"] == found["tpr_at_1_percent_fpr_plain"] == 1.0, scores
    found = of_single([*background, *row("s", {"A": ("positive", None), "B": ("negative", 9.0)})])
    assert found["tpr_at_1_percent_fpr"] == 0.0


def test_negatives_without_a_score_have_no_part_in_the_bound():
    judged = negatives([float(score) for score in range(20)])
    judged += row("s", {"A": ("positive", 18.5)}) + row("t", {"A": ("positive", 17.5)})
    before = of_single(judged)
    assert before["tpr_at_5_percent_fpr"] == 0.5
    # Did they share the votes of those that have one, two families could be above.
    for place in range(6):
        kin = f"n{18 + place % 2}"
        judged.append(one(f"m{place}", "A", "negative", None, family=kin, relation="none"))
    assert of_single(judged) == before


def test_a_family_s_pairs_with_one_group_share_a_vote():
    rows = [
        one("a", "A", "negative", family="f"),
        one("b", "A", "negative", family="f"),
        one("a", "B", "negative", family="f"),
        one("c", "A", "negative", family="g"),
    ]
    assert vote_weights(rows) == [0.5, 0.5, 1.0, 1.0]
    assert vote_weights([]) == []


# Verdicts.


def verdicts(truth: str, *said: Verdict) -> list[Judged]:
    return [one(f"s{place}", "A", truth, verdict=verdict) for place, verdict in enumerate(said)]


def test_c_at_1_gives_silence_the_share_of_right_answers():
    # 3 right, 1 wrong, 2 + 2 silent of 8: (3 + 4 * 3 / 8) / 8
    rows = verdicts("positive", S, S, S, N, Q, Q, X, X)
    assert c_at_1(rows, S) == pytest.approx(4.5 / 8)
    assert c_at_1(rows, N) == pytest.approx((1 + 4 / 8) / 8)
    assert c_at_1(verdicts("positive", Q, X), S) == 0.0
    assert c_at_1(verdicts("positive", S), S) == 1.0
    assert c_at_1([], S) is None


def test_f_05_u_counts_a_false_finding_four_times_a_missed_one():
    positive, negative = verdicts("positive", S, S, S, N, Q, X), verdicts("negative", S, N, N)
    assert f_05_u(positive, negative) == pytest.approx(3.75 / (3.75 + 0.75 + 1))
    silent = verdicts("negative", S, N, Q, X)
    assert f_05_u(positive, silent) == pytest.approx(3.75 / (3.75 + 0.75 + 0.5 + 1))
    assert f_05_u(positive, []) == pytest.approx(3.75 / 4.5)
    assert f_05_u(verdicts("positive", N), []) == 0.0
    assert f_05_u([], verdicts("negative", S)) == 0.0
    assert f_05_u([], []) is None
    assert f_05_u([], verdicts("negative", N)) is None


def test_verdicts_are_counted_by_truth():
    judged = [
        *verdicts("positive", S, S, N, Q),
        *verdicts("negative", S, N, N, X),
        *verdicts("unknown", S, Q, Q),
        *verdicts("self", S),
    ]
    found = rates(judged, alpha=0.05)
    assert found["verdicts"] == {
        "positive": {"SUPPORTED": 2, "NOT_SUPPORTED": 1, "INCONCLUSIVE": 1, "INSUFFICIENT": 0},
        "negative": {"SUPPORTED": 1, "NOT_SUPPORTED": 2, "INCONCLUSIVE": 0, "INSUFFICIENT": 1},
        "unknown": {"SUPPORTED": 1, "NOT_SUPPORTED": 0, "INCONCLUSIVE": 2, "INSUFFICIENT": 0},
    }
    assert found["pairs"] == {
        "all": 12,
        "positive": 4,
        "negative": 4,
        "without_a_known_truth": 4,
    }
    assert found["suspects"] == 4
    assert found["coverage"] == 6 / 8
    assert found["c_at_1"]["positive"] == pytest.approx((2 + 2 / 4) / 4)
    assert found["c_at_1"]["negative"] == pytest.approx((2 + 2 / 4) / 4)
    assert found["c_at_1"]["mean"] == pytest.approx(2.5 / 4)
    assert found["f_05_u"] == pytest.approx(2.5 / (2.5 + 0.5 + 0.25 + 1))


def test_false_findings_are_counted_by_the_suspect_s_role():
    judged = [
        one("c", "A", "negative", verdict=S, role="control"),
        one("c", "B", "negative", verdict=S, role="control"),
        one("v", "A", "negative", verdict=S, role="vendor"),
        one("v", "B", "negative", verdict=Q, role="vendor"),
        one("s", "A", "positive", verdict=S),
        one("t", "A", "unknown", verdict=S, role="teacher"),
    ]
    assert rates(judged, alpha=0.05)["false_supported"] == {
        "control": 2,
        "vendor": 1,
        "teacher": 0,
        "student": 0,
    }


def test_a_suspect_is_supported_by_one_teacher_and_called_unsupported_only_by_all():
    judged = [
        one("both", "A", "positive", verdict=S),
        one("both", "B", "positive", verdict=N),
        one("none", "A", "positive", verdict=N),
        one("none", "B", "positive", verdict=N),
        one("open", "A", "positive", verdict=N),
        one("open", "B", "positive", verdict=Q),
        one("wrong", "A", "positive", verdict=Q),
        one("wrong", "B", "negative", verdict=S),
    ]
    found = of_single(judged)
    assert (found["suspects"], found["supported"], found["called_not_supported"]) == (4, 1, 1)


def test_relations_found_stand_beside_documented_ones():
    judged = [
        one("s", "A", "positive", verdict=S, found="trained on its outputs"),
        one("t", "A", "positive", verdict=S, found="trained on its outputs"),
        one("t", "B", "positive", verdict=Q, found="not decided"),
        one("t", "C", "negative", verdict=S, found="trained on its outputs"),
        one("d", "A", "positive", verdict=S, relation="derivative", found="same weights"),
        one("d", "B", "unknown", verdict=S, relation="derivative", found="same weights"),
        one("e", "A", "positive", verdict=N, relation="edited", found="no relation found"),
    ]
    assert confusion(judged) == {
        "single": {"trained on its outputs": 2, "INCONCLUSIVE": 1},
        "derivative": {"same weights": 1},
        "edited": {"NOT_SUPPORTED": 1},
    }
    assert confusion([]) == {}


# Likelihood ratios.


def ratios(truth: str, *said: float | None) -> list[Judged]:
    return [one(f"s{place}", "A", truth, log10_lr=value) for place, value in enumerate(said)]


def test_brier_is_the_error_of_probabilities_at_even_odds_each_side_half():
    # LR 9 is .9, LR 1 is .5, LR 1/4 is .2
    judged = [
        *ratios("positive", math.log10(9), 0.0, None),
        *ratios("negative", -math.log10(4)),
    ]
    positive, negative = (0.1**2 + 0.5**2) / 2, 0.2**2
    assert rates(judged, alpha=0.05)["brier"] == pytest.approx((positive + negative) / 2)


def test_cllr_is_the_cost_in_bits_each_side_half():
    judged = [*ratios("positive", math.log10(3), 0.0), *ratios("negative", math.log10(7), None)]
    positive, negative = (math.log2(4 / 3) + 1) / 2, math.log2(8)
    assert rates(judged, alpha=0.05)["cllr"] == pytest.approx((positive + negative) / 2)


def test_saying_nothing_costs_one_bit_and_a_quarter():
    found = rates([*ratios("positive", 0.0), *ratios("negative", 0.0, 0.0)], alpha=0.05)
    assert (found["cllr"], found["brier"]) == (1.0, 0.25)


@pytest.mark.parametrize("side", ["positive", "negative"])
def test_without_ratios_on_both_sides_there_is_no_cost(side):
    found = rates(
        [*ratios(side, 1.0), *verdicts("positive", Q), *verdicts("negative", Q)], alpha=0.05
    )
    assert (found["cllr"], found["brier"]) == (None, None)


# What is not known, and what is not there.


def test_a_pair_of_unknown_truth_counts_for_nothing():
    judged = [
        *row("s", {"A": ("positive", 1.0), "B": ("negative", -1.0), "C": ("unknown", 0.0)}),
        *negatives([0.0, 2.0, -1.0]),
    ]
    before = rates(judged, alpha=0.05)
    place = next(place for place, found in enumerate(judged) if found.truth == "unknown")
    for verdict in Verdict:
        for score in (-9.0, 0.9, None):
            ruling = replace(judged[place].ruling, verdict=verdict, score=score, log10_lr=2.0)
            changed = [*judged]
            changed[place] = replace(judged[place], ruling=ruling)
            after = rates(changed, alpha=0.05)
            assert after["verdicts"].pop("unknown")[verdict.value] == 1
            assert after == {
                **before,
                "verdicts": {k: v for k, v in before["verdicts"].items() if k != "unknown"},
            }


def test_a_suspect_with_no_documented_teacher_is_no_miss():
    judged = [*row("s", {"A": ("positive", 1.0)}), *negatives([0.0])]
    before = of_single(judged)
    judged += row("t", {"A": ("unknown", 5.0), "B": ("negative", -1.0)})
    after = of_single(judged)
    assert (after["suspects"], after["top_1"]) == (before["suspects"], before["top_1"]) == (1, 1.0)


@pytest.mark.parametrize(
    "judged",
    [
        [],
        verdicts("unknown", S, N),
        verdicts("self", S),
        verdicts("positive", S),
        verdicts("negative", N),
        row("s", {"A": ("positive", None), "B": ("negative", None)}),
    ],
)
def test_what_cannot_be_measured_is_none_and_nothing_fails(judged):
    found = rates(judged, alpha=0.05)
    assert (found["auc"], found["brier"], found["cllr"]) == (None, None, None)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["pairs"]["all"] == len(judged)
    if not {one.truth for one in judged} & {"positive", "negative"}:
        assert (found["coverage"], found["f_05_u"], found["by_relation"]) == (None, None, {})
        assert set(found["c_at_1"].values()) == {None}
