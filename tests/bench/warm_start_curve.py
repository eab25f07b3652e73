"""What more text gives to a student of a part of its teacher's cache, and where that flattens.

    python tests/bench/warm_start_curve.py --json PATH --novels DIR [--plan NAME] [--seed N]

One student, fitted on 24,576 tokens as `trained` of `warm_start.py`, and taught as there, in
parts: each begins where the one before it ended, at the full rate, lets it fall over its last
third, and is measured on the sets of `warm_start.py`. Half of each step is of the help topics,
half of the novels; the topics are soon read, and are read again. One thread.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path

# Python looks beside a script first, and there `student` is another benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from student.warm_start import calibration
from tests.bench import teaching, warm_start
from tests.bench.warm_start import LENGTH, TAUGHT_FITTED, Bench

STEPS = (0, 48, 96, 192, 288, 384, 640, 928)  # after which is measured


def curve(bench: Bench, plan: str, seed: int) -> None:
    """Fit a student, teach it, and measure it along the way."""
    seen = calibration.watch(bench.model, bench.fit_text(TAUGHT_FITTED, seed))
    student, _ = bench.begun(plan, seen)
    name = f"{plan}_seed{seed}"
    bench.measure(student, f"{name}_{TAUGHT_FITTED * LENGTH}")
    taught = teaching.Taught(student, bench.dense.embed_VD)
    text_BS, order_N = bench.lessons(STEPS[-1] * teaching.ROWS, 100 + seed)
    said_BSD = torch.empty(*text_BS.shape, bench.dense.numbers.hidden_size)
    heard: set[int] = set()
    for begin, end in itertools.pairwise(STEPS):
        part_N = order_N[begin * teaching.ROWS : end * teaching.ROWS]
        new = sorted(set(part_N.tolist()) - heard)
        said_BSD[new] = teaching.signal(bench.model, text_BS[new])
        heard.update(new)
        began = time.process_time()
        taught.learn(text_BS[part_N], said_BSD[part_N], teaching.level(end - begin))
        tokens = (TAUGHT_FITTED + end * teaching.ROWS) * LENGTH
        bench.add(f"{name}_{tokens}_train_cpu_seconds", time.process_time() - began)
        bench.measure(student, f"{name}_{tokens}")


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--novels", type=Path, required=True)
    parser.add_argument("--plan", choices=warm_start.PLANS, default="cache25")
    parser.add_argument("--seed", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    curve(Bench(warm_start.texts(given.novels), given.json), given.plan, given.seed)


if __name__ == "__main__":
    main()
