"""How often intervals of nominal 95 % hold the true difference, by documents and kind of scatter.

    python tests/campaigns/intervals.py --json PATH

Held-out text: documents of 1 to 7 windows, whose differences are normal, skewed (exponential) or
heavy-tailed (Student's t with 3 degrees of freedom) between documents and normal within. Tasks:
paired right and wrong answers. The same of any width would hold 0.95. Some minutes on a core.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from distill.evaluation.intervals import compare, compare_accuracy

RUNS = 1000
DOCUMENTS = (8, 30, 100)
ITEMS = (20, 100, 400)
KINDS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, count: rng.normal(0, 1, count),
    "skewed": lambda rng, count: rng.exponential(1, count) - 1,
    "heavy": lambda rng, count: rng.standard_t(3, count),
}


def of_text(kind: str, count: int) -> float:
    """Return the share of intervals over documents that hold 0, the true difference."""
    held = 0
    for run in range(RUNS):
        rng = np.random.default_rng((run, count))
        clusters = np.repeat(np.arange(count), rng.integers(1, 8, count))
        differences = KINDS[kind](rng, count)[clusters] + rng.normal(0, 0.5, len(clusters))
        made = compare(differences, np.zeros(len(clusters)), clusters, seed=run)
        held += made.low <= 0 <= made.high
    return held / RUNS


def of_tasks(count: int, student: float, teacher: float) -> float:
    """Return the share of intervals that hold the true difference of two accuracies."""
    held = 0
    for run in range(RUNS):
        rng = np.random.default_rng((run, count, 1))
        right = [rng.random(count) < share for share in (student, teacher)]
        made = compare_accuracy(*(one.tolist() for one in right))
        held += made.low <= student - teacher <= made.high
    return held / RUNS


def main() -> None:
    """Simulate, and write the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    figures = {f"text_{kind}_{n}": of_text(kind, n) for kind in KINDS for n in DOCUMENTS}
    for count in ITEMS:
        for student, teacher in ((0.5, 0.8), (0.9, 0.95)):
            name = f"tasks_{count}_of_{student:g}_and_{teacher:g}"
            figures[name] = of_tasks(count, student, teacher)
    given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
