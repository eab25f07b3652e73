"""Text in, token windows out: the held-out split, packing, and passages for an audit.

Shapes: W windows, S sequence_length; a window holds S + 1 tokens, inputs and shifted targets.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from audit.attest import digest
from distill.errors import InputError
from distill.text import chat
from distill.text.sources import Document

_ROWS = 1024  # windows whose bytes are hashed at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """Packed documents.

    Attributes:
        tokens: int32 `[W, S + 1]`.
        weights: float32 `[W, S]`, 0 where the target begins another document, or is in a chat and
            not the assistant's; else 1.
        sizes: float64 `[W, S]`, UTF-8 bytes of each target, for bits per byte.
        starts: bool `[W, S]`, where the context begins anew: at the first input of a window, and
            in windows that keep documents apart at each document. Where this and what follows is
            not given, every window is a document of its own, and of no tag.
        document: int32 `[W, S]`, the place of each target's document in the list that was packed.
        tag: int32 `[W]`, the place of a window's tag among those that were kept apart; -1 for none.
    """

    tokens: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    sizes: npt.NDArray[np.float64]
    starts: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    document: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    tag: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, dtype=np.int32))

    def __post_init__(self) -> None:
        """Fill in what was not given."""
        count, length = self.weights.shape
        if self.starts.shape == (count, length):
            return
        numbers = np.arange(count, dtype=np.int32)
        for name, value in (
            ("starts", np.arange(length)[None].repeat(count, 0) == 0),
            ("document", numbers[:, None].repeat(length, 1)),
            ("tag", np.full(count, -1, dtype=np.int32)),
        ):
            object.__setattr__(self, name, value)

    def take(self, index: npt.NDArray[np.int64]) -> "Windows":
        """Return the windows at `index`."""
        return Windows(
            tokens=self.tokens[index],
            weights=self.weights[index],
            sizes=self.sizes[index],
            starts=self.starts[index],
            document=self.document[index],
            tag=self.tag[index],
        )

    def sha256(self) -> str:
        """Return the digest of the tokens, which pins text and tokenizer together."""
        found = hashlib.sha256()
        for row in range(0, len(self.tokens), _ROWS):
            found.update(self.tokens[row : row + _ROWS].tobytes())
        return found.hexdigest()

    def lengths(self) -> tuple[int, ...]:
        """Return the tokens of each stretch of context, windows one after another.

        They are the documents of one stream of all inputs (`student.documents.Documents`).
        """
        return tuple(np.diff(np.flatnonzero(self.starts), append=self.starts.size).tolist())


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A held-out prompt and the text that truly follows it."""

    id: str
    document: str
    prompt: str
    response: str


def text_digest(documents: Sequence[Document]) -> str:
    """Return one digest of all documents: their names and contents, in order."""
    return digest([_contents(document) for document in documents])


def _contents(document: Document) -> list[Any]:
    found: list[Any] = [document.id, hashlib.sha256(document.text.encode()).hexdigest()]
    return [*found, document.messages, document.tools] if document.messages else found


def split(documents: Sequence[Document], held_out: float) -> tuple[list[Document], list[Document]]:
    """Return (training, held-out) documents, the share `held_out` of each source set aside.

    Which ones is decided by the hash of their names, so neither their order nor a seed matters.

    Raises:
        InputError: one side is empty.
    """
    names: dict[str, dict[str, None]] = {}
    for document in documents:
        names.setdefault(_source(document), {})[document.id] = None
    held_ids: set[str] = set()
    for found in names.values():
        ids = sorted(found, key=_by_hash)
        held_ids.update(ids[: round(held_out * len(ids))])
    train = [document for document in documents if document.id not in held_ids]
    held = [document for document in documents if document.id in held_ids]
    if not train or not held:
        side = "training" if not train else "held-out"
        raise InputError(
            f"no document fell on the {side} side of {len(documents)}; "
            "give more documents (a .jsonl file with one a line) or change text.held_out."
        )
    return train, held


