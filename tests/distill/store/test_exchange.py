"""What goes out to Parquet or `datasets` comes back as the same store, or is refused."""

import json
import math

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from distill.errors import InputError, MismatchError, StorageError
from distill.store import exchange
from distill.store.store import Store
from tests.fakes.stores import LENGTHS, MODES, filled, key, signal, text

WAYS = {
    "parquet": (exchange.to_parquet, exchange.from_parquet),
    "datasets": (exchange.to_datasets, exchange.from_datasets),
}


def contents(path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
def test_a_store_comes_back_byte_for_byte(tmp_path, way, mode):
    out, back = WAYS[way]
    store = filled(tmp_path / "store", range(3), mode)
    out(store, tmp_path / "sent")
    again = back(tmp_path / "sent", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "store")
    assert again.sha256() == store.sha256()


def test_a_vocabulary_of_17_bits_and_float32_states_come_back_too(tmp_path):
    for mode in ("head_tail", "sampled"):
        store = Store(tmp_path / mode, key(mode, 70_000))
        store.append(text(0, 70_000), signal(0, mode, 70_000), 0.5)
        exchange.to_parquet(store, tmp_path / f"{mode}.parquet")
        exchange.from_parquet(tmp_path / f"{mode}.parquet", tmp_path / f"{mode}-again")
        assert contents(tmp_path / f"{mode}-again") == contents(tmp_path / mode)


def test_a_row_is_a_sequence_with_an_entry_a_position(tmp_path):
    filled(tmp_path / "store", range(2))
    exchange.to_parquet(Store.open(tmp_path / "store"), tmp_path / "sent")
    rows = parquet.read_table(tmp_path / "sent").to_pylist()
    assert [len(row["tokens"]) for row in rows] == [n + 1 for n in LENGTHS] * 2
    first = text(0).split()[0].tolist()
    assert rows[0]["tokens"] == first
    said = signal(0)
    assert rows[0]["head_ids"] == said.head_ids_NH[:5].tolist()
    assert rows[0]["tail_ids"] == said.tail_ids_NR[:5].tolist()
    assert np.array(rows[2]["head_p"]).shape == (10, 5)
    assert rows[1]["entropy"] == said.entropy_N[5:6].half().float().tolist()
    assert rows[0]["counted"] == text(0).counted_N[:5].tolist()
    assert rows[2]["starts"] == [True, False, False, True] + [False] * 6


def test_draws_are_rows_of_their_own_length(tmp_path):
    filled(tmp_path / "store", range(1), "sampled")
    exchange.to_parquet(Store.open(tmp_path / "store"), tmp_path / "sent")
    rows = parquet.read_table(tmp_path / "sent").to_pylist()
    shares = [p for row in rows for p in row["head_p"]]
    assert len({len(p) for p in shares}) > 1
    assert all(math.isclose(sum(p), 1, rel_tol=1e-6) and min(p) > 0 for p in shares)


def test_a_datasets_directory_is_read_by_datasets(tmp_path):
    import datasets

    filled(tmp_path / "store", range(2))
    exchange.to_datasets(Store.open(tmp_path / "store"), tmp_path / "sent")
    rows = datasets.load_from_disk(str(tmp_path / "sent"))
    assert len(rows) == 6
    assert rows[0]["head_ids"] == signal(0).head_ids_NH[:5].tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sent", "store"]
    assert not datasets.are_progress_bars_disabled()


def test_an_import_goes_on_where_it_was_stopped(tmp_path):
    exchange.to_parquet(filled(tmp_path / "store", range(3)), tmp_path / "sent")
    filled(tmp_path / "again", range(1))
    exchange.from_parquet(tmp_path / "sent", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "store")


def test_an_import_into_another_store_is_refused(tmp_path):
    exchange.to_parquet(filled(tmp_path / "store", range(2)), tmp_path / "sent")
    filled(tmp_path / "other", range(1), "topk")
    with pytest.raises(MismatchError, match="holds signals of a different mode"):
        exchange.from_parquet(tmp_path / "sent", tmp_path / "other")
    Store(tmp_path / "third", key()).append(text(5), signal(5), 0.5)
    with pytest.raises(InputError, match=r"was changed since it was exported, or .*third held"):
        exchange.from_parquet(tmp_path / "sent", tmp_path / "third")


def rewritten(path, change) -> None:
    """Write the file again with its rows changed, and with the same metadata."""
    file = parquet.ParquetFile(path)
    metadata = {exchange.METADATA: file.metadata.metadata[exchange.METADATA.encode()]}
    groups = [file.read_row_group(n).to_pylist() for n in range(file.num_row_groups)]
    change(groups)
    schema = file.schema_arrow
    writer = parquet.ParquetWriter(path, schema)
    for rows in groups:
        writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
    writer.add_key_value_metadata(metadata)
    writer.close()


CHANGES = {
    "a token": lambda groups: groups[0][0]["tokens"].__setitem__(0, 299),
    "a probability": lambda groups: groups[1][2]["head_p"][0].__setitem__(0, 0.5),
    "an id out of range": lambda groups: groups[0][0]["head_ids"][0].__setitem__(0, 300),
    "a row lost": lambda groups: groups[1].pop(),
    "a shard lost": lambda groups: groups.pop(),
    "an entry lost": lambda groups: groups[0][1]["entropy"].pop(),
    "an entry empty": lambda groups: groups[0][0]["head_ids"].__setitem__(0, None),
    "shards in another order": lambda groups: groups.reverse(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_export_that_was_changed_is_refused(tmp_path, change):
    exchange.to_parquet(filled(tmp_path / "store", range(2)), tmp_path / "sent")
    rewritten(tmp_path / "sent", lambda groups: None)
    exchange.from_parquet(tmp_path / "sent", tmp_path / "again")  # the rewriting itself is none
    rewritten(tmp_path / "sent", change)
    with pytest.raises(InputError, match="changed"):
        exchange.from_parquet(tmp_path / "sent", tmp_path / "changed")


def test_a_datasets_directory_that_was_changed_is_refused(tmp_path):
    import datasets

    exchange.to_datasets(filled(tmp_path / "store", range(2)), tmp_path / "sent")
    rows = datasets.load_from_disk(str(tmp_path / "sent"))
    rows.select([1, 0, 2, 3, 4, 5], keep_in_memory=True).save_to_disk(str(tmp_path / "other"))
    with pytest.raises(InputError, match="was changed"):
        exchange.from_datasets(tmp_path / "other", tmp_path / "again")


def test_files_that_are_no_export_are_refused(tmp_path):
    parquet.write_table(pyarrow.table({"tokens": [[1, 2]]}), tmp_path / "plain")
    (tmp_path / "text").write_text("no table")
    for name in ("plain", "text", "missing"):
        with pytest.raises(InputError, match=f"{name} is no export of a store"):
            exchange.from_parquet(tmp_path / name, tmp_path / "again")
        with pytest.raises(InputError, match=f"{name} is no export of a store"):
            exchange.from_datasets(tmp_path / name, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left_of_an_export_of_a_damaged_store(tmp_path, way):
    store = filled(tmp_path / "store", range(2))
    (tmp_path / "store" / "shard-00001.safetensors").unlink()
    with pytest.raises(StorageError, match="is missing or was changed"):
        WAYS[way][0](store, tmp_path / "sent")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("way", WAYS)
def test_a_store_without_signals_is_not_exported(tmp_path, way):
    with pytest.raises(StorageError, match="holds no finished shard; capture first"):
        WAYS[way][0](Store(tmp_path / "store", key()), tmp_path / "sent")


def test_an_existing_directory_is_not_written_over(tmp_path):
    store = filled(tmp_path / "store", range(1))
    with pytest.raises(StorageError, match="store exists already; choose another directory"):
        exchange.to_datasets(store, tmp_path / "store")


def test_a_full_disk_is_an_error_of_ours(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exchange, "_write_parquet", refuse)
    store = filled(tmp_path / "store", range(1))
    for way in WAYS:
        with pytest.raises(StorageError, match="No space left on device; free space and export"):
            WAYS[way][0](store, tmp_path / "sent")


def test_metadata_names_key_and_chain(tmp_path):
    store = filled(tmp_path / "store", range(2))
    exchange.to_parquet(store, tmp_path / "sent")
    notes = json.loads(parquet.read_metadata(tmp_path / "sent").metadata[b"spiritsafe"])
    assert notes["key"] == key().as_dict()
    assert notes["sha256"] == store.sha256()
    assert notes["sequences"] == [3, 3]
    assert notes["seconds"] == [0.5, 0.5]
