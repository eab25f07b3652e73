"""The ladder of evidence: which kinds there are, strongest first, and which of them a report holds.

What an owner planted and what weights show can be tested exactly; likeness of text is weaker and
needs models to compare with; what a model says of itself only corroborates. A reader must see which
rungs are empty before believing the ones that are not.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from audit.evidence import Finding, NotRun, Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of evidence.

    Attributes:
        name: of the kind.
        shows: what it looks at, and how its p-value comes about.
        probes: names of probes of this kind, before any comma.
        need: what it would need where no probe of this kind is there.
    """

    name: str
    shows: str
    probes: tuple[str, ...]
    need: str = ""


LADDER = (
    Kind(
        name="The owner's marks",
        shows="A watermark or canaries that the teacher's owner put into its answers beforehand. "
        "Exact p-values; decides.",
        probes=("watermark", "canaries"),
        need="the owner's cooperation: a key, or canaries that were placed before the suspect was "
        "trained",
    ),
    Kind(
        name="Order of training and weights",
        shows="Whether the suspect follows the order of somebody's training text, or its weights "
        "are somebody's. Exact p-values; decides.",
        probes=("training order", "weights"),
        need="the order of the training text, or the weights of both models",
    ),
    Kind(
        name="Shift of log-probabilities",
        shows="Whether training moved the suspect towards the teacher's text more than it moved "
        "matched controls. Decides.",
        probes=("logprob_shift",),
    ),
    Kind(
        name="Text against a population",
        shows="Whether the suspect's answers are like the teacher's at the same prompts, more than "
        "those of other models are. A p-value is a rank among models; decides only where its error "
        "rates are measured.",
        probes=("contrast",),
    ),
    Kind(
        name="Signs that only corroborate",
        shows="What a model says of itself, whose a classifier takes it for, answers in the very "
        "same words. They never lift a finding.",
        probes=("self_identity", "attribution", "equality", "permuted teachers"),
    ),
)
OTHER = Kind(
    name="Other probes", shows="Probes that stand on no rung of this page's ladder.", probes=()
)
# Its checks, such as "contrast, length matched", are readings of the same evidence.
CHECKED = frozenset({"contrast"})
NO_PROBE = "this version has no probe of this kind"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """A probe that ran, and to which verdicts it came, each with the number of its results."""

    probe: str
    verdicts: tuple[tuple[Verdict, int], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """A kind of evidence, and what a report holds of it: probes that ran, and those that did not.

    At least one of the two is there.
    """

    kind: Kind
    ran: tuple[Ran, ...]
    not_run: tuple[NotRun, ...]


def ladder(findings: Sequence[Finding], not_run: Sequence[NotRun]) -> list[Rung]:
    """Return the rungs, strongest first, with what the report holds of each."""
    named = {name for kind in LADDER for name in kind.probes}
    rungs = [_rung(kind, set(kind.probes), findings, not_run) for kind in LADDER]
    rest = {_base(probe.probe) for finding in findings for probe in finding.probes} - named
    rest |= {_base(item.probe) for item in not_run} - named
    return [*rungs, *([_rung(OTHER, rest, findings, not_run)] if rest else [])]


def _rung(
    kind: Kind, names: set[str], findings: Sequence[Finding], not_run: Sequence[NotRun]
) -> Rung:
    counts: dict[str, Counter[Verdict]] = {}
    for probe in (probe for finding in findings for probe in finding.probes):
        base = _base(probe.probe)
        if base in names and (base not in CHECKED or probe.probe == base):
            counts.setdefault(base, Counter())[probe.verdict] += 1
    missing = tuple(item for item in not_run if _base(item.probe) in names)
    if not counts and not missing:
        missing = (NotRun(probe="", reason=_why_empty(kind), would_need=kind.need),)
    ran = tuple(
        Ran(probe=name, verdicts=tuple((v, count[v]) for v in Verdict if count[v]))
        for name, count in counts.items()
    )
    return Rung(kind=kind, ran=ran, not_run=missing)


def _why_empty(kind: Kind) -> str:
    return NO_PROBE if kind.need else "the report says nothing of it"


def _base(probe: str) -> str:
    return probe.split(",", maxsplit=1)[0]
