"""Draw `report.json` as the one page a reviewer reads, prints and signs.

The page is a function of the report alone: the same report gives the same bytes, on any day and
any machine. It adds no number that the report does not hold, save counts, the report's digest, and
the arithmetic from a reader's prior odds to posterior odds.
The scale of words for likelihood ratios is in the manner of ENFSI, Guideline for Evaluative
Reporting in Forensic Science (2015); sources differ at its edges, so the page prints its own.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jinja2 import Template
from markupsafe import Markup

from audit.attest import digest
from audit.evidence import (
    Finding,
    KnownStudent,
    NotRun,
    ProbeResult,
    Rate,
    Report,
    Verdict,
    from_json,
    to_json,
)
from audit.report import exhibits
from audit.report.axes import number
from audit.report.charts import Interval, dot_interval_chart, paired_dots, strip_plot
from audit.report.frame import MOST_BYTES, environment, figure
from audit.report.ladder import ladder
from audit.report.prior import PRIORS, updates
from audit.report.reveal import reveal_all
from audit.report.sensitivity import NOT_COMPUTED, variations

MOST_CONTRASTS = 24
LARGEST_POWER = 300  # of ten, that a float holds with room to spare

WORDS = {
    Verdict.SUPPORTED: "Supported",
    Verdict.NOT_SUPPORTED: "Not supported",
    Verdict.INCONCLUSIVE: "Inconclusive",
    Verdict.INSUFFICIENT: "Insufficient",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """One step of the verbal scale, from the likelihood ratio `low` up to the next step."""

    low: float
    ratio: str
    word: str


SCALE = (
    Band(low=2, ratio="2 to 10", word="weak"),
    Band(low=10, ratio="10 to 100", word="moderate"),
    Band(low=100, ratio="100 to 1,000", word="moderately strong"),
    Band(low=1_000, ratio="1,000 to 10,000", word="strong"),
    Band(low=10_000, ratio="10,000 to 1,000,000", word="very strong"),
    Band(low=1_000_000, ratio="above 1,000,000", word="extremely strong"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """How much of the evidence a page holds itself; the rest is in report.json alone."""

    characters: int  # of a prompt or an answer in an exhibit
    exhibits: int  # of a probe, of each side
    models: int  # in the table of a probe's axis
    prompts: int  # in the table of a probe's prompts
    control_probes: bool


# The first that fits is used: a page that no mail server takes has no reader.
ROOMS = (
    Room(characters=4000, exhibits=6, models=1000, prompts=1000, control_probes=True),
    Room(characters=1200, exhibits=3, models=1000, prompts=1000, control_probes=True),
    Room(characters=1200, exhibits=3, models=200, prompts=400, control_probes=False),
    Room(characters=1200, exhibits=2, models=40, prompts=0, control_probes=False),
    Room(characters=400, exhibits=2, models=10, prompts=0, control_probes=False),
    Room(characters=100, exhibits=1, models=5, prompts=0, control_probes=False),
)


def render(report: Report) -> str:
    """Return the page of `report`: self-contained HTML without script, at most 2 MB.

    Raises:
        ValueError: the report does not fit on a page even with its exhibits cut short.
    """
    template = environment(("audit.report",)).get_template("audit.report/page.html.j2")
    # Joined with markup a text passes for markup, so all texts are made visible beforehand.
    shown, sha256 = from_json(reveal_all(to_json(report))), digest(to_json(report))
    for room in ROOMS:
        page = _draw(template, shown, room, sha256)
        if len(page.encode()) <= MOST_BYTES:
            return page
    raise ValueError(f"the page of {report.suspect.name!r} would exceed {MOST_BYTES} bytes")


def _draw(template: Template, report: Report, room: Room, sha256: str) -> str:
    return template.render(
        report=report,
        digest=sha256,
        room=room,
        words=WORDS,
        scale=SCALE,
        teachers=list(dict.fromkeys(finding.teacher for finding in report.findings)),
        tally=tally,
        tally_of=in_words,
        error_rates=parts(report.error_rates),
        strength=strength,
        deciding=deciding,
        would_change=would_change,
        opened=opened(report.findings),
        population=population,
        drawings=drawings,
        rungs=ladder(report.findings, report.not_run),
        variations=variations,
        not_computed=NOT_COMPUTED,
        exhibits=exhibits,
        updates=updates,
        priors=PRIORS,
        times=times,
        share=share,
        plain=number,
        setting=lambda value: json.dumps(value, sort_keys=True, ensure_ascii=False),
    )


def tally(findings: Sequence[Finding | KnownStudent]) -> str:
    """Return how many findings came to each verdict, in words."""
    counts = Counter(finding.verdict for finding in findings)
    # "0 supported" is news, of the controls above all; the other zeros are not.
    named = [verdict for verdict in WORDS if counts[verdict] or verdict is Verdict.SUPPORTED]
    return in_words([(verdict, counts[verdict]) for verdict in named])


def in_words(counts: Sequence[tuple[Verdict, int]]) -> str:
    """Return how many came to each verdict, one after another."""
    return ", ".join(f"{count} {WORDS[verdict].lower()}" for verdict, count in counts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Documented unrelated pairs of one kind: how their p-values fell, level by level.

    Attributes:
        name: of the kind.
        votes: of (family, group).
        before: a rate a level.
        after: the same where the correction of makers changed it, else None.
    """

    name: str
    votes: float
    before: tuple[Rate, ...]
    after: tuple[Rate | None, ...]


