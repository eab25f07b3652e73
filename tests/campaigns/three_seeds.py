"""Does the audit say the same of three students and never accuse a control?

`python tests/campaigns/three_seeds.py --work DIR --json PATH`: for each seed a student of
`quick-scratch` and three controls from seeds of their own, then `audit probe`. Students share the
teacher's signals. Half an hour on two cores, so not a test: `make campaign`.
"""

import argparse
import json
from pathlib import Path

from audit.config import AuditConfig
from audit.evidence import Finding
from audit.probe import probe
from distill.config import load
from distill.resources import shipped
from distill.run import control_of, run
from distill.teachers import embedded

# Seeds 0 to 4 were looked at while the probe was made; these were not.
SEEDS = (100, 200, 300)
CONTROLS = 3


def say(sentence: str) -> None:
    """Print one sentence."""
    print(sentence, flush=True)


def progress(stage: str, done: int, total: int, note: str) -> None:
    """Print the end of each stage."""
    if done == total:
        say(f"{stage}: {total:,} {note}")


def one_seed(work: Path, seed: int) -> dict[str, object]:
    """Return what came of the student of `seed` and its controls."""
    home = work / f"seed-{seed}"
    shared = [f"seed={seed}", f"signal.path={work / 'signals'}"]
    student = run(
        load(shipped("presets/quick-scratch.yaml"), shared),
        home / "student",
        say=say,
        progress=progress,
    )
    controls = {}
    for number in range(1, CONTROLS + 1):
        control = control_of(home / "student", seed=seed + number)
        controls[f"control-{number}"] = run(
            control, home / f"control-{number}", say=say, progress=progress
        )
    asked = AuditConfig(
        suspect=str(home / "student"),
        teachers={embedded.NAME: str(embedded.ensure(say))},
        controls={name: str(outcome.out) for name, outcome in controls.items()},
    )
    report = probe(asked, home / "audit", command="", say=say, progress=progress).report
    return {
        "student": student.evaluation["after"],
        "student_before": student.evaluation["before"],
        "controls": {name: outcome.evaluation["after"] for name, outcome in controls.items()},
        "findings": [_row(finding) for finding in (*report.findings, *report.controls.findings)],
    }


def _row(finding: Finding) -> dict[str, object]:
    levels = {level.unit: level.p_value for level in finding.probes[0].replication}
    return {
        "model": finding.suspect,
        "verdict": str(finding.verdict),
        "score": finding.score,
        "low": finding.low,
        "high": finding.high,
        "p_adjusted": finding.p_adjusted,
        "log10_lr": finding.log10_lr,
        **{f"p_{unit}": p for unit, p in levels.items()},
    }


def main() -> None:
    """Run the campaign and write its figures; exit 1 on a missed student or an accused control."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    result = {f"seed_{seed}": one_seed(options.work, seed) for seed in SEEDS}
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    verdicts = [(row["model"], row["verdict"]) for r in result.values() for row in r["findings"]]  # type: ignore[attr-defined]
    missed = [v for model, v in verdicts if model == "suspect" and v != "SUPPORTED"]
    accused = [v for model, v in verdicts if model != "suspect" and v == "SUPPORTED"]
    raise SystemExit(1 if missed or accused else 0)


if __name__ == "__main__":
    main()
