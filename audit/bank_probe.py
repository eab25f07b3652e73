"""An audit of answers against a bank, in order: index, line-up, ruling, controls, report.

The suspect is compared with the bank's models at the prompts it answers. Everything the finding
rests on is measured again with these prompts and references: how often known unrelated pairs look
related, and which known students would have been caught.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np

from audit import bank as banks
from audit import responses
from audit.attest import file_digest
from audit.bank import Bank, Group, Model, Truth
from audit.config import AuditConfig
from audit.errors import ConfigError, InputError
from audit.evidence import (
    Controls,
    Exhibit,
    Finding,
    KnownStudent,
    Material,
    Member,
    NotRun,
    Power,
    ProbeResult,
    Rate,
    Suspect,
    Verdict,
)
from audit.lineup import case, known, outsider, prompts, reading
from audit.lineup import index as indices
from audit.lineup.case import Case
from audit.lineup.ruling import Rules, Ruling, rule
from audit.lineup.standing import Lineup
from audit.population import bootstrap_interval
from audit.probes import contrast, self_identity
from audit.responses import Response

Say = Callable[[str], None]
Progress = Callable[[str, int, int, str], None]

UNIT = "spreads of unrelated pairs"
PROPOSITIONS = (
    "The suspect's answers derive from the group's models: by training on their outputs, further "
    "tuning of their weights, serving them otherwise, or editing their answers.",
    "They do not; what likeness there is comes from common data, period, quality and style.",
)
NULL = (
    "The suspect is one more model that is not related to the group: its score is as likely to "
    "stand at any rank among those of documented unrelated pairs of other families."
)
CANNOT_SAY = (
    "Likeness has no direction: without dates it does not tell who learnt from whom, nor whether "
    "both learnt from a third.",
    "What documents say of the bank's models is taken as it stands.",
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
_EXHIBITS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """What an audit against a bank found.

    Attributes:
        suspect: as the report names it.
        findings: one a group.
        controls: what the error rates are of.
        rates: of p-values among documented negatives.
        students: known students in the suspect's place.
        power: in one sentence a probe.
        materials: what was read.
    """

    suspect: Suspect
    findings: tuple[Finding, ...]
    controls: Controls
    rates: tuple[Rate, ...]
    students: tuple[KnownStudent, ...]
    power: tuple[Power, ...]
    materials: tuple[Material, ...]


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
    for role, named in (("teacher", config.teachers), ("reference", config.reference_models)):
        rows += [
            Material(name=name, kind=f"{role}: answers", sha256=_pin(path))
            for name, path in named.items()
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


def examine(config: AuditConfig, *, cache: Path | None, say: Say, progress: Progress) -> Examined:
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
    models, facts = case.lineup(bank, index, config.min_prompts)
    rules = Rules(alpha=config.alpha)
    row = len(bank.models) - 1
    left_out = _left_out(bank, config)
    say(f"{len(index.prompts)} prompts, {len(bank.models) - 1} models, {len(bank.groups)} groups")
    found = case.examine(models, facts, [row], left_out)
    rulings = rule(bank, models, found, bank.models[row], 0, rules, answered=len(index.prompts))
    asked = _asked(config, rulings)
    students = _known_students(bank, models, facts, left_out, rules, len(index.prompts), progress)
    return Examined(
        suspect=Suspect(
            name=Path(config.suspect).name, kind="responses file", sha256=_pin(config.suspect)
        ),
        findings=tuple(_findings(bank, index, models, found, asked, given, config.seed)),
        controls=Controls(description=CONTROLS, findings=(), matched=(), unmatched=()),
        rates=tuple(Rate(**asdict(one)) for one in found.strata),
        students=students,
        power=(_power(students, len(index.prompts)),),
        materials=materials(config),
    )


def _asked(config: AuditConfig, rulings: Sequence[Ruling]) -> list[Ruling]:
    """Return the findings that were asked for: of named teachers, or of every group."""
    return [one for one in rulings if not config.teachers or one.group in config.teachers]


def _extended(bank: Bank, config: AuditConfig) -> Bank:
    """Return the bank with teachers and references that were named beside it."""
    for name in (*config.teachers, *config.reference_models):
        if name in bank.files or any(group.name == name for group in bank.groups):
            raise ConfigError(
                f"the bank has a model or group named {name!r} already; choose another name."
            )
    teachers = [_model(name, role="teacher", group=name) for name in config.teachers]
    references = [_model(name, role="vendor", group=None) for name in config.reference_models]
    groups = [Group(name=n, vendor=n, launch=None, members=(n,)) for n in config.teachers]
    paths = {**config.teachers, **config.reference_models}
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


def _model(name: str, *, role: str, group: str | None) -> Model:
    return Model(
        name=name,
        family=name,
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
    facts: case.Known,
    left_out: frozenset[str],
    rules: Rules,
    answered: int,
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
        own = frozenset({name})
        theirs = case.examine(models, facts, rows, left_out | own | known.relatives(bank, own))
        for place, row in enumerate(rows):
            rulings = rule(bank, models, theirs, bank.models[row], place, rules, answered=answered)
            found += [
                KnownStudent(
                    name=one.suspect,
                    group=one.group,
                    relation=bank.models[row].relation,
                    verdict=one.verdict,
                    score=one.score,
                    p_value=one.p_value,
                )
                for one in rulings
                if known.truth(bank, bank.models[row], _group(bank, one.group)) == "positive"
            ]
        progress("known students in the suspect's place", number, len(families), "families")
    return tuple(found)


def _group(bank: Bank, name: str) -> Group:
    return next(group for group in bank.groups if group.name == name)


def _power(students: Sequence[KnownStudent], count: int) -> Power:
    caught: dict[str, list[bool]] = {}
    for one in students:
        caught.setdefault(one.relation, []).append(one.verdict is Verdict.SUPPORTED)
    parts = [f"{sum(hits)} of {len(hits)} {name}" for name, hits in sorted(caught.items())]
    note = "the bank documents no student" if not parts else f"{', '.join(parts)}"
    return Power(
        probe=contrast.NAME,
        n_prompts=count,
        smallest_effect=None,
        unit=UNIT,
        note=f"known pairs that would be SUPPORTED with these prompts and references: {note}",
    )


def _findings(
    bank: Bank,
    index: indices.Index,
    models: Lineup,
    found: Case,
    rulings: Sequence[Ruling],
    given: Mapping[str, Response],
    seed: int,
) -> list[Finding]:
    row = len(bank.models) - 1
    views = [view.name for view in reading.DECIDING]
    share_PK, member_K = prompts.contributions(models, views, row, found.left_out, found.main.scale)
    documents = [given[prompt].document for prompt in index.prompts]
    column = {group.name: number for number, group in enumerate(bank.groups)}
    stated = _stated(bank, index, given)
    made = []
    for one in rulings:
        group = column[one.group]
        low = high = None
        exhibits: tuple[Exhibit, ...] = ()
        if one.score is not None:
            low, high = bootstrap_interval(share_PK[:, group], documents, seed=seed)
            teacher = index.teachers[member_K[group]]
            exhibits = _exhibits(bank, index, share_PK[:, group], teacher, given)
        probe = _main_probe(bank, models, found, one, group, (low, high), len(index.prompts))
        made.append(
            Finding(
                suspect=one.suspect,
                teacher=one.group,
                group=one.group,
                verdict=one.verdict,
                reason=one.reason,
                relation=one.relation,
                score=one.score,
                low=low,
                high=high,
                rank=one.rank,
                p_value=one.p_value,
                p_adjusted=one.p_adjusted,
                log10_lr=one.log10_lr,
                log10_lr_low=None if low is None or found.ratio is None else found.ratio.of(low),
                probes=(
                    replace(probe, exhibits=exhibits),
                    *_checks(one, len(index.prompts)),
                    _equality(one, found.same_elsewhere, len(index.prompts)),
                    _self_identity(bank, models, stated, group),
                ),
            )
        )
    return made


def _main_probe(
    bank: Bank,
    models: Lineup,
    found: Case,
    one: Ruling,
    group: int,
    interval: tuple[float | None, float | None],
    count: int,
) -> ProbeResult:
    """Return the deciding likeness with the population it is ranked among."""
    scores_N = found.main.reference_NK[:, group]
    unrelated = np.flatnonzero(models.negative_NK[:, group] & ~np.isnan(scores_N))
    members = [
        Member(name=bank.models[row].name, role="reference", score=float(scores_N[row]))
        for row in unrelated
    ]
    if one.score is not None:
        members.insert(0, Member(name=one.suspect, role="suspect", score=one.score))
    floor = "" if one.p_own_floor is None else _own_rank(one)
    return ProbeResult(
        probe=contrast.NAME,
        needs="text",
        verdict=one.verdict,
        reason=one.reason,
        null=NULL + floor,
        unit=UNIT,
        n_prompts=count,
        score=one.score,
        low=interval[0],
        high=interval[1],
        p_value=one.p_value,
        rank=one.rank,
        rank_of=one.rank_of,
        population=tuple(members),
        cannot_say=CANNOT_SAY,
        would_need=_would_need(one),
    )


def _own_rank(one: Ruling) -> str:
    return (
        f" Among unrelated families of this group alone p is {one.p_own:.3f}, and it cannot be "
        f"below {one.p_own_floor:.3f}."
    )


def _would_need(one: Ruling) -> str:
    if one.verdict is not Verdict.INSUFFICIENT:
        return ""
    return "more answered prompts, or a bank that documents more unrelated families"


def _checks(one: Ruling, count: int) -> list[ProbeResult]:
    """Return the same question of other readings of the answers, beside the deciding one."""
    return [
        ProbeResult(
            probe=f"{contrast.NAME}, {name}",
            needs="text",
            verdict=Verdict.INSUFFICIENT if p_value is None else Verdict.INCONCLUSIVE,
            reason="a check of the deciding likeness; it supports nothing by itself",
            null=NULL,
            unit=UNIT,
            n_prompts=count,
            score=score,
            p_value=p_value,
        )
        for name, (score, p_value) in one.checks.items()
    ]


def _exhibits(
    bank: Bank,
    index: indices.Index,
    share_P: np.ndarray,
    teacher: str,
    given: Mapping[str, Response],
) -> tuple[Exhibit, ...]:
    """Return the prompts whose answers are likest, and as many whose are least like."""
    theirs = bank.answers(teacher)
    order = [p for p in np.argsort(-share_P) if index.prompts[p] in theirs]
    chosen = [*order[:_EXHIBITS], *order[::-1][:_EXHIBITS]]
    return tuple(
        Exhibit(
            id=index.prompts[p],
            prompt=given[index.prompts[p]].prompt,
            answers={
                teacher: theirs[index.prompts[p]].response,
                "suspect": given[index.prompts[p]].response,
            },
            note=f"this prompt alone would give {share_P[p]:+.1f}",
        )
        for p in dict.fromkeys(chosen)
    )


def _stated(
    bank: Bank, index: indices.Index, given: Mapping[str, Response]
) -> dict[str, list[list[tuple[str, ...]]]]:
    """Return what each model says of itself in each answer to the prompts of the audit."""
    *known_models, suspect = bank.models
    answers = {model.name: bank.answers(model.name) for model in known_models}
    answers[suspect.name] = dict(given)
    return {
        name: [
            self_identity.statements(rows[prompt].response)
            for prompt in index.prompts
            if prompt in rows and rows[prompt].response.strip()
        ]
        for name, rows in answers.items()
    }


def _self_identity(
    bank: Bank,
    models: Lineup,
    stated: Mapping[str, list[list[tuple[str, ...]]]],
    group: int,
) -> ProbeResult:
    """Return how often suspect and unrelated models say that they are of a group."""
    this, suspect = bank.groups[group], bank.models[-1].name
    unrelated = [bank.models[row].name for row in np.flatnonzero(models.negative_NK[:, group])]
    return self_identity.examine(
        suspect,
        {name: stated[name] for name in (suspect, *unrelated)},
        (this.name, this.vendor, *this.members),
    )


def _equality(one: Ruling, elsewhere: float, count: int) -> ProbeResult:
    """Return how many answers are the very same: a service that passes questions on, perhaps."""
    share = one.same_answers
    reason = "too few prompts are answered at length by both"
    if share is not None:
        reason = (
            f"{share:.0%} of the answers of some length are in the very same words as a member's; "
            f"of unrelated pairs at most {elsewhere:.0%}"
        )
    return ProbeResult(
        probe="equality",
        needs="text",
        verdict=Verdict.INSUFFICIENT if share is None else Verdict.INCONCLUSIVE,
        reason=reason,
        null="Two models answer at length in the very same words by chance alone.",
        unit="share of answers",
        n_prompts=count,
        score=share,
        cannot_say=(
            "A model that draws its words at random seldom repeats itself, so few equal answers do "
            "not show that another model was asked.",
        ),
    )