def _by_hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def at_most(documents: Sequence[Document], tokenizer: Any, most: int) -> list[Document]:
    """Return documents of at most so many tokens of each source, but of each at least one.

    Which ones is decided by the hash of their names, as in `split`; their order stays.
    """
    by_name = sorted(documents, key=lambda document: _by_hash(document.id))
    left: dict[str, int] = {}
    chosen = set()
    for document in by_name:
        source = _source(document)
        tokens = len(_encode(document, tokenizer).ids)
        if source not in left or tokens <= left[source]:
            chosen.add(id(document))
            left[source] = left.get(source, most) - tokens
    return [document for document in documents if id(document) in chosen]


def _source(document: Document) -> str:
    """Return the part of a document's name that all documents of its source share."""
    return document.id.partition("/")[0]


def pack(
    documents: Sequence[Document],
    tokenizer: Any,
    length: int,
    *,
    tags: Sequence[str] = (),
    apart: bool = False,
) -> Windows:
    """Join the tokenised documents, each opened by the begin token, and cut windows of `length`.

    Attention may look back across a boundary inside a window, unless documents are kept apart;
    teacher and student see the same context. What a window cuts off a document begins anew in the
    next. The first token of a document is never a target, and of chats only what the assistant
    wrote is. Windows in which nothing counts are left out.

    Args:
        documents: in order.
        tokenizer: transformers' own.
        length: S.
        tags: each gets windows of its own, in this order, and documents of other tags come last.
        apart: whether `starts` has every document, so that none sees another.

    Raises:
        InputError: the text of a tag is shorter than one window, the tokenizer has no begin
            token, or a chat does not fit its template.
    """
    if tokenizer.bos_token_id is None:
        raise InputError(
            "the teacher's tokenizer names no begin token; add bos_token to its "
            "tokenizer_config.json."
        )
    groups: dict[int, list[int]] = {number: [] for number in range(len(tags))}
    for place, document in enumerate(documents):
        number = tags.index(document.tag) if document.tag in tags else -1
        groups.setdefault(number, []).append(place)
    parts = []
    for number, places in groups.items():
        stream = _stream([documents[place] for place in places], tokenizer)
        whose = f" of tag {tags[number]!r}" if number >= 0 else " of no such tag" if tags else ""
        windows = _cut(stream, np.array(places, dtype=np.int32), length, apart, whose)
        parts.append(replace(windows, tag=np.full_like(windows.tag, number)))
    return parts[0] if len(parts) == 1 else joined(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stream:
    """Documents end to end: of each token whether it counts as a target, and its document."""

    tokens: npt.NDArray[np.int32]
    counted: npt.NDArray[np.bool_]
    sizes: npt.NDArray[np.float64]
    starts: npt.NDArray[np.bool_]
    of: npt.NDArray[np.int64]


def _stream(documents: Sequence[Document], tokenizer: Any) -> _Stream:
    nothing = chat.Encoded(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=bool), np.zeros(0))
    encoded = [_encode(document, tokenizer) for document in documents]
    tokens, counted, sizes = map(np.concatenate, zip(nothing, *encoded, strict=True))
    lengths = np.array([len(each.ids) for each in encoded], dtype=np.int64)
    starts = np.zeros(len(tokens), dtype=bool)
    starts[np.cumsum(lengths) - lengths] = True
    of = np.repeat(np.arange(len(encoded)), lengths)
    return _Stream(tokens=tokens, counted=counted, sizes=sizes, starts=starts, of=of)


def _encode(document: Document, tokenizer: Any) -> chat.Encoded:
    """Return a document's tokens, of which the first is the begin token and does not count."""
    bos = tokenizer.bos_token_id
    if document.messages:
        made = chat.encode(tokenizer, document)
        if made.ids[0] == bos:  # which is never the assistant's
            return made
    else:
        ids = np.asarray(
            tokenizer(document.text, add_special_tokens=False)["input_ids"], dtype=np.int32
        )
        made = chat.Encoded(ids, ids != bos, _byte_sizes(len(ids), document.text))
    return chat.Encoded(
        np.concatenate([np.array([bos], dtype=np.int32), made.ids]),
        np.concatenate([[False], made.counted]),
        np.concatenate([[0.0], made.sizes]),
    )


