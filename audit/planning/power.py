"""How many of a bank's known students the same audit calls SUPPORTED, by the number of prompts.

Power is counted, not derived: every family with a documented student is put in the suspect's place,
with the first so many prompts of one random order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from audit.bank import TRUTHS, Bank
from audit.evidence import Verdict
from audit.lineup import case, known
from audit.lineup.index import Index
from audit.lineup.judging import judge
from audit.lineup.ruling import Rules
from audit.planning.asking import order
from audit.population import wilson

COUNTS = (20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640, 960, 1280)

Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """How many of how many pairs came out as SUPPORTED."""

    supported: int
    pairs: int

    @property
    def share(self) -> float:
        """The share of them, 0 of none."""
        return self.supported / self.pairs if self.pairs else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share."""
        return wilson(self.supported, self.pairs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """What an audit with so many prompts finds.

    Attributes:
        prompts: that everybody answers at most.
        related: by documented relation, of pairs that documents call related.
        unrelated: of the same suspects' pairs that documents call unrelated.
    """

    prompts: int
    related: Mapping[str, Share]
    unrelated: Share


def relations(bank: Bank) -> list[str]:
    """Return the relations of models whose teachers are documented groups of the bank."""
    taught = np.flatnonzero(known.facts(bank).truths["positive"].any(1)).tolist()
    return sorted({bank.models[row].relation for row in taught})


def power(
    bank: Bank,
    index: Index,
    *,
    counts: Sequence[int],
    rules: Rules,
    least_prompts: int,
    seed: int,
    progress: Progress,
) -> list[Point]:
    """Return what an audit with so many of the bank's prompts would find of its known students.

    The prompts of a smaller count are among those of a larger one.

    Args:
        bank: its models and what is known of them.
        index: of that bank.
        counts: of prompts; those beyond the bank's number are left out, and that number joins.
        rules: what a finding needs.
        least_prompts: that two models must both answer.
        seed: of the order in which prompts are taken.
        progress: told how far it is.
    """
    facts = known.facts(bank)
    taught = np.flatnonzero(facts.truths["positive"].any(1)).tolist()
    places = np.array(order(index, seed))
    total = len(places)
    counts = sorted({count for count in counts if least_prompts <= count < total} | {total})
    families = list(dict.fromkeys(bank.models[row].family for row in taught))
    whole = case.lineup(bank, index, facts, least_prompts)
    points = []
    for number, count in enumerate(counts):
        models = whole.at(np.sort(places[:count]))
        found: dict[str, list[bool]] = {}
        for place, family in enumerate(families):
            rows = [row for row in taught if bank.models[row].family == family]
            for one in judge(bank, models, facts, rows, rules):
                suspect = bank.model(one.suspect)
                truth = known.truth(bank, suspect, bank.group(one.group))
                kind = suspect.relation if truth == "positive" else truth
                found.setdefault(kind, []).append(one.verdict is Verdict.SUPPORTED)
            done, steps = number * len(families) + place + 1, len(counts) * len(families)
            progress("known students in the suspect's place", done, steps, "families")
        related = {kind: hits for kind, hits in sorted(found.items()) if kind not in TRUTHS}
        points.append(
            Point(
                prompts=count,
                related={kind: _share(hits) for kind, hits in related.items()},
                unrelated=_share(found.get("negative", [])),
            )
        )
    return points


def _share(hits: Sequence[bool]) -> Share:
    return Share(supported=sum(hits), pairs=len(hits))


def needed(points: Sequence[Point], relation: str, wanted: float) -> int | None:
    """Return the fewest prompts from which on the power is `wanted`; None if it never is."""
    least = None
    for point in sorted(points, key=lambda point: -point.prompts):
        if point.related[relation].share < wanted:
            break
        least = point.prompts
    return least