def parts(rates: Sequence[Rate]) -> list[Part]:
    """Return error rates with what belongs together in one row; parts without a pair are none."""
    found = []
    for name in dict.fromkeys(rate.name for rate in rates if rate.votes):
        before = tuple(one for one in rates if one.name == name and not one.corrected)
        corrected = {one.alpha: one for one in rates if one.name == name and one.corrected}
        after = [corrected.get(one.alpha) for one in before]
        changed = tuple(
            None if b is None or replace(b, corrected=False) == a else b
            for a, b in zip(before, after, strict=True)
        )
        found.append(Part(name=name, votes=before[0].votes, before=before, after=changed))
    return found


def strength(log10_lr: float | None) -> str:
    """Return the verbal equivalent of a likelihood ratio given as its base-10 logarithm."""
    if log10_lr is None:
        return "no likelihood ratio"
    reached = [band.word for band in SCALE if abs(log10_lr) >= math.log10(band.low)]
    if not reached:
        return "no support for either proposition"
    return f"{reached[-1]} support for proposition {1 if log10_lr > 0 else 2}"


def opened(findings: Sequence[Finding]) -> set[str]:
    """Return the teachers whose details stand open: those supported, else that of the least p."""
    supported = {one.teacher for one in findings if one.verdict is Verdict.SUPPORTED}
    ranked = sorted(findings, key=lambda one: 2 if one.p_value is None else one.p_value)
    return supported or {one.teacher for one in ranked[:1]}


def times(log10_lr: float) -> Markup:
    """Return a likelihood ratio as such, given its base-10 logarithm."""
    if abs(log10_lr) < LARGEST_POWER:
        return figure(10**log10_lr)
    return Markup("10<sup>{}</sup>").format(number(log10_lr))


def share(probability: float) -> str:
    """Return a probability in per cent; near certainty it is never rounded up to it."""
    if 0.001 <= probability <= 0.999:
        return f"{number(100 * probability)} %"
    return "< 0.1 %" if probability < 0.5 else "> 99.9 %"


def deciding(finding: Finding) -> ProbeResult | None:
    """Return the probe whose score the finding carries: it knows how many models were ranked."""
    scored = [probe for probe in finding.probes if probe.score is not None]
    return next((probe for probe in scored if probe.score == finding.score), None)


def would_change(finding: Finding, not_run: Sequence[NotRun]) -> str:
    """Return what further evidence could move the verdict of `finding`, its probe's need first."""
    probe = deciding(finding)
    # A finding held back after its probe had spoken needs something else than the probe does.
    need = probe.would_need if probe and probe.verdict is finding.verdict else ""
    match finding.verdict:
        case Verdict.SUPPORTED:
            said = (
                "Evidence of a common origin (the same base weights, shared training text), dates "
                "that rule the teacher out, or a model without the teacher that scores as high."
            )
        case Verdict.NOT_SUPPORTED:
            said = "A probe of closer access or more power that finds what these did not."
        case Verdict.INCONCLUSIVE:
            said = (
                "More reference models, an earlier checkpoint or sibling of the suspect, or closer "
                "access."
            )
        case Verdict.INSUFFICIENT:
            said = "The material that the probes below say they lacked."
    waiting = ", ".join(item.probe for item in not_run)
    first = f"{need[:1].upper()}{need[1:]}. " if need else ""
    last = f" Not run so far: {waiting}." if waiting else ""
    return f"{first}{said}{last}"


def population(probe: ProbeResult) -> Markup:
    """Return the strip plot of every model on the axis of `probe`."""
    return strip_plot(probe.population, title="Every model on one axis", x_label=probe.unit)


def drawings(probe: ProbeResult) -> list[tuple[str, Markup]]:
    """Return the caption and the drawing of each other chart that `probe` has numbers for."""
    drawn = []
    if probe.contrasts:
        title = "Suspect minus each other model, 95 % interval"
        rows = [
            Interval(label=row.against, point=row.mean, low=row.low, high=row.high)
            for row in probe.contrasts[:MOST_CONTRASTS]
        ]
        drawn.append((title, dot_interval_chart(rows, title=title, x_label=probe.unit)))
    if probe.prompts:
        title = "Suspect and others, prompt by prompt"
        drawn.append((title, paired_dots(probe.prompts, title=title, unit=probe.unit)))
    return drawn
