"""Another tool's record of a teacher's likeliest tokens, read into a store of mode `topk`.

Rows of a Parquet file or of a `datasets` directory, one a text, with the columns `input_ids`,
`topk_ids` and `topk_logprobs`: entry i of the last two is what the teacher says after reading
input_ids[: i + 1], its likeliest next tokens and their natural log-probabilities under the full
softmax. There may be one for the last token too, which no text follows; it is left out. What the
listed tokens leave of the probability is the mass of all the rest; the entropy nobody knows.

Shapes: N positions of one text, H likeliest tokens.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from audit.attest import file_digest, tree_digest
from distill.errors import InputError, MismatchError
from distill.signals import Sparse
from distill.store.exchange import flat, lengths, padded
from distill.store.shard import Key, Sequences, join
from distill.store.store import Store

COLUMNS = ("input_ids", "topk_ids", "topk_logprobs")
_ROWS = 64
# By how much probabilities of one position may exceed 1 in all: float16 log-probabilities do.
_EXCESS = 1e-2


class Row(NamedTuple):
    """One text, `[N + 1]`, and what is said at its positions."""

    token_K: torch.Tensor
    signal: Sparse


def from_top_k(path: Path, store: Path, *, vocab_size: int, shard_tokens: int = 4096) -> Store:
    """Return a store in the directory `store` with the signals of `path`, made where missing.

    Args:
        path: a Parquet file, or a directory that `datasets` saved.
        store: the directory.
        vocab_size: of the teacher's tokens.
        shard_tokens: a shard is full with so many positions.

    Raises:
        InputError: the columns are not as they should be; names the row.
        MismatchError: `store` holds something else.
        StorageError: the disk refused; finished shards are kept.
    """
    key = Key(
        mode="topk",
        teacher_sha256=tree_digest(path) if path.is_dir() else file_digest(path),
        vocab_size=vocab_size,
        settings={"columns": list(COLUMNS), "shard_tokens": shard_tokens},
    )
    made = Store(store, key)
    for number, rows in enumerate(_shards(_read(path, vocab_size), shard_tokens)):
        text = Sequences.of([row.token_K for row in rows])
        if number >= len(made.shards):
            made.append(text, join([row.signal for row in rows]), 0.0)
        elif made.shards[number].text_sha256 != text.sha256():
            raise MismatchError(f"{store} holds other text; choose another directory.")
    return made


def _shards(rows: Iterator[Row], shard_tokens: int) -> Iterator[list[Row]]:
    kept: list[Row] = []
    for row in rows:
        kept.append(row)
        if sum(len(row.token_K) - 1 for row in kept) >= shard_tokens:
            yield kept
            kept = []
    if kept:
        yield kept


def _read(path: Path, vocab_size: int) -> Iterator[Row]:
    number = 0
    for table in _tables(path):
        missing = [name for name in COLUMNS if name not in table.column_names]
        if missing:
            raise InputError(f"{path} has no column {missing[0]!r}; needed are {list(COLUMNS)}.")
        for row in range(len(table)):
            number += 1
            try:
                yield _row(table.slice(row, 1), vocab_size)
            except (ValueError, TypeError, RuntimeError) as error:
                raise InputError(f"{path}, row {number}: {error}.") from error


def _tables(path: Path) -> Iterator[Any]:
    """Yield a few rows at a time as Arrow tables."""
    import pyarrow
    from pyarrow import parquet

    try:
        if path.is_dir():
            import datasets

            rows = datasets.load_from_disk(str(path)).with_format("arrow")
            yield from rows.iter(batch_size=_ROWS)
        else:
            for batch in parquet.ParquetFile(path).iter_batches(batch_size=_ROWS):
                yield pyarrow.Table.from_batches([batch])
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path} cannot be read as rows: {error}.") from error


def _row(table: Any, vocab_size: int) -> Row:
    """Return one row of the table.

    Raises:
        ValueError: it is not as it should be.
    """
    token_K = flat(table["input_ids"])
    positions = len(token_K) - 1
    if positions < 1:
        raise ValueError("a text needs two tokens or more")
    entries = [int(lengths(table[name])) for name in COLUMNS[1:]]
    if any(count not in (positions, positions + 1) for count in entries):
        raise ValueError(f"{len(token_K)} tokens, but entries for {entries}")
    ids_NH, counts_N = padded(table["topk_ids"])
    logp_NH, others_N = padded(table["topk_logprobs"])
    if not torch.equal(counts_N[:positions], others_N[:positions]):
        raise ValueError("as many ids as log-probabilities are needed at every position")
    if not ids_NH.shape[1]:
        raise ValueError("no position has an entry")
    _require_ids(token_K, vocab_size)
    _require_ids(ids_NH, vocab_size)
    there_NH = torch.arange(ids_NH.shape[1]) < counts_N[:, None]
    signal = _signal(ids_NH[:positions], logp_NH[:positions].double(), there_NH[:positions])
    return Row(token_K, signal)


def _signal(ids_NH: torch.Tensor, logp_NH: torch.Tensor, there_NH: torch.Tensor) -> Sparse:
    p_NH = torch.where(there_NH, logp_NH.exp(), 0.0)
    sum_N = p_NH.sum(1)
    if not bool((sum_N <= 1 + _EXCESS).all()):
        raise ValueError(
            "the probabilities of a position are not numbers or exceed 1 in all; natural "
            "logarithms of the full softmax are needed"
        )
    ordered_NH = torch.where(there_NH, ids_NH, -1 - torch.arange(ids_NH.shape[1])).sort(1).values
    if bool((ordered_NH[:, 1:] == ordered_NH[:, :-1]).any()):
        raise ValueError("a token is listed twice at one position")
    return Sparse(
        ids_NH,
        p_NH.float(),
        ids_NH[:, :0],
        (1 - sum_N).clamp(min=0).float(),
        torch.full((len(ids_NH),), float("nan")),
    )


def _require_ids(ids: torch.Tensor, vocab_size: int) -> None:
    if not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise ValueError(
            f"ids from {int(ids.min())} to {int(ids.max())}, but the vocabulary has {vocab_size} "
            "tokens"
        )
