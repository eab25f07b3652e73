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
    return [Document(id=path.name, text=read_text(path))]


def _jsonl(path: Path, key: str) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file; every one must hold the text `key`."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not valid JSON ({error.msg}).") from error
        if not isinstance(row, dict) or not isinstance(row.get(key), str):
            raise InputError(f"{path}, line {number}: needs an object with a text {key!r}.")
        rows.append(row)
    return rows


def text_digest(documents: Sequence[Document]) -> str:
    """Return one digest of all documents: their names and contents, in order."""
    return digest([[d.id, hashlib.sha256(d.text.encode()).hexdigest()] for d in documents])


def split(documents: Sequence[Document], held_out: float) -> tuple[list[Document], list[Document]]:
    """Return (training, held-out) documents; a document's side depends on its name alone.

    Raises:
        InputError: one side is empty.
    """
    train: list[Document] = []
    held: list[Document] = []
    for document in documents:
        place = int.from_bytes(hashlib.sha256(document.id.encode()).digest()[:4]) / 2**32
        (held if place < held_out else train).append(document)
    if not train or not held:
        side = "training" if not train else "held-out"
        raise InputError(
            f"no document fell on the {side} side of {len(documents)}; "
            "give more documents (a .jsonl file with one a line) or change text.held_out."
        )
    return train, held


def pack(documents: Sequence[Document], tokenizer: Any, length: int) -> Windows:
    """Join the tokenised documents, each opened by the begin token, and cut windows of `length`.

    Attention may look back across a boundary inside a window; teacher and student both see the
    same context, and the first token of a document is never a target.

    Raises:
        InputError: the text is shorter than one window.
    """
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
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64))


def passages(
    documents: Sequence[Document], tokenizer: Any, *, count: int, prompt: int, continuation: int
) -> list[Passage]:
    """Cut held-out documents into prompts and their true continuations, in tokens.

    Passages of one document do not overlap; when there are more than `count`, they are taken
    evenly over all documents.
    """
    cut: list[Passage] = []
    size = prompt + continuation
    for document in documents:
        ids = tokenizer(document.text, add_special_tokens=False)["input_ids"]
        for start in range(0, len(ids) - size + 1, size):
            middle = start + prompt
            cut.append(
                Passage(
                    id=f"{document.id}#{start}",
                    document=document.id,
                    prompt=tokenizer.decode(ids[start:middle]),
                    response=tokenizer.decode(ids[middle : start + size]),
                )
            )
    return [cut[i] for i in evenly(len(cut), count)] if cut else []
