"""Draw a validation as the one page that says how often the audit is right, wrong and silent.

The page is a function of the validation alone: no date, no machine, no number that is not counted
from its findings or held by its metrics. A bank of any size fits: what tables leave out is in the
files beside the page, and the page says so.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from markupsafe import Markup

from audit.attest import digest
from audit.evidence import Verdict
from audit.lineup import ruling
from audit.lineup.case import Stratum
from audit.population import wilson
from audit.report.axes import spread
from audit.report.charts import Interval
from audit.report.frame import MOST_BYTES, environment
from audit.report.population_charts import (
    Edge,
    Lane,
    Mark,
    lanes_chart,
    models_a_mark,
    share_at_or_above,
    shares_chart,
    tippett_plot,
)
from audit.report.render import SCALE, WORDS
from audit.validation.judged import Judged, Validation, score_of

LANES = 8  # of a drawing
MOST_SHARES = 24
ROLES = ("control", "vendor", "teacher", "student")
TRUTHS = ("positive", "negative", "unknown")
RELATIONS = {
    "single": "trained on answers of one group",
    "mixed": "trained on answers of several groups, or on other data as well",
    "derivative": "the same weights, tuned further or asked otherwise",
    "edited": "rewrites another model's answers",
}
# Anchor and heading of every section, in the order of the page: first where the audit is wrong.
SECTIONS = (
    ("answer", "Wrong, right, silent"),
    ("calibration", "Calibration of p on unrelated pairs"),
    ("ratios", "Likelihood ratios"),
    ("relations", "By relation"),
    ("populations", "Populations, group by group"),
    ("confusion", "What was found of documented relations"),
    ("doubtful", "False or doubtful"),
    ("checks", "Checks of supported findings"),
    ("limits", "Settings, digests, and what this page cannot say"),
)
FOUND = (
    *(ruling.TRAINED, ruling.SAME_WEIGHTS, ruling.NOT_SEPARATED),
    *(Verdict.INCONCLUSIVE.value, Verdict.NOT_SUPPORTED.value, Verdict.INSUFFICIENT.value),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """How much a page holds itself; the rest is in the files beside it."""

    findings: int  # of a table
    groups: int  # in the table and the drawings of populations
    names: int  # of a group's highest documented negatives
    characters: int  # of a reason or a name


# The first that fits is used: a page that no mail server takes has no reader.
ROOMS = (
    Room(findings=400, groups=200, names=5, characters=400),
    Room(findings=100, groups=100, names=3, characters=200),
    Room(findings=25, groups=40, names=2, characters=80),
    Room(findings=5, groups=8, names=1, characters=40),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleRow:
    """Documented negatives of suspects of one role, and how many the audit called SUPPORTED."""

    role: str
    suspects: int
    families: int
    pairs: int
    supported: int
    accused: int  # suspects with at least one such pair


@dataclass(frozen=True, kw_only=True, slots=True)
class WrongFamilies:
    """Families with a documented negative, and those of them with a false finding.

    Attributes:
        families: how many have a documented negative.
        concerned: how many have one that is SUPPORTED.
        share: of them, with its 95 % Wilson interval from `low` to `high`.
    """

    families: int
    concerned: int
    share: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """How p-values of documented negatives fell at one level.

    Attributes:
        alpha: the level.
        rows: a stratum each.
        drawing: of those that stand out most, in the same order.
        left_out: how many the drawing has no room for.
    """

    alpha: float
    rows: list[Stratum]
    drawing: Markup
    left_out: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupRow:
    """A group of teachers in the line-up.

    Attributes:
        counts: by truth, how many pairs have a score, and how many of them are SUPPORTED.
        unscored: pairs without a score.
        highest: documented negatives, highest first.
    """

    name: str
    vendor: str
    counts: dict[str, tuple[int, int]]
    unscored: int
    highest: tuple[Judged, ...]


def render(found: Validation) -> str:
    """Return the page of `found`: self-contained HTML without script, at most 2 MB.

    Raises:
        ValueError: it does not fit on a page even with its tables cut short.
    """
    for room in ROOMS:
        page = _draw(found, room)
        if len(page.encode()) <= MOST_BYTES:
            return page
    raise ValueError(f"the page of {found.bank!r} would exceed {MOST_BYTES} bytes")


def _draw(found: Validation, room: Room) -> str:
    template = environment(("audit.report",)).get_template("audit.report/validation.html.j2")
    lanes = _lanes(found.judged)[: room.groups]
    models = models_a_mark(lanes, _ends(lanes))
    supported = [one for one in found.judged if is_supported(one)]
    return template.render(
        found=found,
        m=found.metrics,
        room=room,
        alpha=found.rules.alpha,
        words=WORDS,
        relations=RELATIONS,
        scale=SCALE,
        metrics_sha256=digest(found.metrics),
        settings={**asdict(found.rules), "least_prompts": found.least_prompts},
        sections=SECTIONS,
        place={anchor: at for at, (anchor, _) in enumerate(SECTIONS, start=1)},
        wrong=wrong_families(found.judged),
        roles=role_rows(found.judged),
        tippett=_tippett(found.judged),
        shares=ratio_shares(found.judged),
        ratios={truth: ratios(found.judged, truth) for truth in TRUTHS[:2]},
        levels=_levels(found.calibration),
        parts_of=_by_part(found.calibration),
        groups=[_group_row(name, rows) for name, rows in by_group(found.judged).items()],
        populations=_populations(lanes, models),
        models_a_mark=models,
        columns_found=found_columns(found.metrics["relations_found"]),
        against=[one for one in supported if one.truth == "negative"],
        undecided=[one for one in supported if one.truth == "unknown"],
        missed=[one for one in found.judged if is_missed(one)],
        supported=supported,
        checks=list(dict.fromkeys(name for one in supported for name in one.ruling.checks)),
    )


def is_supported(one: Judged) -> bool:
    """Tell whether the finding is SUPPORTED."""
    return one.ruling.verdict is Verdict.SUPPORTED


def is_missed(one: Judged) -> bool:
    """Tell whether a documented positive was called NOT_SUPPORTED."""
    return one.truth == "positive" and one.ruling.verdict is Verdict.NOT_SUPPORTED


def role_rows(judged: Sequence[Judged]) -> list[RoleRow]:
    """Return the documented negatives by the suspect's role, roles without one left out."""
    rows = []
    for role in ROLES:
        pairs = [one for one in judged if one.truth == "negative" and one.role == role]
        wrong = [one for one in pairs if is_supported(one)]
        if pairs:
            rows.append(
                RoleRow(
                    role=role,
                    suspects=len({one.ruling.suspect for one in pairs}),
                    families=len({one.family for one in pairs}),
                    pairs=len(pairs),
                    supported=len(wrong),
                    accused=len({one.ruling.suspect for one in wrong}),
                )
            )
    return rows


