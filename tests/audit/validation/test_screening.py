"""What a screening names, beside Benjamini and Hochberg's procedure worked out by hand."""

from audit.evidence import Verdict
from audit.lineup.ruling import Ruling
from audit.validation.judged import Judged
from audit.validation.rates import rates
from audit.validation.screening import screening


def found(
    suspect: str, group: str, truth: str, p_value: float | None, *, tested: bool = True
) -> Judged:
    return Judged(
        ruling=Ruling(
            suspect=suspect,
            group=group,
            verdict=Verdict.INCONCLUSIVE,
            reason="",
            relation="not decided",
            p_value=p_value,
            tested=tested,
            checks={},
        ),
        truth=truth,
        family=suspect,
        role="student",
        relation="single",
        vendor=group,
    )


def test_a_screening_names_pairs_at_a_false_discovery_rate():
    judged = [
        found("s1", "A", "positive", 0.001),
        found("s1", "B", "negative", 0.9),
        found("s2", "A", "negative", 0.8),
        found("s2", "B", "negative", 0.02),
        found("s3", "A", "unknown", 0.01),
        found("s3", "B", "positive", 0.6),
        found("silent", "A", "positive", None),
        found("sibling", "A", "unknown", 0.0001, tested=False),
    ]
    # 6 x .001 / 1, 6 x .01 / 2, 6 x .02 / 3, 6 x .6 / 4: the first three are at most .05.
    assert screening(judged, 0.05) == {
        "level": 0.05,
        "pairs": 6,
        "named": 3,
        "suspects": 3,
        "positive": 1,
        "negative": 1,
        "unknown": 1,
    }
    assert screening(judged, 0.029)["named"] == 1
    assert rates(judged, alpha=0.05)["screening"] == screening(judged, 0.05)


def test_nothing_is_screened_where_nobody_has_a_p_value():
    assert screening([found("silent", "A", "positive", None)], 0.05)["pairs"] == 0
