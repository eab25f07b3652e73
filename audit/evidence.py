"""What an audit found, as plain data: the contents of `report.json`, schema `spiritsafe.report/1`.

Every number a reader meets in `report.html` is a field of these classes, so the page can be drawn
again from the file alone. An absent number is null, never zero: a probe that did not run has no
neutral score. Nothing here computes anything.
"""

from dataclasses import asdict, field
from enum import StrEnum
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from audit.attest import canonical_bytes, parse
from audit.report.reveal import reveal_halves


class Verdict(StrEnum):
    """The four outcomes of a finding."""

    SUPPORTED = "SUPPORTED"
    NOT_SUPPORTED = "NOT_SUPPORTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    INSUFFICIENT = "INSUFFICIENT"


STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class Replication:
    """How often the effect was repeated at one unit of replication, and the test at that unit.

    Ten thousand prompts asked of one model are still one model, so each unit is tested apart.
    """

    unit: Literal["prompts", "documents", "runs"]
    n: int
    test: str
    p_value: float | None


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class Contrast:
    """The suspect minus one other model: mean over prompts, 95 % interval, one-sided p."""

    against: str
    mean: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class Member:
    """One model on a probe's axis; the strip plot of the report."""

    name: str
    role: Literal["suspect", "control", "reference"]
    score: float


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class PromptRow:
    """One prompt of a probe: the suspect's value and the mean of the models it is compared with."""

    id: str
    suspect: float
    others: float


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class Exhibit:
    """One prompt with the texts that were compared, for a reader to judge.

    `side`: whether it is among those most for the finding or those most against it.
    """

    id: str
    prompt: str
    answers: dict[str, str]
    note: str
    side: Literal["for", "against", "unsorted"] = "unsorted"


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class ProbeResult:
    """What one probe says of one suspect and one teacher."""

    probe: str
    needs: Literal["text", "weights"]
    verdict: Verdict
    reason: str
    null: str
    unit: str
    n_prompts: int
    score: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    rank: int | None = None
    rank_of: int | None = None
    replication: tuple[Replication, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    population: tuple[Member, ...] = ()
    prompts: tuple[PromptRow, ...] = ()
    exhibits: tuple[Exhibit, ...] = ()
    cannot_say: tuple[str, ...] = ()
    would_need: str = ""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class Finding:
    """The verdict on one (suspect, teacher) pair, with the probes it rests on."""

    suspect: str
    teacher: str
    group: str
    verdict: Verdict
    reason: str
    relation: str
    score: float | None
    low: float | None
    high: float | None
    rank: int | None
    p_value: float | None
    p_adjusted: float | None
    log10_lr: float | None
    log10_lr_low: float | None
    probes: tuple[ProbeResult, ...]


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class Controls:
    """The same question asked of models known not to have seen the teacher."""

    description: str
    findings: tuple[Finding, ...]
    matched: tuple[str, ...]
    unmatched: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class Power:
    """What a probe could have seen: the smallest effect it detects four times in five."""

    probe: str
    n_prompts: int
    smallest_effect: float | None
    unit: str
    note: str


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class Rate:
    """How often p-values of documented unrelated pairs are at most `alpha`, in a part of them.

    One vote a (family, group); `low` and `high` are Wilson's 95 % interval. `corrected`: after
    makers whose rate was too high were ranked among their own pairs alone.
    """

    name: str
    alpha: float
    votes: float
    share: float
    low: float
    high: float
    corrected: bool


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class KnownStudent:
    """A model of the bank whose teacher is documented, in the suspect's place."""

    name: str
    group: str
    relation: str
    verdict: Verdict
    score: float | None
    p_value: float | None


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class NotRun:
    """A probe that did not run, why, and what would let it run."""

    probe: str
    reason: str
    would_need: str


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class Material:
    """An input of the audit, pinned by digest."""

    name: str
    kind: str
    sha256: str
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class Suspect:
    """The model or the answers under audit.

    `inherits`: whose weights its own config.json says it began with; nothing here tested that.
    `greetings`: what so many of its answers begin with that it was taken off before comparing,
    in lower case, words and marks apart.
    """

    name: str
    kind: Literal["model directory", "run directory", "responses file"]
    sha256: str
    reference: str | None = None
    inherits: str | None = None
    greetings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class Body:
    """What an audit found, before it is dated and pinned as a report."""

    suspect: Suspect
    propositions: tuple[str, str]
    findings: tuple[Finding, ...]
    controls: Controls
    power: tuple[Power, ...]
    not_run: tuple[NotRun, ...]
    error_rates: tuple[Rate, ...] = ()
    known_students: tuple[KnownStudent, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class Report:
    """A whole audit."""

    schema: Literal["spiritsafe.report/1"] = "spiritsafe.report/1"
    tool: str
    created: str
    suspect: Suspect
    propositions: tuple[str, str]
    settings: dict[str, Any]
    findings: tuple[Finding, ...]
    controls: Controls
    power: tuple[Power, ...]
    not_run: tuple[NotRun, ...]
    materials: tuple[Material, ...]
    limits: tuple[str, ...]
    error_rates: tuple[Rate, ...] = ()
    known_students: tuple[KnownStudent, ...] = ()
    command: str = ""
    packages: dict[str, str] = field(default_factory=dict)


def to_json(report: Report) -> dict[str, Any]:
    """Return `report` as the JSON object that `report.json` holds, in its canonical bytes.

    Halves of surrogate pairs, which no file can hold, stand there as code points.
    """
    found: dict[str, Any] = reveal_halves(asdict(report))
    return found


def settled(report: Report) -> Report:
    """Return `report` as a reader of `report.json` has it, so that the page drawn of it is theirs.

    Raises:
        ValueError: it has no canonical JSON.
    """
    return from_json(parse(canonical_bytes(to_json(report))))


def from_json(data: dict[str, Any]) -> Report:
    """Return the report that `data` describes.

    Raises:
        pydantic.ValidationError: it describes none.
    """
    return TypeAdapter(Report).validate_python(data)


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of `report.json`; `report.schema.json` beside this file holds it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:spiritsafe:report:1",
        **TypeAdapter(Report).json_schema(),
    }
