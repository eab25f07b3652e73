"""Which bytes of a text each token stands for, under any fast tokenizer.

Shapes: I tokens of a stream, D documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.errors import InputError
from distill.text.sources import Document
from distill.text.vocabulary import token_bytes

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """Documents under one tokenizer, one after another, each opened by the begin token.

    Places are bytes of UTF-8 counted through all documents, one more before each for its begin
    token, so that no boundary belongs to two documents.

    Attributes:
        token_I: int32.
        start_I: where a token's bytes begin; never decreasing.
        end_I: where they end; the start again for a token of no bytes.
        exact_I: bool; False in documents that are lost, whose places are approximate.
        opens_D: where each document begins.
        lost: names of the documents whose bytes the tokens do not give back.
    """

    token_I: npt.NDArray[np.int32]
    start_I: Ints
    end_I: Ints
    exact_I: npt.NDArray[np.bool_]
    opens_D: Ints
    lost: tuple[str, ...]

    def begins(self) -> npt.NDArray[np.bool_]:
        """Return which tokens are the begin tokens of documents, `[I]`."""
        return np.isin(self.start_I, self.opens_D) & (self.end_I == self.start_I + 1)


def place(documents: Sequence[Document], tokenizer: Any) -> Stream:
    """Return the documents' tokens, those of `corpus.pack`, and the bytes each stands for.

    A tokenizer that splits characters over tokens or writes a space before the text is followed
    exactly. In a document that it changes (normalises, drops or replaces characters of) the places
    are those of its own character offsets. Chats are lost: templates of two models differ.

    Raises:
        InputError: the tokenizer has no begin token, or its table cannot be read.
    """
    if tokenizer.bos_token_id is None:
        raise InputError("the tokenizer names no begin token; add bos_token to its config.")
    table = token_bytes(tokenizer)
    texts = [document.text for document in documents]
    every = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    opens, lost, tokens, starts, ends, exact = [0], [], [], [], [], []
    for document, ids in zip(documents, every, strict=True):
        raw = document.text.encode()
        end_I = exact_ends([table[token] or b"" for token in ids], raw)
        found = end_I is not None and not document.messages
        exact.append(np.full(len(ids) + 1, found))
        if not found:
            lost.append(document.id)
        if end_I is None:
            end_I = loose_ends(document.text, tokenizer)
        edge_I = opens[-1] + 1 + np.concatenate([[-1, 0], end_I])
        starts.append(edge_I[:-1])
        ends.append(edge_I[1:])
        tokens.append(np.array([tokenizer.bos_token_id, *ids], dtype=np.int32))
        opens.append(opens[-1] + 1 + len(raw))
    return Stream(
        token_I=np.concatenate([np.zeros(0, np.int32), *tokens]),
        start_I=np.concatenate([np.zeros(0, np.int64), *starts]),
        end_I=np.concatenate([np.zeros(0, np.int64), *ends]),
        exact_I=np.concatenate([np.zeros(0, np.bool_), *exact]),
        opens_D=np.array(opens[:-1], dtype=np.int64),
        lost=tuple(lost),
    )


def exact_ends(spelt: Sequence[bytes], raw: bytes) -> Ints | None:
    """Return where each token ends in `raw`, or None where the tokens do not give `raw` back.

    A space before the first token that is not in the text is not counted.
    """
    joined = b"".join(spelt)
    end_I = np.cumsum([len(token) for token in spelt], dtype=np.int64)
    if joined == raw:
        return end_I
    return end_I - 1 if joined == b" " + raw and spelt[0] else None


def loose_ends(text: str, tokenizer: Any) -> Ints:
    """Return the byte before which each token's characters end, by the tokenizer's own offsets."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ends = np.array([end for _, end in offsets["offset_mapping"]], dtype=np.int64)
    size = np.array([len(character.encode()) for character in text], dtype=np.int64)
    byte = np.concatenate([[0], np.cumsum(size)])
    # Offsets may step back where characters were put in another order.
    return np.maximum.accumulate(byte[ends])
