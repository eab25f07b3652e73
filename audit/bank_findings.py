"""What the report of an audit against a bank says of each group: findings with their probes.

Shapes: P prompts, N models, K groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from audit.bank import Bank
from audit.evidence import Exhibit, Finding, Member, ProbeResult, Verdict
from audit.lineup import index as indices
from audit.lineup import outsider, prompts, reading
from audit.lineup.case import Case
from audit.lineup.ruling import Ruling
from audit.lineup.standing import Array, Lineup
from audit.population import bootstrap_interval
from audit.probes import attribution, contrast, permuted, self_identity
from audit.probes.attribution import Attributed
from audit.probes.showing import both_sides
from audit.responses import Response

UNIT = "spreads of unrelated pairs"
NULL = (
    "The suspect is one more model that is not related to the group: its score is as likely to "
    "stand at any rank among those of documented unrelated pairs of other families."
)
CANNOT_SAY = (
    "Likeness has no direction: without dates it does not tell who learnt from whom, nor whether "
    "both learnt from a third.",
    "What documents say of the bank's models is taken as it stands.",
)
# At full length, without format, and at equal length.
_ATTRIBUTING = (reading.DECIDING[-1], reading.PLAIN[-1], reading.MATCHED[0])


def findings(
    bank: Bank,
    index: indices.Index,
    models: Lineup,
    found: Case,
    rulings: Sequence[Ruling],
    given: Mapping[str, Response],
    seed: int,
) -> list[Finding]:
    """Return the findings on the suspect, which is the last model of the bank.

    Args:
        bank: with the suspect.
        index: of that bank, at the prompts the suspect answers.
        models: the line-up of it.
        found: the suspect's case.
        rulings: on each group that was asked about.
        given: the suspect's answers by prompt id.
        seed: of bootstrap draws.
    """
    row = len(bank.models) - 1
    views = [view.name for view in reading.DECIDING]
    likeness_VPT = prompts.likeness(models, views, row, found.left_out)
    share_PK, member_K = prompts.contributions(likeness_VPT, models.groups, found.main.scale)
    dealt_K = permuted.p_values(likeness_VPT, models.groups, seed=seed)
    documents = [given[prompt].document for prompt in index.prompts]
    column = {group.name: number for number, group in enumerate(bank.groups)}
    stated = _stated(bank, index, given)
    attributed = _attributed(bank, index, given, seed)
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
                    permuted.result(float(dealt_K[group]), len(index.prompts)),
                    _equality(one, found.same_elsewhere, len(index.prompts)),
                    *(attribution.result(of, group, view) for view, of in attributed.items()),
                    _self_identity(bank, models, stated, group),
                ),
            )
        )
    return made


def _attributed(
    bank: Bank, index: indices.Index, given: Mapping[str, Response], seed: int
) -> dict[str, Attributed | None]:
    """Return to which groups a classifier attributes the suspect's answers, by what it reads."""
    answers = [given[prompt].response for prompt in index.prompts]
    mine = outsider.vectors(bank, index, answers, bank.models[-1].name)
    group = {name: k for k, one in enumerate(bank.groups) for name in one.members}
    rows = len(index.teachers) * len(index.prompts)
    return {
        view.name: attribution.attribute(
            index.vectors[view.name][:rows],
            [group[name] for name in index.teachers],
            mine[view.name],
            seed=seed,
        )
        for view in _ATTRIBUTING
    }


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
    share_P: Array,
    teacher: str,
    given: Mapping[str, Response],
) -> tuple[Exhibit, ...]:
    """Return the prompts whose answers are likest, and as many whose are least like."""
    theirs = bank.answers(teacher)
    ascending = [p for p in np.argsort(share_P) if index.prompts[p] in theirs]
    return tuple(
        Exhibit(
            id=index.prompts[p],
            prompt=given[index.prompts[p]].prompt,
            answers={
                teacher: theirs[index.prompts[p]].response,
                "suspect": given[index.prompts[p]].response,
            },
            note=f"this prompt alone would give {share_P[p]:+.1f}",
            side=side,
        )
        for side, p in both_sides(ascending)
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
