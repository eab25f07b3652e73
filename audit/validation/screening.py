"""What an audit of many suspects at once would name, at a false discovery rate.

Benjamini and Hochberg's procedure (1995) over the p-values of all pairs that the answers can
decide; ranks among common references bear it (Bates et al., 2023). Named pairs are candidates for
an audit of their own, which asks for more than a p-value.
"""

from collections.abc import Sequence

from scipy import stats

from audit.validation.judged import Judged

_NAMED_BY = ("positive", "negative", "unknown")


def screening(judged: Sequence[Judged], level: float) -> dict[str, float | int]:
    """Return how many pairs are named, of how many, and what documents say of those named.

    Args:
        judged: every finding beside its truth.
        level: the share of those named that may be unrelated, in the mean.
    """
    asked = [one for one in judged if one.ruling.tested and one.ruling.p_value is not None]
    p_values = [one.ruling.p_value or 0.0 for one in asked]
    adjusted = stats.false_discovery_control(p_values, method="bh") if p_values else []
    named = [one for one, q in zip(asked, adjusted, strict=True) if q <= level]
    return {
        "level": level,
        "pairs": len(asked),
        "named": len(named),
        "suspects": len({one.ruling.suspect for one in named}),
        **{truth: sum(one.truth == truth for one in named) for truth in _NAMED_BY},
    }
