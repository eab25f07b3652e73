"""A teacher of another tokenizer: what it says of the student's text, read in its own tokens.

There are three ways, and the loss says which. Divergences are held to its likeliest tokens, where
both have read the same bytes and both tables spell the token alike (`translation.py`).
`chunk_likelihood` is held to what it finds stretches of bytes worth (`alignment.py`). `sorted_l1`
compares sorted probabilities, in documents that cannot be aligned by bytes.

Shapes: V rows of the teacher's table, P positions or pairs taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from distill.batches import PickedRows, Rows, Source, WindowRows
from distill.config import RunConfig
from distill.errors import MismatchError
from distill.lessons.curriculum import Text
from distill.lessons.keeping import Keeping, dtype_of
from distill.lessons.lesson import Said
from distill.lessons.translation import Translated, spelt_alike, uncontradicted
from distill.loss.compatibility import check
from distill.loss.objective import ChunkLikelihood, Divergence, SortedL1, Term, from_a_teacher
from distill.signals import Signal, Sparse
from distill.signals import Text as TextSignal
from distill.store.shard import Mode
from distill.store.store import Store
from distill.teachers.local import LocalTeacher
from distill.teachers.stored import Signals
from distill.text.alignment import Alignment, Likelihoods, align
from distill.text.places import place

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Picked:
    """A source whose rows are some rows of another.

    Attributes:
        row_P: int64, on the CPU.
    """

    source: Source
    row_P: torch.Tensor

    @property
    def kind(self) -> type[Signal]:
        """What kind of signal it gives."""
        return self.source.kind

    def at(self, row_M: torch.Tensor, device: torch.device) -> Signal:
        """Return what is said at these rows, on `device`."""
        return self.source.at(self.row_P[row_M], device)


def require_plain(config: RunConfig, text: Text, name: str) -> None:
    """Refuse what a teacher of another tokenizer cannot be asked.

    Args:
        config: of the run.
        text: of the run.
        name: the teacher's, for the message.

    Raises:
        MismatchError: the text is not one stream of plain documents, or not its alone; the student
            writes some of it; or the terms of the loss do not go together.
    """
    has = f"teacher {name!r} has another tokenizer than the student, so "
    if config.rollout.fraction:
        raise MismatchError(
            has + "it cannot read what the student writes; set rollout.fraction: 0, or choose a "
            "teacher of the student's vocabulary."
        )
    several = sum(one.reads for one in config.teachers) > 1
    chats = any(document.messages for document in text.train_documents)
    if several or text.tags or text.scored or chats:
        raise MismatchError(
            has + "it reads plain text alone, and no other teacher beside it; leave out chats, "
            "tags and other teachers, or choose a teacher of the student's vocabulary."
        )
    terms = from_a_teacher(config.loss)
    likeliest = _divergences(terms)
    for term in terms:
        if not isinstance(term, Divergence | ChunkLikelihood | SortedL1):
            raise MismatchError(
                has + f"it gives nothing for {term.kind}; leave that out of the loss, or choose a "
                "teacher of the student's vocabulary."
            )
    others = [term.kind for term in terms if isinstance(term, ChunkLikelihood | SortedL1)]
    if likeliest and others:
        raise MismatchError(
            has + f"{likeliest[0].kind} is held to its likeliest tokens and {others[0]} is not; "
            "leave one of them out of the loss."
        )
    if likeliest and config.signal.mode not in ("topk", "head_tail"):
        raise MismatchError(
            has + f"{likeliest[0].kind} is held to its likeliest tokens; set signal.mode: topk "
            "and signal.head to how many."
        )
    check(likeliest, Sparse)


def hear(
    teacher: LocalTeacher, text: Text, tokenizer: Any, config: RunConfig, keeping: Keeping
) -> tuple[Said, dict[str, Any]]:
    """Return what the teacher says of the training text, and facts for the manifest.

    Args:
        teacher: of another tokenizer.
        text: that `require_plain` let pass.
        tokenizer: the student's.
        config: of the run.
        keeping: where the teacher's signals are.
    """
    documents = text.train_documents
    aligned = align(text.train, place(documents, tokenizer), place(documents, teacher.tokenizer))
    asking = _Asking(teacher, text, tokenizer, aligned, keeping)
    facts: dict[str, Any] = {"alignment": aligned.record()}
    if _divergences(from_a_teacher(config.loss)):
        return asking.likeliest(config.signal.head, facts)
    return asking.chunks(), facts


def _divergences(terms: Sequence[Term]) -> list[Divergence]:
    return [term for term in terms if isinstance(term, Divergence)]


@dataclass(frozen=True, slots=True)
class _Asking:
    """One teacher, and the text in both tokenizers."""

    teacher: LocalTeacher
    text: Text
    tokenizer: Any
    aligned: Alignment
    keeping: Keeping

    def likeliest(self, head: int, facts: dict[str, Any]) -> tuple[Said, dict[str, Any]]:
        """Return its likeliest tokens as the student's, at pairs of documents with chunks."""
        aligned, known_P = self.aligned, ~self.aligned.lost_P
        table_V = spelt_alike(self.teacher.tokenizer, self.tokenizer)
        kept_V = uncontradicted(table_V, self.text.train, aligned)
        store = self._store("likeliest", head=head)
        self.keeping.fill(self.teacher, aligned.teacher, store, "capture")
        alike, kept = int((table_V >= 0).sum()), int((kept_V >= 0).sum())
        self.keeping.session.say(
            f"{self.keeping.config.name}: {kept:,} of its {len(table_V):,} tokens stand for one of "
            f"the student's, at {int(known_P.sum()):,} of {len(aligned.chunk_N):,} positions"
        )
        source = Translated(
            Picked(Signals(store), torch.from_numpy(aligned.teacher_P[known_P])),
            torch.from_numpy(kept_V),
        )
        rows = PickedRows(aligned.student_P[known_P], self._length)
        translated = {
            "tokens_spelt_alike": alike,
            "tokens_translated": kept,
            "positions_translated": int(known_P.sum()),
        }
        return Said(voices=((source, rows),), stores=(store,)), facts | translated

    def chunks(self) -> Said:
        """Return what it finds chunks worth, and its exact signal where documents have none."""
        store = self._store("chunks", logp=True)
        self.keeping.fill(self.teacher, self.aligned.teacher, store, "capture")
        self.keeping.session.say(
            f"{self.keeping.config.name}: {len(self.aligned.size_C):,} chunks of bytes in common"
        )
        voices: list[tuple[Source, Rows]] = []
        stores = [store]
        if self.aligned.lost_P.any():
            voice, unaligned = self._unaligned()
            voices.append(voice)
            stores.append(unaligned)
        if store.tokens == self.aligned.teacher.weights.size:  # or other workers are at it still
            said = Signals(store).at(torch.arange(store.tokens), _CPU)
            assert isinstance(said, TextSignal)
            every = WindowRows(np.arange(len(self.text.train.tokens)) * self._length)
            voices.append((Likelihoods(self.aligned, said), every))
        return Said(voices=tuple(voices), stores=tuple(stores))

    def _unaligned(self) -> tuple[tuple[Source, Rows], Store]:
        """Return the exact signal at the pairs of documents that have no chunks."""
        aligned = self.aligned
        length = aligned.teacher.weights.shape[1]
        at_P = aligned.teacher_P[aligned.lost_P]
        window_W = np.unique(at_P // length)
        store = self._store("unaligned")
        self.keeping.fill(
            self.teacher, aligned.teacher.take(window_W), store, "capture of unaligned text"
        )
        row_P = np.searchsorted(window_W, at_P // length) * length + at_P % length
        rows = PickedRows(aligned.student_P[aligned.lost_P], self._length)
        source = Picked(Signals(store, self.teacher.head), torch.from_numpy(row_P))
        return (source, rows), store

    def _store(self, name: str, *, head: int | None = None, logp: bool = False) -> Store:
        mode: Mode = "topk" if head is not None else "text" if logp else "hidden"
        key = self.keeping.key(
            mode,
            self.teacher.sha256,
            dtype_of(self.teacher),
            self.teacher.vocab_size,
            head=head,
            logp=logp,
        )
        return Store(self.keeping.place / name, key)

    @property
    def _length(self) -> int:
        """Positions of a window of the student's."""
        return int(self.text.train.weights.shape[1])
