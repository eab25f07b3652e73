"""What a student learns from each kind of stored signal, beside the teacher's exact states.

`quick-scratch` on three seeds, taught from `hidden` (exact), `head_tail`, and `topk` and `sampled`
at about the bytes of `head_tail`. Everything else is equal, and held-out KL is against the exact
teacher. The text is read once, and once more twice: the second reading meets the same draws, which
a student may learn by heart. Its student is dense here, as routing that tips over would hide what
signals do; how far runs part by themselves is told by exact ones whose learning rate is a 20,000th
higher. Stores are captured once and shared; a stopped campaign goes on.

    python tests/campaigns/signals.py --work runs/campaign/signals --json runs/signals.json
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from distill.resources import shipped

SEEDS = (1, 2, 3)
STEPS = {"once": 45, "twice": 90}  # of 2,048 of its 93,184 tokens
DENSE = ["student.num_dense_layers=4"]
# What makes about 120 bytes a token of this teacher and text, as is printed with the figures.
MODES: dict[str, list[str]] = {
    "hidden": ["signal.mode=hidden"],
    "hidden_again": ["signal.mode=hidden", "optimizer.learning_rate=0.0020001"],
    "head_tail": ["signal.mode=head_tail"],
    "head_12_tail_32": ["signal.head=12", "signal.tail=32"],
    "topk": ["signal.mode=topk", "signal.head=29"],
    "sampled": ["signal.mode=sampled", "signal.tail=140"],
}


def train(work: Path, mode: str, steps: int, seed: int) -> dict[str, Any]:
    """Return the evaluation of one run, which is finished first if it is not yet."""
    out = work / f"{mode}-{steps}-{seed}"
    place = json.dumps(str(work / f"s-{mode.removesuffix('_again')}"))
    settings = [*DENSE, *MODES[mode], f"train.steps={steps}", f"seed={seed}"]
    settings.append(f"signal.path={place}")
    arguments = [part for setting in settings for part in ("-s", setting)]
    code = "from cli.distill_app import main; main()"
    preset = str(shipped("presets/quick-scratch.yaml"))
    command = [sys.executable, "-c", code, "run", preset, *arguments, "--out", str(out), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    evaluation: dict[str, Any] = json.loads(done.stdout)
    return evaluation


def bytes_a_token(work: Path, mode: str) -> float:
    """Return the size of a store's files over its positions."""
    (manifest,) = work.glob(f"s-{mode}/*/train/manifest.json")
    tokens = sum(row["tokens"] for row in json.loads(manifest.read_text())["shards"])
    return sum(path.stat().st_size for path in manifest.parent.iterdir()) / tokens


def main() -> None:
    """Run what is missing, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    figures: dict[str, float] = {}
    for readings, steps in STEPS.items():
        for seed, mode in itertools.product(SEEDS, MODES):
            after = train(given.work, mode, steps, seed)["after"]
            for name in ("kl", "top1_agreement", "bits_per_byte"):
                figures[f"{readings}_{mode}_seed{seed}_{name}"] = after[name]
            print(f"{readings}, {seed}, {mode}: held-out KL {after['kl']:.4f}", file=sys.stderr)
        for mode in list(MODES)[1:]:
            gaps = [
                figures[f"{readings}_{mode}_seed{seed}_kl"]
                / figures[f"{readings}_hidden_seed{seed}_kl"]
                - 1
                for seed in SEEDS
            ]
            figures[f"{readings}_{mode}_kl_above_exact_mean"] = statistics.fmean(gaps)
            figures[f"{readings}_{mode}_kl_above_exact_least"] = min(gaps)
            figures[f"{readings}_{mode}_kl_above_exact_most"] = max(gaps)
    for mode in MODES:
        if not mode.startswith("hidden"):
            figures[f"{mode}_bytes_a_token"] = bytes_a_token(given.work, mode)
    given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
