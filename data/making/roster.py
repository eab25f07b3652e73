"""Who is in the shipped bank, and who is taught by whom: known, because it is made so."""

from dataclasses import dataclass
from typing import Literal

TEACHERS = ("alembic", "coffey", "lomond", "retort")
# A student that is published as a teacher in its turn: its fellow students are its siblings.
HEIR = "cucurbit"

Relation = Literal["none", "single", "mixed", "edited"]
SINGLE_EACH, MIXED, EDITED, CONTROLS = 5, 6, 4, 15


@dataclass(frozen=True, slots=True)
class Member:
    """A model of the bank.

    Attributes:
        name: of the model, and of its family: each begins at random weights of its own.
        role: as in `models.csv`.
        relation: what its text is to that of its teachers.
        teachers: whose answers it learns from; for none of them, it learns from a writer.
        heard: whether it learns from the teacher's probabilities, too, and not from text alone.
    """

    name: str
    role: Literal["teacher", "student", "control"]
    relation: Relation
    teachers: tuple[str, ...] = ()
    heard: bool = False

    @property
    def group(self) -> str:
        """The group of teachers it is, or an empty text."""
        return self.name if self.role == "teacher" else ""


def _members() -> tuple[Member, ...]:
    found = [Member(name, "teacher", "none") for name in TEACHERS]
    found.append(Member(HEIR, "teacher", "single", (TEACHERS[0],)))
    taught: list[tuple[Relation, tuple[str, ...]]] = []
    for number in range(SINGLE_EACH):
        taught += [("single", (teacher,)) for teacher in TEACHERS]
        if number == 0:
            taught += [("edited", (TEACHERS[place % 4],)) for place in range(EDITED)]
    pairs = [(a, b) for place, a in enumerate(TEACHERS) for b in TEACHERS[place + 1 :]]
    taught += [("mixed", pairs[place % len(pairs)]) for place in range(MIXED)]
    for number, (relation, teachers) in enumerate(taught, 1):
        heard = relation == "single" and number % 2 == 0
        found.append(Member(f"student-{number:02}", "student", relation, teachers, heard))
    found += [Member(f"control-{n:02}", "control", "none") for n in range(1, CONTROLS + 1)]
    return tuple(found)


MEMBERS = _members()
# Not in the bank: their answers are given to `audit probe` to try it.
SUSPECTS = (
    Member("pupil", "student", "single", ("coffey",)),
    Member("stranger", "control", "none"),
)
