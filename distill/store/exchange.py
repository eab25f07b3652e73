"""Stores for other tools: to and from Parquet and a `datasets` directory.

One row is one sequence. `tokens` holds one token more than it has positions; every other column
has an entry a position: `counted`, `starts`, and by mode `head_ids`, `head_p`, `tail_ids`,
`tail_mass`, `entropy`, `states` or `logp`. A row group is a shard, and the store's key and the end
of its hash chain stand in the metadata, so what is read back is the store itself, byte for byte,
or it is refused. Arrow has no bfloat16; such states stand as float32, which holds them exactly.

Shapes: B sequences, N positions, H head entries, T teacher hidden size.
"""

import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.errors import InputError, StorageError
from distill.files import write_atomically
from distill.signals import Head, Hidden, Signal, Sparse, Text
from distill.store.shard import Key, Sequences
from distill.store.store import Store

METADATA = "spiritsafe"
_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}
_NO_HEAD = Head(torch.empty(0, 0))  # states are copied here, and nobody asks for logits


def to_parquet(store: Store, path: Path) -> None:
    """Write the sealed shards of `store` to one Parquet file.

    Raises:
        StorageError: a shard is missing or was changed, or the disk refused.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda partial: _write_parquet(store, partial))
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; free space and export again."
        ) from error


def _write_parquet(store: Store, path: Path) -> None:
    from pyarrow import parquet

    shards = ((_table(store.key, *said), said[1]) for said in store.read(_NO_HEAD))
    first = next(shards, None)
    if first is None:
        raise StorageError(f"{store.path} holds no finished shard; capture first.")
    notes = _notes(store, first[1])
    with parquet.ParquetWriter(path, first[0].schema, compression="zstd") as writer:
        for table, _ in itertools.chain([first], shards):
            writer.write_table(table, row_group_size=len(table))
            notes["sequences"].append(len(table))
        writer.add_key_value_metadata({METADATA: json.dumps(notes)})


def _notes(store: Store, signal: Signal) -> dict[str, Any]:
    """Return what rows do not tell; `sequences` of each shard are counted as they are written."""
    states = {"states": str(signal.states_NT.dtype)} if isinstance(signal, Hidden) else {}
    return {
        "key": store.key.as_dict(),
        "sha256": store.sha256(),
        "seconds": [entry.seconds for entry in store.shards],
        "sequences": [],
        **states,
    }


def _table(key: Key, text: Sequences, signal: Signal) -> Any:
    """Return one shard as an Arrow table."""
    import pyarrow

    count_B = text.length_B.numpy()
    columns = {
        "tokens": _lists(text.token_K.int().numpy(), count_B + 1),
        "counted": _lists(text.counted_N.numpy(), count_B),
        "starts": _lists(text.start_N.numpy(), count_B),
        **{name: _lists(values, count_B) for name, values in _columns(key, signal).items()},
    }
    return pyarrow.table(columns)


def _columns(key: Key, signal: Signal) -> dict[str, Any]:
    """Return what is said at all positions: arrays `[N]`, or Arrow arrays of N lists."""
    match signal:
        case Sparse():
            # Rows of draws differ in length: only what was drawn is written.
            used_NH = signal.head_p_NH > 0 if key.mode == "sampled" else signal.head_ids_NH >= 0
            counts = used_NH.sum(1).numpy()
            columns = {
                "head_ids": _lists(signal.head_ids_NH[used_NH].int().numpy(), counts),
                "head_p": _lists(signal.head_p_NH[used_NH].numpy(), counts),
                "tail_mass": signal.tail_mass_N.numpy(),
                "entropy": signal.entropy_N.numpy(),
            }
            if key.mode == "head_tail":
                columns["tail_ids"] = _matrix(signal.tail_ids_NR.int())
            return columns
        case Hidden():
            return {"states": _matrix(signal.states_NT.float())}
        case Text(logp_N):
            return {} if logp_N is None else {"logp": logp_N.numpy()}
        case _:
            raise AssertionError(f"no store gives {type(signal).__name__}")


def _matrix(values: torch.Tensor) -> Any:
    """Return a matrix as an Arrow array of one list a row."""
    return _lists(values.flatten().numpy(), np.full(len(values), values.shape[1]))


def _lists(values: Any, counts: Any) -> Any:
    """Return consecutive values as an Arrow array of lists of so many each."""
    import pyarrow

    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pyarrow.ListArray.from_arrays(offsets, values)


def from_parquet(path: Path, store: Path) -> Store:
    """Make again, in the directory `store`, the store that `to_parquet` wrote to `path`.

    Shards that are there already are kept.

    Raises:
        InputError: the file is none of ours, or was changed.
        MismatchError: `store` holds another store.
        StorageError: the disk refused.
    """
    from pyarrow import ArrowException, parquet

    try:
        file = parquet.ParquetFile(path)
        notes = json.loads((file.metadata.metadata or {})[METADATA.encode()])
        groups = (file.read_row_group(n) for n in range(file.num_row_groups))
        return _rebuild(notes, groups, store, path)
    except (OSError, ArrowException, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no export of a store, or was changed ({error}).") from error


def to_datasets(store: Store, path: Path) -> None:
    """Write the sealed shards of `store` to `path`, a directory for `datasets.load_from_disk`.

    Raises:
        StorageError: the directory exists, a shard is missing or was changed, or the disk refused.
    """
    if path.exists():
        raise StorageError(f"{path} exists already; choose another directory.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as work:
            _write_datasets(store, Path(work)).rename(path)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; free space and export again."
        ) from error


def _write_datasets(store: Store, work: Path) -> Path:
    """Go by way of Parquet, which `datasets` reads without holding all rows in memory."""
    import datasets
    from pyarrow import parquet

    file, directory = work / "rows.parquet", work / "rows"
    _write_parquet(store, file)
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        rows = datasets.Dataset.from_parquet(str(file), cache_dir=str(work / "cache"))
        rows.info.description = parquet.read_metadata(file).metadata[METADATA.encode()].decode()
        rows.save_to_disk(str(directory))
    finally:
        if shown:
            datasets.enable_progress_bars()
    return directory


def from_datasets(path: Path, store: Path) -> Store:
    """Make again, in the directory `store`, the store that `to_datasets` wrote to `path`.

    Raises:
        InputError: the directory is none of ours, or was changed.
        MismatchError: `store` holds another store.
        StorageError: the disk refused.
    """
    import datasets

    try:
        rows = datasets.load_from_disk(str(path)).with_format("arrow")
        notes = json.loads(rows.info.description)
        ends = np.cumsum([0, *notes["sequences"]]).tolist()
        groups = (rows[first:end] for first, end in itertools.pairwise(ends))
        return _rebuild(notes, groups, store, path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no export of a store, or was changed ({error}).") from error


def _rebuild(notes: dict[str, Any], groups: Iterator[Any], store: Path, source: Path) -> Store:
    """Append the shards that are missing, and see that the chain ends as it should."""
    made = Store(store, Key(**notes["key"]))
    dtype = _DTYPES.get(notes.get("states", ""), torch.float32)
    for number, (table, seconds) in enumerate(zip(groups, notes["seconds"], strict=True)):
        if number >= len(made.shards):
            text, signal = _text(table), _signal(made.key, table, dtype)
            made.append(text, signal, seconds)
    if made.sha256() != notes["sha256"]:
        raise InputError(
            f"{source} was changed since it was exported, or {store} held other shards; delete "
            f"{store} and take the export anew."
        )
    return made


def _text(table: Any) -> Sequences:
    return Sequences(
        token_K=flat(table["tokens"]),
        length_B=lengths(table["tokens"]) - 1,
        counted_N=flat(table["counted"]),
        start_N=flat(table["starts"]),
    )


def _signal(key: Key, table: Any, dtype: torch.dtype) -> Signal:
    match key.mode:
        case "head_tail" | "topk" | "sampled":
            mass_N = flat(table["tail_mass"])
            tail_ids_NR = torch.empty(len(mass_N), 0, dtype=torch.int64)
            if key.mode == "head_tail":
                tail_ids_NR = padded(table["tail_ids"])[0]
            return Sparse(
                padded(table["head_ids"])[0],
                padded(table["head_p"])[0],
                tail_ids_NR,
                mass_N,
                flat(table["entropy"]),
            )
        case "hidden":
            return Hidden(padded(table["states"])[0].to(dtype), _NO_HEAD)
        case "text":
            return Text(flat(table["logp"]) if key.settings.get("logp") else None)


def padded(column: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a column of lists of lists of numbers as `[N, longest]`, and how long each is.

    All outer lists come one after another; shorter inner ones are filled up with zeros.

    Raises:
        ValueError: a list is missing, or a number is.
    """
    inner = column.combine_chunks().flatten()
    value, count_N = _numbers(inner), _lengths(inner)
    place_H = torch.arange(int(count_N.max()))
    made_NH = torch.zeros(len(count_N), len(place_H), dtype=value.dtype)
    made_NH[place_H < count_N[:, None]] = value
    return made_NH, count_N


def flat(column: Any) -> torch.Tensor:
    """Return the numbers of a column of lists, one list after another."""
    return _numbers(column.combine_chunks())


def lengths(column: Any) -> torch.Tensor:
    """Return how long each list of a column is, int64."""
    return _lengths(column.combine_chunks())


def _numbers(array: Any) -> torch.Tensor:
    values = array.flatten()
    if values.null_count:
        raise ValueError("a number is missing")
    found = values.to_numpy(zero_copy_only=False)
    return torch.from_numpy(found.astype(np.int64 if found.dtype.kind in "iu" else found.dtype))


def _lengths(array: Any) -> torch.Tensor:
    from pyarrow import compute

    if array.null_count:
        raise ValueError("a list is missing")
    counts = compute.list_value_length(array).to_numpy(zero_copy_only=False)
    return torch.from_numpy(counts.astype(np.int64))
