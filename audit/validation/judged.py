"""Findings beside what is documented of their pairs: what a validation is made of."""

import math
from dataclasses import dataclass
from typing import Any

from audit.lineup.case import Stratum
from audit.lineup.ruling import Rules, Ruling


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A finding beside what is documented of its pair.

    Attributes:
        truth: positive, negative, unknown or self.
        family: the suspect's.
        role: the suspect's: teacher, vendor, student or control.
        relation: the suspect's, to its documented teachers.
        vendor: the group's.
    """

    ruling: Ruling
    truth: str
    family: str
    role: str
    relation: str
    vendor: str


def score_of(judged: Judged) -> float:
    """Return the score, NaN where there is none."""
    return math.nan if judged.ruling.score is None else judged.ruling.score


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """What a bank says of the audit.

    Attributes:
        bank: its directory's name.
        bank_sha256: digest of its tables and answers.
        models: how many were judged; `families` and `prompts` likewise.
        rules: what a finding needed, with `least_prompts` that two models had to share.
        judged: every finding beside its truth, suspects and groups in the bank's order.
        metrics: every rate (`rates.py`), as `metrics.json` has it.
        calibration: how p-values of documented negatives fell, by stratum and level.
    """

    bank: str
    bank_sha256: str
    models: int
    families: int
    prompts: int
    rules: Rules
    least_prompts: int
    judged: tuple[Judged, ...]
    metrics: dict[str, Any]
    calibration: tuple[Stratum, ...]
