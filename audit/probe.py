"""An audit, in order: materials, answers, probes, findings, report. Read this module first.

Everything the audit asks of a model is kept under `responses/` and found again by the next call, so
an interrupted audit goes on, and one that is finished and unchanged is only read.
"""

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from audit import bank_probe, claims, evidence, filed, strict_yaml
from audit.attest import digest
from audit.collect import Desk
from audit.config import AuditConfig
from audit.evidence import (
    Body,
    Controls,
    Material,
    NotRun,
    Power,
    ProbeResult,
    Report,
    Suspect,
    Verdict,
)
from audit.files import write_json, write_text
from audit.lineup.index import cache_directory
from audit.matching import matched
from audit.parties import Party, gather, held_out_prompts
from audit.parties import materials as materials_of
from audit.population import references_needed, smallest_effect
from audit.probes import contrast, logprob_shift
from audit.probes.logprob_shift import Gains
from audit.report.render import render
from audit.responses import Response
from audit.statement import begin, statement, subjects, write
from audit.verdict import Question, conclude

Say = Callable[[str], None]
Progress = Callable[[str, int, int, str], None]

PACKAGES = ("spiritsafe", "numpy", "scikit-learn", "scipy", "torch", "transformers")

PROPOSITIONS = (
    "The suspect was trained on what the teacher wrote or on the probabilities it gave.",
    "The suspect was not; what likeness there is comes from the text, the architecture and the "
    "training it shares with the controls.",
)
CONTROLS = (
    "Models trained the same way without the teacher, each tested in the suspect's place against "
    "the others. A control that is SUPPORTED is a false finding."
)
LIMITS = (
    "A finding is about the models and texts listed under materials. It is no statement about a "
    "vendor, about intent, or about what any terms allow.",
    "Likeness has no direction, and a third model may have taught both; shared public data, shared "
    "base weights, and serving the teacher itself are other explanations, which this audit does "
    "not exclude.",
    "The likelihood ratio is bounded by the number of models compared: with few of them it stays "
    "small however clear the difference is.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A finished audit, and whether it was there already."""

    out: Path
    report: Report
    reused: bool

    @property
    def page(self) -> Path:
        """The page a person opens."""
        return self.out / "report.html"


def probe(config: AuditConfig, out: Path, *, command: str, say: Say, progress: Progress) -> Outcome:
    """Carry out the audit `config` in the directory `out`.

    Raises:
        AuditError: and its kin; what was collected is kept.
    """
    parties = gather(config) if config.bank is None else []
    prompts, materials = _materials(config, parties)
    key = digest([asdict(config), [asdict(material) for material in materials], claims.tool()])
    kept = filed.finished(out)
    if kept is not None and kept.settings.get("key") == key:
        say(f"{out} is finished already; nothing to do")
        return Outcome(out=out, report=kept, reused=True)
    if config.bank is None:
        _begin(out, config)
        body = _among_controls(config, out, parties, prompts, progress)
    else:
        body = bank_probe.examine(config, cache=cache_directory(), say=say, progress=progress)
        _begin(out, config)
    made = Report(
        tool=claims.tool(),
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        suspect=body.suspect,
        propositions=body.propositions,
        settings={**_settings(config), "key": key},
        findings=body.findings,
        controls=body.controls,
        power=body.power,
        not_run=body.not_run,
        materials=tuple(materials),
        limits=LIMITS,
        error_rates=body.error_rates,
        known_students=body.known_students,
        command=command,
        packages=_versions(),
    )
    report = evidence.settled(made)
    _write(out, report)
    return Outcome(out=out, report=report, reused=False)


def _begin(out: Path, config: AuditConfig) -> None:
    """Write what was asked; what an earlier audit there stated or signed is of other files now."""
    write_text(out / "audit.yaml", strict_yaml.dump(config))
    begin(out)


def _write(out: Path, report: Report) -> None:
    """Write page and report, and last the statement, which names all files of the audit."""
    write_text(out / "report.html", render(report))
    write_json(out / "report.json", evidence.to_json(report))
    write(out, statement(subjects(out), claims.SCAI, claims.of_report(report)))


def _materials(
    config: AuditConfig, parties: Sequence[Party]
) -> tuple[Sequence[Response], Sequence[Material]]:
    """Return the held-out prompts, where the audit has its own, and all that it reads."""
    if config.bank is not None:
        return [], bank_probe.materials(config)
    prompts, material = held_out_prompts(config, _suspect_of(parties))
    return prompts, [*materials_of(parties), *material]


def _suspect_of(parties: Sequence[Party]) -> Party:
    return next(party for party in parties if party.role == "suspect")


def _among_controls(
    config: AuditConfig,
    out: Path,
    parties: Sequence[Party],
    prompts: Sequence[Response],
    progress: Progress,
) -> Body:
    """Compare the suspect with controls and references that were named one by one."""
    suspect = _suspect_of(parties)
    desk = Desk(config, out / "responses", list(prompts), progress)
    answers = {party.name: desk.answers(party) for party in parties}
    gains, not_run = _gains(config, parties, prompts, answers, progress)
    questions, control_questions = _questions(config, parties, prompts, answers, gains)
    findings = conclude([*questions, *control_questions], alpha=config.alpha)
    facts = matched(
        None if suspect.files is None else suspect.files.run,
        {p.name: p.files.run for p in parties if p.role == "control" and p.files is not None},
    )
    if facts.unmatched:
        findings = [_capped(finding) for finding in findings]
    return Body(
        suspect=_suspect(config, suspect),
        propositions=PROPOSITIONS,
        findings=tuple(findings[: len(questions)]),
        controls=Controls(
            description=CONTROLS,
            findings=tuple(findings[len(questions) :]),
            matched=facts.matched,
            unmatched=facts.unmatched,
        ),
        power=_power(config, questions),
        not_run=tuple(not_run),
    )


def _gains(
    config: AuditConfig,
    parties: Sequence[Party],
    prompts: Sequence[Response],
    answers: dict[str, dict[str, str]],
    progress: Progress,
) -> tuple[dict[str, dict[str, Gains]], list[NotRun]]:
    """Return gains by teacher and model; or, where weights are missing, why there are none."""
    models = [party for party in parties if party.role in ("suspect", "control")]
    reason = _why_no_gains(models, given_start=config.suspect_start is not None)
    if reason:
        need = (
            "the suspect's weights and its starting checkpoint, which holds no teacher's, and "
            "matched controls' of both"
        )
        return {}, [NotRun(probe=logprob_shift.NAME, reason=reason, would_need=need)]
    from audit import local

    files = [party.files for party in models if party.files is not None]
    local.require_same_vocabulary(files)
    teachers = [party.name for party in parties if party.role == "teacher"]
    usable = {name: _usable(prompts, answers[name]) for name in teachers}
    pairs = sum(len(rows) for rows in usable.values()) * 2 * 2 * len(models)
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress("scoring continuations", done, pairs, "texts")

    tick(0)
    gains: dict[str, dict[str, Gains]] = {name: {} for name in teachers}
    for model in files:
        assert model.start is not None
        now = local.load(model.model, config.device, exact=True)
        start = local.load(model.start, config.device, exact=True)
        for name, rows in usable.items():
            asked = [row.prompt for row in rows]
            teacher_text = [answers[name][row.id] for row in rows]
            true_text = [row.response for row in rows]
            gains[name][model.name] = Gains(
                name=model.name,
                values=logprob_shift.gain(
                    now.mean_logprobs(asked, teacher_text, tick),
                    start.mean_logprobs(asked, teacher_text, tick),
                    now.mean_logprobs(asked, true_text, tick),
                    start.mean_logprobs(asked, true_text, tick),
                ),
            )
    return gains, []


def _why_no_gains(models: Sequence[Party], *, given_start: bool) -> str:
    if any(model.files is None for model in models):
        return "it needs weights; the suspect or a control is given as answers"
    if any(model.files is not None and model.files.start is None for model in models):
        return "a starting checkpoint is not known for the suspect or a control"
    if len(models) < 2:
        return "no control was given"
    for model in models:
        if model.role == "suspect" and given_start:
            continue  # whoever named another start does not take the suspect's word
        if model.files is not None and (whose := model.files.inherits()) is not None:
            return (
                f"the config of {model.name} says that it began with the weights of {whose}, so "
                "what training added to them does not tell whose likeness it has"
            )
    return ""


def _usable(prompts: Sequence[Response], answers: dict[str, str]) -> list[Response]:
    """Return the prompts that have both a true continuation and a teacher's."""
    return [p for p in prompts if p.response.strip() and answers.get(p.id, "").strip()]


def _questions(
    config: AuditConfig,
    parties: Sequence[Party],
    prompts: Sequence[Response],
    answers: dict[str, dict[str, str]],
    gains: dict[str, dict[str, Gains]],
) -> tuple[list[Question], list[Question]]:
    """Return the suspect's questions, one a teacher, and the controls' in the suspect's place."""
    teachers = [party.name for party in parties if party.role == "teacher"]
    controls = [party.name for party in parties if party.role == "control"]
    if len(controls) < 2:  # a lone control has no other control to be compared with
        controls = []
    asked = {
        model: [
            Question(
                suspect=model,
                teacher=teacher,
                probes=_probes(config, parties, prompts, answers, gains, model, teacher),
            )
            for teacher in teachers
        ]
        for model in ("suspect", *controls)
    }
    return asked["suspect"], [question for name in controls for question in asked[name]]


def _probes(
    config: AuditConfig,
    parties: Sequence[Party],
    prompts: Sequence[Response],
    answers: dict[str, dict[str, str]],
    gains: dict[str, dict[str, Gains]],
    model: str,
    teacher: str,
) -> tuple[ProbeResult, ...]:
    """Run every probe that can run on `model` and `teacher`.

    A control in the suspect's place is compared with the other controls, never with the suspect.
    """
    others = {p.name: p.role for p in parties if p.role in ("control", "reference")}
    others.pop(model, None)
    results = []
    if teacher in gains:
        results.append(
            logprob_shift.examine(
                gains[teacher][model],
                [gains[teacher][name] for name, role in others.items() if role == "control"],
                _usable(prompts, answers[teacher]),
                answers[teacher],
                alpha=config.alpha,
                min_prompts=config.min_prompts,
                min_shift=config.min_shift,
                seed=config.seed,
            )
        )
    results.append(
        contrast.examine(
            model,
            {n: [answers[n].get(p.id, "") for p in prompts] for n in (model, *others)},
            [answers[teacher].get(p.id, "") for p in prompts],
            prompts,
            roles=others,
            alpha=config.alpha,
            min_prompts=config.min_prompts,
            seed=config.seed,
        )
    )
    return tuple(results)


def _power(config: AuditConfig, questions: Sequence[Question]) -> tuple[Power, ...]:
    """Return, for each probe that ran, the smallest effect this audit would have seen."""
    rows = []
    for result in questions[0].probes:
        values = np.array([row.suspect - row.others for row in result.prompts])
        known = len(values) > 1 and result.probe == logprob_shift.NAME
        rows.append(
            Power(
                probe=result.probe,
                n_prompts=result.n_prompts,
                smallest_effect=smallest_effect(values, alpha=config.alpha) if known else None,
                unit=result.unit,
                note="detected four times in five over prompts alone, at this scatter"
                if known
                else f"a rank needs {references_needed(config.alpha)} reference models",
            )
        )
    return tuple(rows)


def _capped(finding: evidence.Finding) -> evidence.Finding:
    """Hold back a finding whose controls are not what a control must be."""
    if finding.verdict is not Verdict.SUPPORTED:
        return finding
    reason = "the controls do not match the suspect's training, as listed under controls"
    return replace(finding, verdict=Verdict.INCONCLUSIVE, reason=reason, relation="not decided")


def _suspect(config: AuditConfig, suspect: Party) -> Suspect:
    files = suspect.files
    if files is None:
        return Suspect(name=suspect.path.name, kind="responses file", sha256=suspect.sha256())
    return Suspect(
        name=config.suspect,
        kind="model directory" if files.run is None else "run directory",
        sha256=suspect.sha256(),
        reference=None if files.start is None else files.start.name,
        inherits=files.inherits(),
    )


def _settings(config: AuditConfig) -> dict[str, Any]:
    return {
        "alpha": config.alpha,
        "min_prompts": config.min_prompts,
        "min_shift": config.min_shift,
        "max_tokens": config.max_tokens,
        "temperature": config.temperature,
        "seed": config.seed,
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
