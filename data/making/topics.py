"""What the prompts of the shipped bank are about: everyday things and a few facts of each."""

import csv
from dataclasses import dataclass
from pathlib import Path

_FILE = Path(__file__).with_suffix(".csv")


@dataclass(frozen=True, slots=True)
class Topic:
    """A thing, with facts that anybody could write about it."""

    name: str
    what: str
    parts: tuple[str, ...]
    uses: tuple[str, ...]
    care: tuple[str, ...]
    weakness: str
    place: str


def _topics() -> tuple[Topic, ...]:
    with _FILE.open(encoding="utf-8", newline="") as stream:
        return tuple(
            Topic(
                name=row["name"],
                what=row["what"],
                parts=tuple(row["parts"].split(";")),
                uses=tuple(row["uses"].split(";")),
                care=tuple(row["care"].split(";")),
                weakness=row["weakness"],
                place=row["place"],
            )
            for row in csv.DictReader(stream)
        )


TOPICS = _topics()
