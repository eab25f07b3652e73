"""What a teacher's owner allows to be done with its answers, as whoever runs this states it.

A teacher is the user's own (`owned: true`), or its entry carries a `terms:` block that says who
owns it, where its terms stand, and whether they permit training on what it says. This module knows
no owner and judges none: it refuses where the statement is no or missing, and passes on what the
statement obliges to.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from distill.errors import DistillError

Stated = Annotated[str, Field(min_length=1, pattern=r"\S")]


class TermsError(DistillError):
    """A teacher whose terms, as stated, do not permit this use or are not stated. Exits 2."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
class Terms:
    """The terms of one teacher, as stated by the user.

    Attributes:
        owner: who may set terms for the teacher's weights or answers.
        url: where the terms stand, with its scheme.
        retrieved: the day they were read, YYYY-MM-DD.
        sha256: of the terms' text as it was read, so that a later change shows.
        permits_training: whether another model may be trained on what the teacher says;
            `conditional` when the obligations are the condition.
        obligations: what must be done in turn, one sentence each; copied into every record.
        basis: where in the terms this stands, or why it is read so.
    """

    owner: Stated
    url: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9+.\-]*:[^\s<>\"{}|\\^`\[\]]+$")]
    retrieved: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    permits_training: Literal[True, False, "conditional"]
    obligations: tuple[Stated, ...] = ()
    basis: str = ""

    def __post_init__(self) -> None:
        try:
            written = date.fromisoformat(self.retrieved).isoformat()
        except ValueError:
            written = ""
        if written != self.retrieved:
            raise ValueError(f"retrieved is {self.retrieved!r}; write the day as YYYY-MM-DD")


def check(name: str, owned: bool, terms: Terms | None) -> tuple[str, ...]:
    """Return what the teacher called `name` obliges to.

    The terms of an owned teacher may be stated too, for what its weights came from: they oblige,
    but they do not forbid.

    Raises:
        TermsError: the teacher is not owned, and its terms are not stated, say no, or permit
            training on conditions that are not listed.
    """
    if not owned:
        _refuse(name, terms)
    return () if terms is None else terms.obligations


def _refuse(name: str, terms: Terms | None) -> None:
    if terms is None:
        raise TermsError(
            f"teacher {name!r} is not marked as your own and states no terms; read its terms and "
            "put a terms: block in its entry, or owned: true."
        )
    read = f"teacher {name!r}: the terms at {terms.url}, as you read them on {terms.retrieved},"
    if terms.permits_training is False:
        raise TermsError(
            f"{read} do not permit training on its answers (permits_training: false); choose "
            "another teacher, or agree on other terms with its owner and state those."
        )
    if terms.permits_training == "conditional" and not terms.obligations:
        raise TermsError(
            f"{read} permit training on conditions, but terms.obligations lists none; list them."
        )


def owed(teachers: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return every obligation once, with the names of the teachers it comes from.

    Args:
        teachers: rows of a manifest's `teachers`, of which `name` and `obligations` are read.
    """
    found: dict[str, list[str]] = {}
    for teacher in teachers:
        for obligation in teacher.get("obligations", ()):
            found.setdefault(obligation, []).append(teacher["name"])
    return list(found.items())
