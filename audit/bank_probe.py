"""An audit of answers against a bank, in order: index, line-up, ruling, controls, report.

The suspect is compared with the bank's models at the prompts it answers. Everything the finding
rests on is measured again with these prompts and references: how often known unrelated pairs look
related, and which known students would have been caught.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import numpy as np

from audit import bank as banks
from audit import responses
from audit.attest import file_digest
from audit.bank import Bank, Group, Model, Truth
from audit.bank_findings import UNIT, findings
from audit.config import AuditConfig
from audit.errors import ConfigError, InputError
from audit.evidence import (
    Body,
    Controls,
    KnownStudent,
    Material,
    NotRun,
    Power,
    Rate,
    Suspect,
    Verdict,
)
from audit.lineup import case, known, outsider, reading
from audit.lineup import index as indices
from audit.lineup.judging import judge
from audit.lineup.ruling import Rules, Ruling, rule
from audit.lineup.standing import Lineup
from audit.probes import contrast

Say = Callable[[str], None]
Progress = Callable[[str, int, int, str], None]

PROPOSITIONS = (
    "The suspect's answers derive from the group's models: by training on their outputs, further "
    "tuning of their weights, serving them otherwise, or editing their answers.",
    "They do not; what likeness there is comes from common data, period, quality and style.",
)
CONTROLS = (
    "The bank's own models in the suspect's place, at the same prompts, with the suspect's family "
    "left out: how often pairs documented to be unrelated have small p-values."
)
NOT_RUN = (
    NotRun(
        probe="logprob_shift",
        reason="the suspect is given as answers",
        would_need="the suspect's weights, its starting checkpoint, and matched controls' of both",
    ),
)


def materials(config: AuditConfig) -> tuple[Material, ...]:
    """Return a line for each file or bank the audit reads.

    Raises:
        InputError: one is missing.
    """
    assert config.bank is not None
    rows = [
        Material(
            name=Path(config.suspect).name, kind="suspect: answers", sha256=_pin(config.suspect)
        )
    ]
    bank = banks.load(Path(config.bank))
    rows.append(Material(name=bank.path.resolve().name, kind="bank", sha256=bank.sha256()))
    for role, paths in (
        ("teacher", {name: path for of in _members(config).values() for name, path in of.items()}),
        ("reference", config.reference_models),
    ):
        rows += [
            Material(name=name, kind=f"{role}: answers", sha256=_pin(path))
            for name, path in paths.items()
        ]
    return tuple(rows)


def _pin(path: str) -> str:
    where = Path(path)
    if not where.is_file() or not responses.is_responses_file(where):
        raise InputError(
            f"{path} is no file of answers (.jsonl, .jsonl.gz); an audit against a bank compares "
            "answers to the bank's prompts."
        )
    return file_digest(where)


def examine(config: AuditConfig, *, cache: Path | None, say: Say, progress: Progress) -> Body:
    """Return what the bank says of the suspect.

    Raises:
        InputError: the bank or a file of answers cannot be used as it is.
    """
    assert config.bank is not None
    bank = _extended(banks.load(Path(config.bank)), config)
    given = {row.id: row for row in responses.read(Path(config.suspect))}
    index = indices.of(
        bank,
        reading.VIEWS,
        cache=None if config.teachers or config.reference_models else cache,
        tell=lambda done, steps: progress("comparing the bank's answers", done, steps, "steps"),
    )
    if not any(id in given and given[id].response.strip() for id in index.prompts):
        raise InputError(
            f"{config.suspect} answers none of the bank's prompts with a text; ids must match "
            f"those of {config.bank}."
        )
    bank, index = outsider.join(
        bank,
        index,
        {id: row.response for id, row in given.items()},
        name=Path(config.suspect).name.removesuffix(".gz").removesuffix(".jsonl"),
        family=config.suspect_family,
        published=date.fromisoformat(config.suspect_date) if config.suspect_date else None,
    )
    facts = known.facts(bank)
    models = case.lineup(bank, index, facts, config.min_prompts)
    rules = Rules(alpha=config.alpha)
    row = len(bank.models) - 1
    left_out = _left_out(bank, config)
    say(f"{len(index.prompts)} prompts, {len(bank.models) - 1} models, {len(bank.groups)} groups")
    found = case.examine(models, facts, [row], left_out)
    rulings = rule(bank, models, found, bank.models[row], 0, rules, answered=len(index.prompts))
    asked = _asked(config, rulings)
    students = _known_students(bank, models, facts, left_out, rules, progress)
    return Body(
        suspect=Suspect(
            name=Path(config.suspect).name,
            kind="responses file",
            sha256=_pin(config.suspect),
            greetings=outsider.taken_off(
                bank, [given[prompt].response for prompt in index.prompts], bank.models[row].name
            ),
        ),
        propositions=PROPOSITIONS,
        findings=tuple(findings(bank, index, models, found, asked, given, config.seed)),
        controls=Controls(
            description=f"{CONTROLS} {_positive_control(students, asked)}",
            findings=(),
            matched=(),
            unmatched=(),
        ),
        power=_power(students, asked, len(index.prompts)),
        not_run=NOT_RUN,
        error_rates=tuple(Rate(**asdict(one)) for one in found.strata),
        known_students=students,
    )


def _asked(config: AuditConfig, rulings: Sequence[Ruling]) -> list[Ruling]:
    """Return the findings that were asked for: of named teachers, or of every group."""
    return [one for one in rulings if not config.teachers or one.group in config.teachers]


def _members(config: AuditConfig) -> dict[str, dict[str, str]]:
    """Return the models of each named teacher, by their names: the teacher's, numbered if several.

    Each is a file of answers.
    """
    return {
        teacher: {
            teacher if len(paths) == 1 else f"{teacher} {number}": path
            for number, path in enumerate(paths, 1)
        }
        for teacher, paths in config.teacher_paths().items()
    }


def _extended(bank: Bank, config: AuditConfig) -> Bank:
    """Return the bank with teachers and references that were named beside it."""
    members = _members(config)
    files = {name: path for of in members.values() for name, path in of.items()}
    for teacher, of in members.items():
        if len(of) > 1 and not members.keys().isdisjoint(of):
            raise ConfigError(
                f"the files of teacher {teacher!r} are called {', '.join(of)}, as another teacher "
                "is; give that one another name."
            )
    for name in (*members, *files, *config.reference_models):
        if name in bank.files or any(group.name == name for group in bank.groups):
            raise ConfigError(
                f"the bank has a model or group named {name!r} already; choose another name."
            )
    teachers = [
        _model(name, family=teacher, role="teacher", group=teacher)
        for teacher, of in members.items()
        for name in of
    ]
    references = [
        _model(name, family=name, role="vendor", group=None) for name in config.reference_models
    ]
    groups = [
        Group(name=teacher, vendor=teacher, launch=None, members=tuple(of))
        for teacher, of in members.items()
    ]
    paths = {**files, **config.reference_models}
    whole = replace(
        bank,
        models=(*bank.models, *teachers, *references),
        groups=(*bank.groups, *groups),
        files={**bank.files, **{name: Path(path) for name, path in paths.items()}},
    )
    if not bank.truths:
        return whole
    # What pairs.csv cannot say, for it does not know them.
    added = {
        (model.name, group.name): Truth(
            truth=known.documented(whole, model, group), basis="not in pairs.csv"
        )
        for model in whole.models
        for group in whole.groups
        if model in (*teachers, *references) or group in groups
    }
    return replace(whole, truths={**bank.truths, **added})


def _model(name: str, *, family: str, role: str, group: str | None) -> Model:
    return Model(
        name=name,
        family=family,
        role=role,
        group=group,
        teachers=(),
        relation="none",
        confidence="",
        source="named on the command line",
        same_base_as=None,
        published=None,
    )


def _left_out(bank: Bank, config: AuditConfig) -> frozenset[str]:
    """Return the families that are no references: the suspect's and those of its relatives.

    Raises:
        InputError: a relative is no model of the bank.
    """
    family = {model.name: model.family for model in bank.models}
    for name in config.related:
        if name not in family:
            raise InputError(f"--related {name}: the bank has no such model; check the name.")
    own = frozenset({bank.models[-1].family, *(family[name] for name in config.related)})
    return own | known.relatives(bank, own)


def _known_students(
    bank: Bank,
    models: Lineup,
    facts: known.Facts,
    left_out: frozenset[str],
    rules: Rules,
    progress: Progress,
) -> tuple[KnownStudent, ...]:
    """Return what the same audit says of students whose teachers are documented."""
    taught = set(np.nonzero(facts.truths["positive"])[0].tolist())
    families = [
        name
        for name in dict.fromkeys(models.family[row] for row in sorted(taught))
        if name not in left_out
    ]
    found: list[KnownStudent] = []
    for number, name in enumerate(families, 1):
        rows = [row for row in sorted(taught) if models.family[row] == name]
        found += [
            KnownStudent(
                name=one.suspect,
                group=one.group,
                relation=bank.model(one.suspect).relation,
                verdict=one.verdict,
                score=one.score,
                p_value=one.p_value,
            )
            for one in judge(bank, models, facts, rows, rules, left_out=left_out)
            if known.truth(bank, bank.model(one.suspect), bank.group(one.group)) == "positive"
        ]
        progress("known students in the suspect's place", number, len(families), "families")
    return tuple(found)


def _positive_control(students: Sequence[KnownStudent], asked: Sequence[Ruling]) -> str:
    """Return what became of a known student of a group asked about: the first in the bank."""
    groups = [one.group for one in asked]
    known_ones = [one for one in students if one.group in groups]
    chosen = next((one for one in known_ones if one.relation == "single"), None) or next(
        iter(known_ones), None
    )
    if chosen is None:
        return "There is no positive control: the bank documents no student of a group asked about."
    said = (
        f"Positive control: {chosen.name}, a documented student of {chosen.group} and the first in "
        f"the bank, comes out as {chosen.verdict}"
    )
    if chosen.verdict is Verdict.SUPPORTED:
        return f"{said}."
    return f"{said}: this audit misses known students, so that nothing found says little."


def _power(
    students: Sequence[KnownStudent], asked: Sequence[Ruling], count: int
) -> tuple[Power, ...]:
    """Return which known students would be caught: of all groups, and of each asked about."""
    first = "known pairs that would be SUPPORTED with these prompts and references: "
    notes = {contrast.NAME: first + _caught(students, "the bank documents no student")}
    for one in asked:
        of_group = [student for student in students if student.group == one.group]
        none = "the bank documents no student, so what this audit would miss is not known"
        notes[f"{contrast.NAME}, {one.group}"] = _caught(of_group, none)
    return tuple(
        Power(probe=name, n_prompts=count, smallest_effect=None, unit=UNIT, note=note)
        for name, note in notes.items()
    )


def _caught(students: Sequence[KnownStudent], none: str) -> str:
    caught: dict[str, list[bool]] = {}
    for one in students:
        caught.setdefault(one.relation, []).append(one.verdict is Verdict.SUPPORTED)
    counts = [f"{sum(hits)} of {len(hits)} {name}" for name, hits in sorted(caught.items())]
    return ", ".join(counts) or none