def wrong_families(judged: Sequence[Judged]) -> WrongFamilies | None:
    """Return how many families have a false finding; None without a documented negative."""
    negative = [one for one in judged if one.truth == "negative"]
    families = {one.family for one in negative}
    concerned = {one.family for one in negative if is_supported(one)}
    if not families:
        return None
    low, high = wilson(len(concerned), len(families))
    return WrongFamilies(
        families=len(families),
        concerned=len(concerned),
        share=len(concerned) / len(families),
        low=low,
        high=high,
    )


def ratios(judged: Sequence[Judged], truth: str) -> list[float]:
    """Return log10 LR of every pair of this truth that has one."""
    rows = [one.ruling.log10_lr for one in judged if one.truth == truth]
    return [value for value in rows if value is not None]


def _edges() -> list[Edge]:
    """Return the edges of the verbal scale on both sides of 0, ascending."""
    above = [Edge(at=math.log10(band.low), word=band.word) for band in SCALE]
    # Below 0 a step begins at the edge that is farther from 0; the last step has none.
    below = [Edge(at=-farther.at, word=nearer.word) for nearer, farther in pairwise(above)]
    return [*reversed(below), Edge(at=-above[0].at, word=""), *above]


def _tippett(judged: Sequence[Judged]) -> Markup:
    title = "Likelihood ratios of documented pairs"
    return tippett_plot(
        ratios(judged, "positive"), ratios(judged, "negative"), _edges(), title=title
    )


