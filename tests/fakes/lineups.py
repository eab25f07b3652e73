"""Simulated banks: models with styles of their own, and students that took over a teacher's.

A style is how someone begins and goes on at each prompt. All styles choose from the prompt's own
few words, so unrelated models resemble each other as unrelated models do.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes import banks

SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ha", "le", "mi", "no", "pu", "ra", "se", "ti", "vo")
_OPENING, _BODY, _CHOICE = 8, 30, 14


@dataclass(frozen=True, kw_only=True)
class Someone:
    """A simulated model.

    Attributes:
        name: of the model, and of its family unless that is given.
        learnt: the share of prompts at which it begins as a style it was taught, by style.
        body: whether it goes on as that style, too.
        labels: further cells of models.csv.
    """

    name: str
    learnt: Mapping[str, float] = field(default_factory=dict)
    body: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


def answer(someone: Someone, prompt: int, seed: int) -> str:
    """Return what it says to a prompt."""
    rng = random.Random(f"{seed} {someone.name} {prompt}")
    style, draw = someone.name, rng.random()
    for taught, share in someone.learnt.items():
        if draw < share:
            style = taught
            break
        draw -= share
    opening = _says(style, prompt, seed, _OPENING, "opening")
    words = [w if rng.random() < 0.85 else rng.choice(_words(prompt, seed)) for w in opening]
    body = _says(style if someone.body else someone.name, prompt, seed, _BODY, "body")
    return " ".join([*words, ".", *body]) + "."


def _words(prompt: int, seed: int) -> list[str]:
    rng = random.Random(f"{seed} words {prompt}")
    return ["".join(rng.choices(SYLLABLES, k=3)) for _ in range(_CHOICE)]


def _says(style: str, prompt: int, seed: int, count: int, part: str) -> list[str]:
    rng = random.Random(f"{seed} {style} {prompt} {part}")
    return rng.choices(_words(prompt, seed), k=count)


def teachers(vendors: int, members: int = 2) -> list[Someone]:
    """Return members of one group a vendor, each mostly in the style of its vendor."""
    return [
        Someone(
            name=f"t{vendor}-{member}",
            learnt={f"v{vendor}": 0.8},
            body=True,
            labels={
                "vendor_or_family": f"v{vendor}",
                "role": "teacher",
                "group": f"g{vendor}",
                "relation": "none",
            },
        )
        for vendor in range(vendors)
        for member in range(members)
    ]


def unrelated(count: int, role: str = "vendor") -> list[Someone]:
    """Return models with styles of their own."""
    return [
        Someone(name=f"{role}{n}", labels={"role": role, "relation": "none"}) for n in range(count)
    ]


def student(
    name: str,
    vendor: int,
    share: float = 0.6,
    *,
    relation: str = "single",
    body: bool = False,
    family: str | None = None,
) -> Someone:
    """Return a student that begins as the teachers of a vendor at a share of the prompts."""
    labels = {"role": "student", "relation": relation, "documented_teachers": f"g{vendor}"}
    if family is not None:
        labels["vendor_or_family"] = family
    return Someone(name=name, learnt={f"v{vendor}": share}, body=body, labels=labels)


def write(
    path: Path,
    people: Sequence[Someone],
    *,
    prompts: int = 60,
    seed: int = 0,
    launches: Mapping[str, str] | None = None,
) -> Path:
    """Write what they say as a bank without pairs.csv, and return its directory."""
    groups = dict.fromkeys(p.labels["group"] for p in people if "group" in p.labels)
    return banks.write(
        path,
        {p.name: {f"q{n}": answer(p, n, seed) for n in range(prompts)} for p in people},
        labels={p.name: p.labels for p in people},
        groups={
            group: {
                "vendor": next(
                    p.labels["vendor_or_family"] for p in people if p.labels.get("group") == group
                ),
                "public_launch": (launches or {}).get(group, ""),
            }
            for group in groups
        },
    )
