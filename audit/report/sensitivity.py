"""What a finding owes to single choices: the same question asked otherwise, where a report has it.

Nothing is computed here. What an audit did not try is named as not tried, since silence would read
as "it makes no difference".
"""

from dataclasses import dataclass

from audit.evidence import Finding, ProbeResult

CORRECTION = "Correction for the number of questions (Holm)"
NEAREST = "The nearest control alone"
DEALT = "Teachers dealt out anew at each prompt"
LOW_END = "The low end of the score's interval"

# What no audit of this version computes.
NOT_COMPUTED = (
    "Each reference or control left out in turn",
    "Prompts of each domain alone",
    "Other sampling of the suspect's answers",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Variation:
    """The same question with one thing changed.

    Attributes:
        what: was changed.
        name: a name that stands in `what`, or an empty text.
        score: with it, None where there is none.
        p_value: with it, None where there is none.
        log10_lr: with it, None where there is none.
    """

    what: str
    name: str = ""
    score: float | None = None
    p_value: float | None = None
    log10_lr: float | None = None


def variations(finding: Finding, deciding: ProbeResult | None) -> list[Variation]:
    """Return what the report holds of a finding under other choices, none if it holds nothing.

    Args:
        finding: of the suspect.
        deciding: the probe whose score it carries.
    """
    if deciding is None:
        return []
    found = [
        Variation(what=_arm(probe, deciding), score=probe.score, p_value=probe.p_value)
        for probe in finding.probes
        if probe.probe.startswith(f"{deciding.probe}, ")
    ]
    found += [
        Variation(what=DEALT, p_value=probe.p_value)
        for probe in finding.probes
        if probe.probe == "permuted teachers"
    ]
    if len(deciding.contrasts) > 1:
        nearest = min(deciding.contrasts, key=lambda one: one.mean)
        found.append(
            Variation(
                what=NEAREST, name=nearest.against, score=nearest.mean, p_value=nearest.p_value
            )
        )
    if finding.p_adjusted is not None:
        found.append(Variation(what=CORRECTION, score=finding.score, p_value=finding.p_adjusted))
    if finding.log10_lr_low is not None:
        found.append(Variation(what=LOW_END, score=finding.low, log10_lr=finding.log10_lr_low))
    return found


def _arm(probe: ProbeResult, deciding: ProbeResult) -> str:
    """Return the reading of the answers that a check of the deciding probe was made on."""
    return probe.probe.removeprefix(f"{deciding.probe}, ")