def ratio_shares(judged: Sequence[Judged]) -> list[tuple[float, float | None, float | None]]:
    """Return by edge of the verbal scale the shares of positives and negatives at or above it.

    Edges beyond every ratio are left out, save the edge 0 between the two propositions.
    """
    sides = [ratios(judged, truth) for truth in TRUTHS[:2]]
    every = [0.0, *sides[0], *sides[1]]
    edges = sorted({0.0, *(sign * math.log10(band.low) for band in SCALE for sign in (-1, 1))})
    return [
        (edge, share_at_or_above(sides[0], edge), share_at_or_above(sides[1], edge))
        for edge in edges
        if min(every) <= edge <= max(every)
    ]


def _levels(strata: Sequence[Stratum]) -> list[Level]:
    return [_level(strata, alpha) for alpha in dict.fromkeys(row.alpha for row in strata)]


def _level(strata: Sequence[Stratum], alpha: float) -> Level:
    rows = [row for row in strata if row.alpha == alpha]
    most = sorted(rows, key=lambda row: -row.low)[:MOST_SHARES]
    drawn = [
        Interval(label=row.name, point=row.share, low=row.low, high=row.high)
        for row in rows
        if row in most
    ]
    title = f"Share of unrelated pairs with p at or below {alpha:g}"
    drawing = shares_chart(drawn, alpha, title=title, x_label="share of votes")
    return Level(alpha=alpha, rows=rows, drawing=drawing, left_out=len(rows) - len(drawn))


def _by_part(strata: Sequence[Stratum]) -> list[list[Stratum]]:
    """Return the levels of each part side by side."""
    return [[row for row in strata if row.name == name] for name in {r.name: r for r in strata}]


def by_group(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    """Return the findings of each group, in the order of the suspect who was asked about most."""
    asked: dict[str, list[str]] = {}
    for one in judged:
        asked.setdefault(one.ruling.suspect, []).append(one.ruling.group)
    longest = max(asked.values(), key=len, default=[])
    groups: dict[str, list[Judged]] = {name: [] for name in longest}
    for one in judged:
        groups.setdefault(one.ruling.group, []).append(one)
    return groups


def _group_row(name: str, rows: Sequence[Judged]) -> GroupRow:
    scored = [one for one in rows if one.ruling.score is not None]
    negative = [one for one in scored if one.truth == "negative"]
    return GroupRow(
        name=name,
        vendor=rows[0].vendor,
        counts={
            truth: (
                sum(one.truth == truth for one in scored),
                sum(one.truth == truth and is_supported(one) for one in scored),
            )
            for truth in TRUTHS
        },
        unscored=len(rows) - len(scored),
        highest=tuple(sorted(negative, key=score_of, reverse=True)[: ROOMS[0].names]),
    )


def _lanes(judged: Sequence[Judged]) -> list[Lane]:
    return [
        Lane(
            name=name,
            marks=[
                Mark(score=one.ruling.score, truth=one.truth, supported=is_supported(one))
                for one in rows
                if one.ruling.score is not None and one.truth in TRUTHS
            ],
        )
        for name, rows in by_group(judged).items()
    ]


def _ends(lanes: Sequence[Lane]) -> tuple[float, float]:
    return spread([mark.score for lane in lanes for mark in lane.marks], pad=0.03)


def _populations(lanes: Sequence[Lane], models: int) -> list[tuple[str, Markup]]:
    """Return captions and drawings of a few lanes each, all on one scale."""
    ends = _ends(lanes)
    drawn = []
    for begin in range(0, len(lanes), LANES):
        part = lanes[begin : begin + LANES]
        title = f"Every model's score, groups {begin + 1} to {begin + len(part)}"
        label = "score, in spreads of unrelated pairs"
        drawn.append((title, lanes_chart(part, ends, models, title=title, x_label=label)))
    return drawn


def found_columns(confusion: object) -> list[str]:
    """Return what was found of documented positives: the words of findings, then any others."""
    assert isinstance(confusion, dict)  # as `validation.rates.confusion` makes it
    named = {name for row in confusion.values() for name in row}
    return [*(name for name in FOUND if name in named), *sorted(named - set(FOUND))]
