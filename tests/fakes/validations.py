"""Validations with realistic numbers, made from a seed, for the tests of their page."""

import random
from collections.abc import Sequence
from dataclasses import asdict, replace

from audit.evidence import Verdict
from audit.lineup.case import Stratum, wilson
from audit.lineup.ruling import NONE, NOT_SEPARATED, OPEN, SAME_WEIGHTS, TRAINED, Rules, Ruling
from audit.report.reveal import reveal_halves
from audit.validation.judged import Judged, Validation
from audit.validation.rates import confusion, rates

CHECKS = ("format stripped", "length matched", "after the first words")


def judged(
    suspect: str = "student-1",
    group: str = "maker-a-1",
    *,
    truth: str = "negative",
    verdict: Verdict = Verdict.NOT_SUPPORTED,
    score: float | None = 0.4,
    p_value: float | None = None,
    log10_lr: float | None = None,
    relation: str | None = None,
    reason: str = "unrelated models resemble their groups as much",
    role: str = "student",
    documented: str = "single",
    family: str | None = None,
    vendor: str | None = None,
) -> Judged:
    """Return a finding beside its truth; numbers that are not given follow from the score."""
    if verdict is Verdict.INSUFFICIENT:
        score = None
    if score is not None:
        p_value = 1 / (1 + 9 ** max(score, 0)) if p_value is None else p_value
        log10_lr = min(max(score - 1.5, -1.2), 1.6) if log10_lr is None else log10_lr
    named = {Verdict.SUPPORTED: TRAINED, Verdict.NOT_SUPPORTED: NONE}
    ruling = Ruling(
        suspect=suspect,
        group=group,
        verdict=verdict,
        reason=reason,
        relation=relation or named.get(verdict, OPEN),
        score=score,
        rank=None if score is None else 3,
        rank_of=None if score is None else 41,
        p_value=p_value,
        p_own=p_value,
        p_own_floor=None if score is None else 0.024,
        p_adjusted=None if p_value is None else min(3 * p_value, 1.0),
        log10_lr=log10_lr,
        checks={} if score is None else {name: (score - 0.1, p_value) for name in CHECKS},
    )
    return Judged(
        ruling=ruling,
        truth=truth,
        family=family or suspect,
        role=role,
        relation=documented,
        vendor=vendor or group.rsplit("-", 1)[0],
    )


def strata(vendors: Sequence[str] = ("maker-a", "maker-b")) -> tuple[Stratum, ...]:
    """Return how p fell, by stratum and level; human-data controls fail at .05."""
    parts = {"all": (40.0, 900.0), "human-data controls": (9.0, 60.0)}
    parts |= {f"groups of {vendor}": (3.0, 70.0 + place) for place, vendor in enumerate(vendors)}
    return tuple(
        Stratum(
            name=name,
            alpha=alpha,
            votes=votes,
            share=hits * alpha / 0.05 / votes,
            low=wilson(hits * alpha / 0.05, votes)[0],
            high=wilson(hits * alpha / 0.05, votes)[1],
            corrected=False,
        )
        for alpha in (0.05, 0.01)
        for name, (hits, votes) in parts.items()
    )


def population(models: int = 40, groups: int = 4, seed: int = 7) -> list[Judged]:
    """Return every model asked about every group: one in four a student of one, others of none."""
    rng = random.Random(seed)
    rows = []
    for model in range(models):
        role = ("student", "vendor", "control", "student")[model % 4]
        documented = "none" if model % 4 else ("single", "mixed", "derivative")[model // 4 % 3]
        for group in range(groups):
            positive = model % 4 == 0 and model // 4 % groups == group
            truth = "positive" if positive else "unknown" if model % 7 == 3 else "negative"
            score = round(rng.gauss(3.0 if positive else 0.0, 1.0), 3)
            verdict = Verdict.SUPPORTED if score > 2.8 else Verdict.NOT_SUPPORTED
            verdict = Verdict.INCONCLUSIVE if 1.5 < score <= 2.8 else verdict
            rows.append(
                judged(
                    f"model-{model:03d}",
                    f"maker-{group // 2}-{group}",
                    truth=truth,
                    verdict=verdict,
                    score=score,
                    role=role,
                    documented=documented,
                    family=f"family-{model // 2}",
                    relation=rng.choice([TRAINED, SAME_WEIGHTS, NOT_SEPARATED])
                    if verdict is Verdict.SUPPORTED
                    else None,
                )
            )
    return rows


def validation(
    rows: Sequence[Judged] | None = None,
    *,
    calibration: Sequence[Stratum] | None = None,
    bank: str = "tiny-bank",
) -> Validation:
    """Return a validation of these findings, its metrics counted from them."""
    rows = population() if rows is None else list(rows)
    fell = strata() if calibration is None else tuple(calibration)
    rules = Rules()
    return Validation(
        bank=bank,
        bank_sha256="9f2c" * 16,
        models=len({one.ruling.suspect for one in rows}),
        families=len({one.family for one in rows}),
        prompts=400,
        rules=rules,
        least_prompts=20,
        judged=tuple(rows),
        metrics=reveal_halves(
            {
                "schema": "spiritsafe.validation/1",
                "bank": {"name": bank, "sha256": "9f2c" * 16},
                "rules": {**asdict(rules), "least_prompts": 20},
                **rates(rows, alpha=0.05),
                "relations_found": confusion(rows),
                "calibration": [asdict(one) for one in fell],
            }
        ),
        calibration=fell,
    )


def with_ruling(one: Judged, **changes: object) -> Judged:
    """Return the finding with fields of its ruling replaced."""
    return replace(one, ruling=replace(one.ruling, **changes))
