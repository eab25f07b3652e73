"""Make the shipped bank of answers, or another one like it.

    python -m data.making.bank --seed N --work DIR --out DIR [--workers N]

Trains every model of `roster.py` with `distill`, asks each the same prompts, and writes under the
output directory `bank/` (models.csv, groups.csv, responses/, card.json) and `suspects/`, answers of
two models that are not in the bank. About fifty seconds a model on one core; what is finished in
the working directory is not trained again. Another seed gives other writers, models and answers; on
one machine and version of torch the same seed gives the same ones.
"""

import argparse
import csv
import gzip
import importlib.metadata
import io
import json
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from audit.attest import file_digest
from data.making import models
from data.making.models import World
from data.making.roster import HEIR, MEMBERS, SUSPECTS, TEACHERS, Member

_SOURCE = "made so by data/making"
_COLUMNS = (
    *("model", "vendor_or_family", "role", "group", "documented_teachers", "relation"),
    *("confidence", "source", "same_base_as", "outputs_published_by"),
)
_PACKAGES = ("torch", "transformers", "tokenizers", "numpy")


def main() -> None:
    """Make a bank."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    world = World(given.seed, given.work)
    answers = train_and_ask(world, (*MEMBERS, *SUSPECTS), workers=given.workers)
    write(given.out, answers, seed=given.seed)


def train_and_ask(world: World, members: Sequence[Member], *, workers: int) -> dict[str, list[str]]:
    """Return what each member answers to the prompts of the bank, by its name."""
    models.tokenizer(world)
    first = [member for member in members if not member.teachers]
    then = [member for member in members if member.teachers]
    answers: dict[str, list[str]] = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for generation in (first, then):  # none is taught by one that is not there yet
            answered = pool.map(_trained, [world] * len(generation), generation)
            for member, said in zip(generation, answered, strict=True):
                answers[member.name] = said
                print(f"{len(answers)} of {len(members)}: {member.name}", file=sys.stderr)
    return answers


def _trained(world: World, member: Member) -> list[str]:
    torch.set_num_threads(1)
    weights = models.train(world, member)
    seed = world.rng(f"{member.name}/answers").randrange(2**31)
    return models.write(weights, models.asked_in_bank(), seed=seed)


def write(out: Path, answers: Mapping[str, Sequence[str]], *, seed: int) -> None:
    """Write the bank, its card, and the suspects' answers.

    Args:
        out: gets `bank/` and `suspects/`.
        answers: of every member and suspect, in the order of `models.asked_in_bank()`.
        seed: of the world, for the card.
    """
    bank = out / "bank"
    _table(
        bank / "models.csv",
        _COLUMNS,
        [
            (
                m.name,
                m.name,
                m.role,
                m.group,
                ";".join(m.teachers),
                m.relation,
                "H",
                _SOURCE,
                "",
                "",
            )
            for m in MEMBERS
        ],
    )
    groups = [(name, name, "", name) for name in (*TEACHERS, HEIR)]
    _table(bank / "groups.csv", ("group", "vendor", "public_launch", "models"), groups)
    (bank / "responses").mkdir(exist_ok=True)
    for member in MEMBERS:
        # Without name and time in it, so that the same answers are the same file.
        packed = gzip.compress(_lines(answers[member.name]).encode(), mtime=0)
        (bank / "responses" / f"{member.name}.jsonl.gz").write_bytes(packed)
    (out / "suspects").mkdir(exist_ok=True)
    for suspect in SUSPECTS:
        path = out / "suspects" / f"{suspect.name}.jsonl"
        path.write_text(_lines(answers[suspect.name]), encoding="utf-8")
    card = json.dumps(_card(bank, seed), indent=2) + "\n"
    (bank / "card.json").write_text(card, encoding="utf-8")


def _lines(said: Sequence[str]) -> str:
    rows = [
        {"id": f"{prompt.kind}-{prompt.topic.name}", "prompt": prompt.text, "response": text}
        for prompt, text in zip(models.asked_in_bank(), said, strict=True)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def _card(bank: Path, seed: int) -> dict[str, object]:
    relations = [member.relation for member in MEMBERS if member.role == "student"]
    return {
        "name": "small stills",
        "description": "Answers of small models made for this purpose, whose teachers are known "
        "because they were made so: each begins at random weights of its own and is a family.",
        "source": "written for spiritsafe: texts by data/making/writers.py, models by distill",
        "licence": "Apache-2.0",
        "made_by": f"python -m data.making.bank --seed {seed}",
        "seed": seed,
        "prompts": models.ASKED_IN_BANK,
        "teachers": [*TEACHERS, HEIR],
        "students": {name: relations.count(name) for name in dict.fromkeys(relations)},
        "controls": sum(member.role == "control" for member in MEMBERS),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "sha256": {
            path.relative_to(bank).as_posix(): file_digest(path)
            for path in sorted([*bank.glob("*.csv"), *bank.glob("responses/*")])
        },
    }


def _table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    main()
