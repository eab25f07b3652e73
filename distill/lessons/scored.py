"""Answers that came with their teacher's likeliest tokens, as windows of text with a signal.

Shapes: W windows, S positions a window, N = W S positions, H likeliest tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from distill.signals import Sparse
from distill.text.corpus import Windows


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """An answer with what its teacher held likely.

    Attributes:
        tokens: begin token, prompt and answer.
        first: of the answer's tokens.
        signal: a row for each token of the answer.
    """

    tokens: tuple[int, ...]
    first: int
    signal: Sparse


def learnt(row: Scored, length: int) -> int:
    """Return how many tokens of an answer a window of `length` positions has room for."""
    return max(0, min(len(row.tokens), length + 1) - row.first)


def windows(rows: Sequence[Scored], length: int, *, pad: int, tag: int) -> tuple[Windows, Sparse]:
    """Return scored answers as windows, whole rows end to end, and the signal at every position.

    Where nothing counts the signal is empty. Of a row that is longer than a window the beginning
    is kept.

    Args:
        rows: one or more.
        length: S.
        pad: the token windows are filled up with.
        tag: of all windows.
    """
    places = _places([min(len(row.tokens), length + 1) for row in rows], length + 1)
    count = places[-1][0] + 1
    tokens = np.full((count, length + 1), pad, dtype=np.int32)
    weights = np.zeros((count, length), dtype=np.float32)
    starts = np.arange(length)[None].repeat(count, 0) == 0
    document = np.zeros((count, length), dtype=np.int32)
    width = max(row.signal.head_ids_NH.shape[1] for row in rows)
    ids_NH = torch.zeros(count * length, width, dtype=torch.int64)
    p_NH = torch.zeros(count * length, width)
    mass_N = torch.zeros(count * length)
    for number, (row, (window, column)) in enumerate(zip(rows, places, strict=True)):
        kept, many = row.tokens[: length + 1], learnt(row, length)
        tokens[window, column : column + len(kept)] = kept
        # A token is the target of the position before it.
        first = column + row.first - 1
        if column < length:
            starts[window, column] = True
            document[window, column:] = number
        if not many:
            continue
        weights[window, first : first + many] = 1
        at = slice(window * length + first, window * length + first + many)
        said = row.signal
        ids_NH[at, : said.head_ids_NH.shape[1]] = said.head_ids_NH[:many]
        p_NH[at, : said.head_ids_NH.shape[1]] = said.head_p_NH[:many]
        mass_N[at] = said.tail_mass_N[:many]
    sizes = np.zeros((count, length))
    tags = np.full(count, tag, dtype=np.int32)
    made = Windows(
        tokens=tokens, weights=weights, sizes=sizes, starts=starts, document=document, tag=tags
    )
    none_NR = torch.zeros(count * length, 0, dtype=torch.int64)
    return made, Sparse(ids_NH, p_NH, none_NR, mass_N, torch.full((count * length,), torch.nan))


def _places(lengths: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Return window and column of each row, in order; a row goes where the one before ended."""
    places, window, column = [], 0, 0
    for length in lengths:
        if column + length > room:
            window, column = window + 1, 0
        places.append((window, column))
        column += length
    return places
