"""`audit plan`, in order: bank, prompts, power by their number, how many are needed and bought."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from audit import resources
from audit.bank import Bank, load
from audit.errors import InputError
from audit.lineup import index as indices
from audit.lineup import reading
from audit.lineup.ruling import Rules
from audit.planning import asking, listing
from audit.planning.asking import Prices, Prompt
from audit.planning.power import COUNTS, Point, needed, power, relations

Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is to be planned.

    Attributes:
        bank: whose known students tell the power and whose prompts are asked; None for the shipped
            bank's students and the shipped prompts.
        power: share of known students to be found.
        relation: of which documented relation.
        language: of the shipped prompts; None for all.
        prices: None if nothing is to be reckoned.
        budget: money.
        alpha: level of a finding.
        least_prompts: that two models must both answer.
        seed: of the order in which a bank's prompts are taken.
    """

    bank: Path | None
    power: float
    relation: str
    language: str | None
    prices: Prices | None
    budget: float | None
    alpha: float
    least_prompts: int
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What came of it.

    Attributes:
        bank: its name.
        points: what is found with how many prompts.
        needed: the fewest prompts of that power; None if it is not reached.
        prompts: there are to ask.
        cost: of those needed; None without prices, or where there are not as many.
        bought: how many the budget buys; None without one.
        written: how many were written to a file.
        lines: all of it as text.
    """

    bank: str
    points: tuple[Point, ...]
    needed: int | None
    prompts: int
    cost: float | None
    bought: int | None
    written: int
    lines: tuple[str, ...]


def plan(asked: Asked, *, cache: Path | None, out: Path | None, progress: Progress) -> Plan:
    """Return how many prompts are needed and bought, and write those to ask to `out`.

    Raises:
        InputError: the bank cannot be used, or documents no such relation.
        AuditError: `out` cannot be written.
    """
    bank = load(asked.bank or resources.shipped("data/bank/models.csv").parent)
    documented = relations(bank)
    if asked.relation not in documented:
        raise InputError(
            f"{bank.path} documents no student of relation {asked.relation!r}; it has "
            f"{', '.join(documented) or 'none of any relation, so there is no power to count'}."
        )
    index = indices.of(
        bank,
        reading.VIEWS,
        cache=cache,
        tell=lambda done, steps: progress("comparing the bank's answers", done, steps, "steps"),
    )
    prompts = _prompts(asked, bank, index)
    points = power(
        bank,
        index,
        counts=COUNTS,
        rules=Rules(alpha=asked.alpha),
        least_prompts=asked.least_prompts,
        seed=asked.seed,
        progress=progress,
    )
    count = needed(points, asked.relation, asked.power)
    cost = bought = None
    if asked.prices is not None:
        if count is not None and count <= len(prompts):
            cost = asked.prices.of(prompts[:count])
        if asked.budget is not None:
            bought = asked.prices.bought(prompts, asked.budget)
    take = min(len(prompts) if number is None else number for number in (count, bought))
    if out is not None:
        asking.write(out, prompts[:take])
    lines = [
        f"{bank.path.resolve().name}: known pairs that would be SUPPORTED",
        *listing.table(points),
        listing.advice(points, asked.relation, asked.power),
        *listing.costs(count=count, cost=cost, prompts=len(prompts), bought=bought),
    ]
    if out is not None:
        lines.append(f"{take:,} prompts to ask: {out}")
    return Plan(
        bank=bank.path.resolve().name,
        points=tuple(points),
        needed=count,
        prompts=len(prompts),
        cost=cost,
        bought=bought,
        written=take if out is not None else 0,
        lines=tuple(lines),
    )


def _prompts(asked: Asked, bank: Bank, index: indices.Index) -> list[Prompt]:
    if asked.bank is None:
        return asking.shipped_prompts(asked.language)
    return asking.bank_prompts(bank, index, seed=asked.seed)
