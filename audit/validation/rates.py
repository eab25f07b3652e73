"""How often an audit is right, wrong and silent, from verdicts whose truth is documented.

Pairs whose truth is unknown count as neither right nor wrong. Of c@1 and F0.5u (PAN 2022; Penas and
Rodrigo, 2011; Bevendorff et al., 2020) unanswered pairs are those INCONCLUSIVE or INSUFFICIENT; of
Cllr (Bruemmer and du Preez, 2006) pairs without a likelihood ratio are left out.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from audit.evidence import Verdict
from audit.lineup.standing import Array
from audit.validation.judged import Judged, score_of
from audit.validation.screening import screening

ANSWERED = (Verdict.SUPPORTED, Verdict.NOT_SUPPORTED)


def rates(judged: Sequence[Judged], *, alpha: float) -> dict[str, Any]:
    """Return every rate as plain data: what `metrics.json` holds.

    Args:
        judged: every finding beside its truth.
        alpha: level of a finding, and of screening.
    """
    decidable = [one for one in judged if one.truth in ("positive", "negative")]
    positive = [one for one in decidable if one.truth == "positive"]
    negative = [one for one in decidable if one.truth == "negative"]
    relations = sorted({one.relation for one in positive})
    return {
        "pairs": {
            "all": len(judged),
            "positive": len(positive),
            "negative": len(negative),
            "without_a_known_truth": len(judged) - len(decidable),
        },
        "suspects": len({one.ruling.suspect for one in judged}),
        "verdicts": _verdicts(judged),
        "by_relation": {name: _relation(name, judged, negative) for name in relations},
        "false_supported": _false_supported(negative),
        "coverage": _share(decidable, lambda one: one.ruling.verdict in ANSWERED),
        "c_at_1": {
            "positive": c_at_1(positive, Verdict.SUPPORTED),
            "negative": c_at_1(negative, Verdict.NOT_SUPPORTED),
            "mean": _mean(
                [c_at_1(positive, Verdict.SUPPORTED), c_at_1(negative, Verdict.NOT_SUPPORTED)]
            ),
        },
        "f_05_u": f_05_u(positive, negative),
        "auc": auc(_scores(positive), _scores(negative)),
        "brier": _brier(positive, negative),
        "cllr": _cllr(positive, negative),
        "screening": screening(judged, alpha),
    }


def _verdicts(judged: Sequence[Judged]) -> dict[str, dict[str, int]]:
    """Return how many findings of each truth came to each verdict."""
    return {
        truth: {
            verdict.value: sum(
                one.truth == truth and one.ruling.verdict is verdict for one in judged
            )
            for verdict in Verdict
        }
        for truth in ("positive", "negative", "unknown")
    }


def _false_supported(negative: Sequence[Judged]) -> dict[str, int]:
    """Return how many documented negatives are SUPPORTED, by the suspect's role."""
    return {
        role: sum(one.role == role and one.ruling.verdict is Verdict.SUPPORTED for one in negative)
        for role in ("control", "vendor", "teacher", "student")
    }


def _relation(
    name: str, judged: Sequence[Judged], negative: Sequence[Judged]
) -> dict[str, float | int | None]:
    """Return the rates of suspects of one relation to their teachers."""
    by_suspect: dict[str, list[Judged]] = {}
    for one in judged:
        if one.relation == name:
            by_suspect.setdefault(one.ruling.suspect, []).append(one)
    suspects = [
        rows for rows in by_suspect.values() if any(one.truth == "positive" for one in rows)
    ]
    positive = [one for rows in suspects for one in rows if one.truth == "positive"]
    return {
        "suspects": len(suspects),
        "top_1": _mean([_top_1(rows) for rows in suspects]),
        "top_1_vendor": _mean([_top_1_vendor(rows) for rows in suspects]),
        "top_1_of_decidable": _mean(
            [_top_1([one for one in rows if one.truth != "unknown"]) for rows in suspects]
        ),
        "auc": auc(_scores(positive), _scores(negative)),
        "auc_within_group": _auc_within(positive, negative),
        "tpr_at_5_percent_fpr": _tpr(suspects, negative, 0.05, by_family=True),
        "tpr_at_1_percent_fpr": _tpr(suspects, negative, 0.01, by_family=True),
        "tpr_at_5_percent_fpr_plain": _tpr(suspects, negative, 0.05, by_family=False),
        "tpr_at_1_percent_fpr_plain": _tpr(suspects, negative, 0.01, by_family=False),
        "supported": sum(
            any(one.truth == "positive" and one.ruling.verdict is Verdict.SUPPORTED for one in rows)
            for rows in suspects
        ),
        "called_not_supported": sum(
            all(
                one.ruling.verdict is Verdict.NOT_SUPPORTED
                for one in rows
                if one.truth == "positive"
            )
            for rows in suspects
        ),
    }


def _top(rows: Sequence[Judged]) -> Judged | None:
    scored = [one for one in rows if one.truth != "self" and one.ruling.score is not None]
    return max(scored, key=score_of, default=None)


def _top_1(rows: Sequence[Judged]) -> float:
    """Return whether the highest-scoring group is a documented one."""
    top = _top(rows)
    return float(top is not None and top.truth == "positive")


def _top_1_vendor(rows: Sequence[Judged]) -> float:
    """Return whether the highest-scoring group is of a documented teacher's maker."""
    top = _top(rows)
    makers = {one.vendor for one in rows if one.truth == "positive"}
    return float(top is not None and top.vendor in makers)


