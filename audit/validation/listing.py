"""Rates in a few lines of plain text, for a terminal."""

import json


def summary(metrics: dict[str, object]) -> list[str]:
    """Return what a person wants to know first, a line each."""
    text = json.loads(json.dumps(metrics))
    pairs, false = text["pairs"], text["false_supported"]
    lines = [
        f"{text['suspects']} suspects, {pairs['all']} pairs: {pairs['positive']} documented "
        f"positives, {pairs['negative']} documented negatives",
        "false SUPPORTED: " + ", ".join(f"{count} on {role}s" for role, count in false.items()),
    ]
    for relation, row in text["by_relation"].items():
        lines.append(
            f"{relation}: {row['supported']} of {row['suspects']} SUPPORTED, top-1 "
            f"{_share(row['top_1'])}, AUC {_share(row['auc'])}"
        )
    for row in text["calibration"]:
        if row["name"] == "all":
            lines.append(
                f"p <= {row['alpha']:g} for {row['share']:.1%} of documented negatives (95 %: "
                f"{row['low']:.1%} to {row['high']:.1%})"
            )
    lines.append(f"coverage {_share(text['coverage'])}, c@1 {_share(text['c_at_1']['mean'])}")
    return lines


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
