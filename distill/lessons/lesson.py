"""What the teachers have to say about a run's text: one lesson each, asked once and kept on disk.

Each teacher is asked about the windows it teaches. One on disk gives its signal at every training
position and its exact hidden states on held-out text (`hearing.py`); a served one gives what its
server does (`served.py`), and what teachers wrote themselves is part of the text by now
(`written.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.batches import Route, Rows, Source
from distill.config import TeacherConfig
from distill.evaluation.answering import Effort
from distill.evaluation.tasks import Answer
from distill.prices import Asked
from distill.rollout.scoring import Share
from distill.store.store import Store
from distill.teachers.local import LocalTeacher


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What one teacher says of one side of the text.

    Attributes:
        voices: where its signals are had from, and which positions are there; several where it
            says different kinds of things of different positions.
        stores: where they lie.
    """

    voices: tuple[tuple[Source, Rows], ...]
    stores: tuple[Store, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """What one teacher said, and who it was.

    Attributes:
        config: as the run file names it.
        sha256: of its weights, or of the log of what a served teacher answered.
        model: what a served teacher calls itself; empty for one on disk.
        path: its directory; None for a served teacher.
        width: T, the size of its hidden states; None where it gives none.
        train: on the training windows; None for a control, and for a teacher that only writes.
        held: exact, on the held-out windows; None where that cannot be had.
        vocabulary: facts on how its tokens meet the student's, for the record.
        samples: rows of `prompt` and `teacher`, how it goes on.
        tasks: its answers to each task, in their order; empty where it was asked none.
        task_effort: what they took.
        shapes: of its parameters, by name, for the bill.
        asked: what was asked of a served teacher, for the bill.
        wrote: tokens that a teacher on disk read and wrote for its answers; None without any.
        live: the teacher itself, kept where it reads what the student writes.
    """

    config: TeacherConfig
    sha256: str
    model: str = ""
    path: Path | None = None
    width: int | None = None
    train: Said | None = None
    held: Said | None = None
    vocabulary: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, str]] = field(default_factory=list)
    tasks: list[list[Answer]] = field(default_factory=list)
    task_effort: Effort = field(default_factory=Effort)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    asked: Asked | None = None
    wrote: tuple[int, int] | None = None
    live: LocalTeacher | None = None

    def stores(self) -> list[tuple[str, Store]]:
        """Return the stores of the lesson, with what they are of."""
        sides = ("training signals", self.train), ("held-out signals", self.held)
        return [(what, store) for what, said in sides if said for store in said.stores]

    @property
    def tokens(self) -> int:
        """Positions of training it speaks of."""
        return 0 if self.train is None else self.train.stores[0].tokens

    @property
    def tokens_read(self) -> int:
        """Positions it read for this run's signals; a control's were read for its student."""
        return sum(store.tokens for _, store in self.stores()) if self.train else 0

    @property
    def seconds(self) -> float:
        """Time its signals took, in all processes; a control's are in its student's bill."""
        return sum(store.seconds for _, store in self.stores()) if self.train else 0.0


def routes(said: Sequence[Said | None], shared: dict[int, tuple[Share, ...]]) -> list[Route]:
    """Return the routes of one side of the text, as `Reading` takes them.

    Args:
        said: of that side, a teacher each.
        shared: who teaches what.
    """
    found = []
    # Mixtures first: a window of two teachers is one of each of them, too.
    for who in sorted(set(shared.values()), key=lambda shares: -len(shares)):
        heard = [(share.weight, said[share.teacher]) for share in who]
        there = [(weight, one) for weight, one in heard if one is not None]
        if len(there) == 1 == len(heard):
            found += [Route(voices=((1.0, *voice),)) for voice in there[0][1].voices]
        elif there and len(there) == len(heard):
            found.append(Route(voices=tuple((w, *one.voices[0]) for w, one in there)))
    return found