def _byte_sizes(count: int, text: str) -> npt.NDArray[np.float64]:
    """Spread a document's UTF-8 bytes evenly over its tokens; exact over whole documents."""
    return np.full(count, len(text.encode()) / max(count, 1))


def _cut(
    stream: _Stream, places: npt.NDArray[np.int32], length: int, apart: bool, whose: str
) -> Windows:
    """Return a stream's windows that have something to learn."""
    count = (len(stream.tokens) - 1) // length
    if count <= 0:
        raise InputError(
            f"{len(places)} documents{whose} hold {len(stream.tokens)} tokens, less than one "
            f"window of {length + 1}; give more text or lower text.sequence_length."
        )
    shape, used = (count, length), count * length
    weights = stream.counted[1 : used + 1].astype(np.float32).reshape(shape)
    begins = apart & stream.starts[:used].reshape(shape)
    windows = Windows(
        # Each shares a token with the next, so all are looked at where they lie, uncopied.
        tokens=as_strided(stream.tokens, (count, length + 1), (4 * length, 4)),
        weights=weights,
        sizes=stream.sizes[1 : used + 1].reshape(shape),
        starts=begins | (np.arange(length) == 0),
        document=places[stream.of[1 : used + 1]].reshape(shape),
        tag=np.full(count, -1, dtype=np.int32),
    )
    useful = np.flatnonzero(weights.any(axis=1))
    if len(useful) == 0:
        raise InputError(
            f"no whole window of {length + 1} tokens of the {len(places)} documents{whose} holds "
            "anything to learn; give more text."
        )
    return windows if len(useful) == count else windows.take(useful)


def joined(parts: Sequence[Windows]) -> Windows:
    """Return the windows of all parts, which are of one length, in order."""
    return Windows(
        tokens=np.concatenate([part.tokens for part in parts]),
        weights=np.concatenate([part.weights for part in parts]),
        sizes=np.concatenate([part.sizes for part in parts]),
        starts=np.concatenate([part.starts for part in parts]),
        document=np.concatenate([part.document for part in parts]),
        tag=np.concatenate([part.tag for part in parts]),
    )


def evenly(count: int, limit: int) -> npt.NDArray[np.int64]:
    """Return at most `limit` of `count` indices, spread evenly from first to last."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, limit)).round().astype(np.int64))


def passages(
    documents: Sequence[Document], tokenizer: Any, *, count: int, prompt: int, continuation: int
) -> list[Passage]:
    """Cut held-out documents into prompts and their true continuations, in tokens.

    Passages of one document do not overlap. When there are more than `count`, documents take
    turns, so that no long document speaks for all.
    """
    size = prompt + continuation
    texts = {
        document.id: tokenizer(document.text, add_special_tokens=False)["input_ids"]
        for document in documents
    }
    room = {name: len(ids) // size for name, ids in texts.items()}
    taken = _in_turns(room, count)
    return [
        Passage(
            id=f"{name}#{start}",
            document=name,
            prompt=tokenizer.decode(ids[start : start + prompt]),
            response=tokenizer.decode(ids[start + prompt : start + size]),
        )
        for name, ids in texts.items()
        for start in (evenly(room[name], taken[name]) * size).tolist()
    ]


def _in_turns(room: dict[str, int], count: int) -> dict[str, int]:
    """Share `count` places among names, one each in turn, none beyond its room."""
    taken = dict.fromkeys(room, 0)
    while count > 0 and any(taken[name] < most for name, most in room.items()):
        for name, most in room.items():
            if count > 0 and taken[name] < most:
                taken[name] += 1
                count -= 1
    return taken
