"""Text in, token windows out: documents, the held-out split, packing, and passages for an audit.

Shapes: W windows, S sequence_length; a window holds S + 1 tokens, inputs and shifted targets.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from audit.attest import digest
from distill.config import read_text
from distill.errors import InputError
from distill.resources import shipped


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One text and where it came from."""

    id: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """Packed documents.

    Attributes:
        tokens: int32 `[W, S + 1]`.
        weights: float32 `[W, S]`, 0 where the target begins another document, else 1.
        sizes: float64 `[W, S]`, UTF-8 bytes of each target, for bits per byte.
    """

    tokens: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    sizes: npt.NDArray[np.float64]

    def take(self, index: npt.NDArray[np.int64]) -> "Windows":
        """Return the windows at `index`."""
        return Windows(
            tokens=self.tokens[index], weights=self.weights[index], sizes=self.sizes[index]
        )

    def sha256(self) -> str:
        """Return the digest of the tokens, which pins text and tokenizer together."""
        return hashlib.sha256(np.ascontiguousarray(self.tokens).tobytes()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A held-out prompt and the text that truly follows it."""

    id: str
    document: str
    prompt: str
    response: str


def load(sources: Sequence[str]) -> list[Document]:
    """Return the documents of all sources, in order.

    Raises:
        InputError: a file is missing, empty, not UTF-8, or has a malformed line, which is named.
    """
    documents: list[Document] = []
    for source in sources:
        match source:
            case "pydoc":
                documents += _pydoc_topics()
            case "prompts":
                documents += _seed_prompts()
            case _:
                documents += _file(Path(source))
    return documents


def _pydoc_topics() -> list[Document]:
    """Return the help topics of the running Python (PSF licence)."""
    from pydoc_data.topics import topics

    return [Document(id=f"pydoc/{name}", text=topics[name]) for name in sorted(topics)]


def _seed_prompts() -> list[Document]:
    rows = _jsonl(shipped("seeds/prompts.jsonl"), "prompt")
    return [Document(id=f"prompts/{row['id']}", text=row["prompt"]) for row in rows]


def _file(path: Path) -> list[Document]:
    if path.suffix == ".jsonl":
        rows = _jsonl(path, "text")
        return [Document(id=f"{path.name}/{n}", text=row["text"]) for n, row in enumerate(rows, 1)]
    if path.suffix not in (".txt", ".md"):
        raise InputError(
            f"text source {str(path)!r} is unknown; use pydoc, prompts, or a .txt, .md or "
            ".jsonl file."
        )
    return [Document(id=f"files/{path.name}", text=read_text(path))]


def _jsonl(path: Path, key: str) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file; every one must hold the text `key`."""
    rows = []
    # Not splitlines: JSON allows U+2028 and its like inside a text, where they end no line.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not valid JSON ({error.msg}).") from error
        if not isinstance(row, dict) or not isinstance(row.get(key), str):
            raise InputError(f"{path}, line {number}: needs an object with a text {key!r}.")
        if not _is_unicode(row[key]):
            raise InputError(f"{path}, line {number}: holds half of a surrogate pair; repair it.")
        rows.append(row)
    return rows


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell what no encoding can carry
        return False
    return True


def text_digest(documents: Sequence[Document]) -> str:
    """Return one digest of all documents: their names and contents, in order."""
    return digest([[d.id, hashlib.sha256(d.text.encode()).hexdigest()] for d in documents])


def split(documents: Sequence[Document], held_out: float) -> tuple[list[Document], list[Document]]:
    """Return (training, held-out) documents, the share `held_out` of each source set aside.

    Which ones is decided by the hash of their names, so neither their order nor a seed matters.

    Raises:
        InputError: one side is empty.
    """
    held_ids: set[str] = set()
    for source in dict.fromkeys(_source(document) for document in documents):
        ids = [document.id for document in documents if _source(document) == source]
        ids.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
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


def _source(document: Document) -> str:
    """Return the part of a document's name that all documents of its source share."""
    return document.id.partition("/")[0]


def pack(documents: Sequence[Document], tokenizer: Any, length: int) -> Windows:
    """Join the tokenised documents, each opened by the begin token, and cut windows of `length`.

    Attention may look back across a boundary inside a window; teacher and student both see the
    same context, and the first token of a document is never a target.

    Raises:
        InputError: the text is shorter than one window, or the tokenizer has no begin token.
    """
    if tokenizer.bos_token_id is None:
        raise InputError(
            "the teacher's tokenizer names no begin token; add bos_token to its "
            "tokenizer_config.json."
        )
    tokens: list[int] = []
    sizes: list[float] = []
    for document in documents:
        ids = tokenizer(document.text, add_special_tokens=False)["input_ids"]
        tokens += [tokenizer.bos_token_id, *ids]
        sizes += [0, *_byte_sizes(ids, document.text)]
    count = (len(tokens) - 1) // length
    if count == 0:
        raise InputError(
            f"{len(documents)} documents hold {len(tokens)} tokens, less than one window of "
            f"{length + 1}; give more text or lower text.sequence_length."
        )
    starts = np.arange(count)[:, None] * length
    index = starts + np.arange(length + 1)
    stream = np.asarray(tokens, dtype=np.int32)
    size = np.asarray(sizes, dtype=np.float64)
    targets = index[:, 1:]
    weights = (stream[targets] != tokenizer.bos_token_id).astype(np.float32)
    return Windows(tokens=stream[index], weights=weights, sizes=size[targets])


def _byte_sizes(ids: Sequence[int], text: str) -> list[float]:
    """Spread a document's UTF-8 bytes evenly over its tokens; exact over whole documents."""
    return [len(text.encode()) / max(len(ids), 1)] * len(ids)


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
