"""Teachers read what the student wrote: who reads which row, one teacher after another.

As in DeepSeek-V4's distillation from many teachers (arXiv 2606.19348, section 5.2.2) only last
hidden states are kept of a teacher's reading, and rows are taken teacher by teacher, so that no
more than one teacher has to be on the device; its head is fetched when the loss is computed.

Shapes: B rows, S positions of a padded row, N positions of the stream, M of them that count, T
teacher hidden size.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import torch
from torch.nn.utils.rnn import pad_sequence

from distill.batches import Part, Source, Voice
from distill.config import TeacherConfig
from distill.errors import MismatchError
from distill.heads import fit, log_likelihood
from distill.signals import Head, Hidden, Text
from distill.store.shard import Sequences
from distill.teachers.local import rows_alike


class Reader(Protocol):
    """What is asked of a teacher here; `teachers.local.LocalTeacher` has it."""

    @property
    def name(self) -> str:
        """As it stands in every record."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        ...

    @property
    def head(self) -> Head:
        """Where its weights are, too."""
        ...

    def hidden(self, token_BS: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states `[B, S, T]`; no token's depends on a later one."""
        ...

    def move(self, device: torch.device) -> None:
        """Bring weights and head to `device`."""
        ...


class Share(NamedTuple):
    """A teacher by its place in the list, and its weight among those of one tag."""

    teacher: int
    weight: float


def route(tags: Iterable[str], teachers: Sequence[TeacherConfig]) -> dict[str, tuple[Share, ...]]:
    """Return who teaches the text of each tag, weights summing to 1.

    A tag that teachers name is theirs; any other belongs to the teachers that name none.

    Raises:
        MismatchError: a tag has no teacher, or a teacher names a tag that no text has.
    """
    there = sorted(set(tags))
    known = ", ".join(tag for tag in there if tag) or "none"
    named = {tag for teacher in teachers for tag in teacher.tags}
    for teacher in teachers:
        for tag in teacher.tags:
            if tag not in there:
                raise MismatchError(
                    f"teacher {teacher.name!r} teaches text tagged {tag!r}, but there is none; "
                    f"tags of the text: {known}."
                )
    return {tag: _shares(tag, tag in named, teachers) for tag in there}


def _shares(tag: str, named: bool, teachers: Sequence[TeacherConfig]) -> tuple[Share, ...]:
    chosen = [
        Share(place, teacher.weight)
        for place, teacher in enumerate(teachers)
        if (tag in teacher.tags if named else not teacher.tags)
    ]
    if not chosen:
        which = f"text tagged {tag!r}" if tag else "text whose tag no teacher names"
        raise MismatchError(
            f"{which} has no teacher; name its tag under a teacher's tags, or give one teacher no "
            "tags."
        )
    whole = sum(share.weight for share in chosen)
    return tuple(Share(share.teacher, share.weight / whole) for share in chosen)


@contextmanager
def resident(teacher: Reader, device: torch.device) -> Iterator[Reader]:
    """Have a teacher on `device` for a while; it goes back to where it was.

    Nothing moves where it is there already: on a CPU, or where all teachers fit.
    """
    home = teacher.device
    teacher.move(device)
    try:
        yield teacher
    finally:
        teacher.move(home)


@dataclass(frozen=True, slots=True)
class States:
    """What a teacher's reading left: its states at the positions that count, `[M, T]`.

    The head stays where the teacher is until a loss asks for it.
    """

    states_MT: torch.Tensor
    teacher: Reader
    vocab_size: int

    @property
    def kind(self) -> type[Hidden]:
        """What kind of signal it gives."""
        return Hidden

    def at(self, row_P: torch.Tensor, device: torch.device) -> Hidden:
        """Return what is said at these rows, with the head, on `device`."""
        row_P = row_P.to(self.states_MT.device)
        head = fit(self.teacher.head, self.vocab_size)
        bias_V = None if head.bias_V is None else head.bias_V.to(device)
        fetched = Head(head.weight_VT.to(device), bias_V, head.softcap)
        return Hidden(self.states_MT[row_P].to(device), fetched)


@dataclass(frozen=True, slots=True)
class Spoken:
    """How likely the teachers of a part find the tokens that stand there, `[M]`, nats."""

    logp_M: torch.Tensor

    @property
    def kind(self) -> type[Text]:
        """What kind of signal it gives."""
        return Text

    def at(self, row_P: torch.Tensor, device: torch.device) -> Text:
        """Return what is said at these rows, on `device`."""
        return Text(self.logp_M[row_P.to(self.logp_M.device)].to(device))


class Council:
    """All teachers of a run that read what the student writes."""

    def __init__(
        self,
        teachers: Sequence[Reader],
        routes: Mapping[str, tuple[Share, ...]],
        *,
        vocab_size: int,
        estimator: Literal["full", "sampled"],
        device: torch.device,
    ) -> None:
        """Bring `teachers`, in the order `route` was given them, to `device` one by one.

        Args:
            teachers: of the student's tokenizer; heads may have more or fewer rows than it.
            routes: who teaches each tag.
            vocab_size: the student's.
            estimator: `full` for whole distributions, `sampled` for the written tokens alone.
            device: where they read.
        """
        self.teachers = tuple(teachers)
        self.routes = dict(routes)
        self.vocab_size = vocab_size
        self.estimator = estimator
        self.device = device

    def parts(self, text: Sequences, tags: Sequence[str]) -> tuple[Part, ...]:
        """Return the positions that count, those of the same teachers together.

        Behind a token that one of a row's teachers has no place for, as heads of padded
        vocabularies may have fewer rows than the student's, none of the row counts.

        Args:
            text: the student's rows.
            tags: of each row.
        """
        shares = [self.routes[tag] for tag in tags]
        text = replace(text, counted_N=text.counted_N & self._readable(text, shares))
        row_N = torch.arange(len(tags)).repeat_interleave(text.length_B)
        said: dict[int, Source] = {}
        place: dict[int, torch.Tensor] = {}
        for number in sorted({share.teacher for row in shares for share in row}):
            rows = [i for i, row in enumerate(shares) if number in (s.teacher for s in row)]
            said[number] = self._read(number, text, rows)
            mine_N = torch.isin(row_N, torch.tensor(rows)) & text.counted_N
            place[number] = mine_N.cumsum(0) - 1
        parts = []
        for group in dict.fromkeys(shares):
            of_B = torch.tensor([row == group for row in shares])
            (at_M,) = torch.nonzero(of_B[row_N] & text.counted_N, as_tuple=True)
            voices = tuple(
                Voice(weight=s.weight, source=said[s.teacher], row_M=place[s.teacher][at_M])
                for s in group
            )
            parts.append(Part(at_M=at_M, voices=_together(voices), own=True))
        return tuple(parts)

    def _readable(self, text: Sequences, shares: Sequence[tuple[Share, ...]]) -> torch.Tensor:
        """Tell at which positions `[N]` all teachers of a row know what stands there and before."""
        found = []
        for row, who in zip(text.split(), shares, strict=True):
            tokens = min(len(self.teachers[share.teacher].head.weight_VT) for share in who)
            found.append((row < tokens).cumprod(0)[1:].bool())
        return torch.cat(found)

    def _read(self, number: int, text: Sequences, rows: Sequence[int]) -> Source:
        """Have one teacher read these rows."""
        with resident(self.teachers[number], self.device) as teacher:
            states_MT = read(teacher, text, rows)
            if self.estimator == "full":
                return States(states_MT, self.teachers[number], self.vocab_size)
            label_M = torch.cat([_labels(text)[i] for i in rows]).to(states_MT.device)
            return Spoken(log_likelihood(states_MT, fit(teacher.head, self.vocab_size), label_M))


def _together(voices: tuple[Voice, ...]) -> tuple[Voice, ...]:
    """Return one voice for the log-probabilities of a mixture; others stay as they are."""
    spoken = [
        voice.source.logp_M[voice.row_M.to(voice.source.logp_M.device)] + math.log(voice.weight)
        for voice in voices
        if isinstance(voice.source, Spoken)
    ]
    if len(spoken) < 2:
        return voices
    logp_M = torch.stack(spoken).logsumexp(0)
    return (Voice(weight=1.0, source=Spoken(logp_M), row_M=torch.arange(len(logp_M))),)


def _labels(text: Sequences) -> list[torch.Tensor]:
    """Return the labels of each row that count."""
    counted = text.counted_N.split(text.length_B.tolist())
    return [row[1:][counts] for row, counts in zip(text.split(), counted, strict=True)]


def read(teacher: Reader, text: Sequences, rows: Sequence[int]) -> torch.Tensor:
    """Return a teacher's last hidden states at the positions of `rows` that count, `[M, T]`.

    Rows of like length are read together and filled up on the right, where nothing looks back at
    the pads; so no mask is needed. Tokens that the teacher has no place for are read as others,
    so nothing behind them may count.
    """
    last = len(teacher.head.weight_VT) - 1
    tokens, counted = text.split(), text.counted_N.split(text.length_B.tolist())
    found: dict[int, torch.Tensor] = {}
    lengths = text.length_B.tolist()
    for places in rows_alike([lengths[i] for i in rows]):
        part = [rows[place] for place in places]
        token_BS = pad_sequence([tokens[i][:-1] for i in part], batch_first=True)
        states_BST = teacher.hidden(token_BS.clamp_max(last))
        for place, i in enumerate(part):
            counts_S = counted[i].to(states_BST.device)
            found[i] = states_BST[place, : len(counts_S)][counts_S]
    return torch.cat([found[i] for i in rows])