def _tpr(
    suspects: Sequence[Sequence[Judged]],
    negative: Sequence[Judged],
    level: float,
    *,
    by_family: bool,
) -> float | None:
    """Return the share of suspects, a family one vote, above what `level` of negatives exceed."""
    bound = _exceeded(negative, level, by_family=by_family)
    if bound is None or not suspects:
        return None
    families = [rows[0].family for rows in suspects]
    weight = [1 / families.count(family) if by_family else 1.0 for family in families]
    best = [
        max(_scores([one for one in rows if one.truth == "positive"]), default=math.nan)
        for rows in suspects
    ]
    hit = sum(w for w, score in zip(weight, best, strict=True) if score > bound)
    return hit / sum(weight)


def _exceeded(negative: Sequence[Judged], level: float, *, by_family: bool) -> float | None:
    """Return the score that `level` of negatives exceed."""
    scored = [one for one in negative if one.ruling.score is not None]
    if not scored:
        return None
    weights = vote_weights(scored) if by_family else [1.0] * len(scored)
    pairs = [(score_of(one), w) for one, w in zip(scored, weights, strict=True)]
    total, passed = sum(w for _, w in pairs), 0.0
    for score, weight in sorted(pairs, reverse=True):
        passed += weight
        if passed > level * total:
            return score
    return min(pairs)[0]


def vote_weights(rows: Sequence[Judged]) -> list[float]:
    """Return a weight for each, so that a family's pairs with one group share one vote."""
    keys = [(one.family, one.ruling.group) for one in rows]
    count = {key: 0 for key in keys}
    for key in keys:
        count[key] += 1
    return [1 / count[key] for key in keys]


def _auc_within(positive: Sequence[Judged], negative: Sequence[Judged]) -> float | None:
    """Return the mean AUC of each positive against the negatives of its own group."""
    found = []
    for one in positive:
        group = [other for other in negative if other.ruling.group == one.ruling.group]
        value = auc(_scores([one]), _scores(group))
        if value is not None:
            found.append(value)
    return _mean(found)


def auc(positive: Array, negative: Array) -> float | None:
    """Return the chance that a positive scores above a negative, ties half; None without both."""
    if not len(positive) or not len(negative):
        return None
    ranks = stats.rankdata(np.concatenate([positive, negative]))
    above = ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2
    return float(above / (len(positive) * len(negative)))


def _scores(rows: Sequence[Judged]) -> Array:
    return np.array([score_of(one) for one in rows if one.ruling.score is not None])


def c_at_1(rows: Sequence[Judged], right: Verdict) -> float | None:
    """Return c@1: right answers, and of the unanswered the share that would be right."""
    if not rows:
        return None
    correct = sum(one.ruling.verdict is right for one in rows)
    silent = sum(one.ruling.verdict not in ANSWERED for one in rows)
    return (correct + silent * correct / len(rows)) / len(rows)


def f_05_u(positive: Sequence[Judged], negative: Sequence[Judged]) -> float | None:
    """Return F0.5u: precision before recall, where silence, on either side, counts as a miss."""
    hit = sum(one.ruling.verdict is Verdict.SUPPORTED for one in positive)
    missed = len(positive) - hit + sum(one.ruling.verdict not in ANSWERED for one in negative)
    false = sum(one.ruling.verdict is Verdict.SUPPORTED for one in negative)
    bottom = 1.25 * hit + 0.25 * missed + false
    return 1.25 * hit / bottom if bottom else None


def _brier(positive: Sequence[Judged], negative: Sequence[Judged]) -> float | None:
    """Return the mean squared error of probabilities at even odds, each side half the weight."""
    sides = [
        _mean([(_probability(x) - target) ** 2 for x in _ratios(rows)])
        for rows, target in ((positive, 1.0), (negative, 0.0))
    ]
    return _mean(sides)


def _probability(log10_lr: float) -> float:
    return 1 / (1 + 10**-log10_lr)


def _cllr(positive: Sequence[Judged], negative: Sequence[Judged]) -> float | None:
    """Return the log-likelihood-ratio cost in bits; 1 is that of saying nothing."""
    sides = [
        _mean([math.log2(1 + 10 ** (sign * x)) for x in _ratios(rows)])
        for rows, sign in ((positive, -1.0), (negative, 1.0))
    ]
    return _mean(sides)


def _ratios(rows: Sequence[Judged]) -> list[float]:
    return [one.ruling.log10_lr for one in rows if one.ruling.log10_lr is not None]


def _share(rows: Sequence[Judged], holds: Callable[[Judged], bool]) -> float | None:
    return _mean([float(holds(one)) for one in rows])


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None where there is nothing, or a part of it is missing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def confusion(judged: Sequence[Judged]) -> Mapping[str, Mapping[str, int]]:
    """Return how suspects of each documented relation were found related, by finding.

    Of documented positives; those not SUPPORTED are counted by their verdict.
    """
    table: dict[str, dict[str, int]] = {}
    for one in judged:
        if one.truth != "positive":
            continue
        row = table.setdefault(one.relation, {})
        supported = one.ruling.verdict is Verdict.SUPPORTED
        name = one.ruling.relation if supported else one.ruling.verdict.value
        row[name] = row.get(name, 0) + 1
    return table
