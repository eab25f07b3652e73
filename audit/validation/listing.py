"""Rates in a few lines of plain text, for a terminal."""

from collections.abc import Mapping
from typing import Any


def summary(metrics: Mapping[str, Any]) -> list[str]:
    """Return what a person wants to know first, a line each."""
    pairs, false = metrics["pairs"], metrics["false_supported"]
    lines = [
        f"{metrics['suspects']} suspects, {pairs['all']} pairs: {pairs['positive']} documented "
        f"positives, {pairs['negative']} documented negatives",
        "false SUPPORTED: " + ", ".join(f"{count} on {role}s" for role, count in false.items()),
    ]
    for relation, row in metrics["by_relation"].items():
        lines.append(
            f"{relation}: {row['supported']} of {row['suspects']} SUPPORTED, top-1 "
            f"{_share(row['top_1'])}, AUC {_share(row['auc'])}"
        )
    for row in metrics["calibration"]:
        if row["name"] == "all":
            lines.append(
                f"p <= {row['alpha']:g} for {row['share']:.1%} of documented negatives (95 %: "
                f"{row['low']:.1%} to {row['high']:.1%})"
            )
    lines.append(f"coverage {_share(metrics['coverage'])}, c@1 {_share(metrics['c_at_1']['mean'])}")
    return lines


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
