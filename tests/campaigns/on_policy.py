"""Does it matter whose text a student learns from, for as many tokens?

`python tests/campaigns/on_policy.py --work DIR --json PATH`: a teacher that sorts digits, and for
each seed one student a way. Two read what the teacher wrote, by forward or by reverse KL. Two begin
like the first; then half of the rows, or all, are what they write themselves, by reverse KL. A row
of either kind is a question with its answer, so all ways see about as many tokens. Written down are
held-out KL both ways and right answers over the tokens seen, and seconds; nothing is claimed.
Minutes, so not a test: `make campaign`.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers.utils import logging

from distill.config import RunConfig
from distill.loss.objective import Divergence, Router
from distill.run import run
from tests.campaigns import two_teachers
from tests.campaigns.two_teachers import HELD_OUT, Watch, say
from tests.fakes import skills
from tests.fakes.skills import SORT

SEEDS = (1, 2, 3)
BALANCE = Router(kind="balance", weight=1e-4)


@dataclass(frozen=True)
class Way:
    """What a student learns from: the share of rows it writes, and the divergence on text."""

    fraction: float
    text: Divergence


WAYS = {
    "off-policy-forward": Way(0.0, Divergence(kind="forward_kl")),
    "off-policy-reverse": Way(0.0, Divergence(kind="reverse_kl")),
    "half-on-policy": Way(0.5, Divergence(kind="forward_kl", on="text")),
    "on-policy": Way(1.0, Divergence(kind="forward_kl", on="text")),
}


def settings(config: RunConfig, name: str, beside: tuple[str, ...]) -> RunConfig:
    """Return the run of one way, of the two teachers' run with the sorting one alone."""
    way = WAYS[name]
    own = (Divergence(kind="reverse_kl", on="own"),) if way.fraction else ()
    place = [teacher.tags for teacher in config.teachers].index((SORT.name,))
    return replace(
        config,
        teachers=(replace(config.teachers[place], tags=()),),
        text=replace(config.text, sources=(config.text.sources[place],)),
        rollout=replace(config.rollout, fraction=way.fraction),
        loss=(way.text, *own, BALANCE),
        evaluate=replace(config.evaluate, tasks=(config.evaluate.tasks[place],), beside=beside),
    )


def one_seed(work: Path, seed: int) -> dict[str, object]:
    """Return the curves of every way from one seed."""
    home = work / f"seed-{seed}"
    base = two_teachers.settings(home, seed)
    held = {SORT.name: skills.items(SORT, HELD_OUT, seed=seed, held_out=True)}
    found: dict[str, object] = {}
    for name in WAYS:
        out = home / name
        config = settings(base, name, tuple(str(home / other) for other in found))
        watch = Watch(out, config, held)
        say(f"seed {seed}, {name}")
        done = run(config, out, say=say, progress=watch)
        (answered,) = (row for row in done.evaluation["comparison"] if row["measure"] == "accuracy")
        found[name] = {
            "held_out": next(c for c in done.evaluation["held_out"] if c["name"] == name),
            "accuracy_while_training": watch.seen,
            "accuracy": answered["student"],
            "accuracy_of_teacher": answered["teacher"],
            "tokens": done.manifest["run"]["tokens"],
            "seconds": done.evaluation["seconds"],
        }
    return found


def main() -> None:
    """Run the campaign and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    began = time.process_time()
    seeds = {f"seed_{seed}": one_seed(options.work, seed) for seed in options.seeds}
    result = {"cpu_seconds": time.process_time() - began, **seeds}
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
