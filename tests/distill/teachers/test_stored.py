"""Signals are had from any places of a store, in any order, and only from whole shards."""

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.errors import StorageError
from distill.store import store as stores_module
from distill.store.shard import join
from distill.store.store import Store
from distill.teachers import stored
from distill.teachers.stored import Signals
from tests.fakes.stores import HEAD, MODES, POSITIONS, filled

CPU = torch.device("cpu")
SHARDS = 4
TOKENS = SHARDS * POSITIONS


def fields(signal) -> list[torch.Tensor]:
    names = [name for name in signal.__dataclass_fields__ if name != "head"]
    return [getattr(signal, name).nan_to_num(7) for name in names]


def dense(signal, size: int = 300) -> torch.Tensor:
    blank = torch.zeros(len(signal.head_ids_NH), size)
    return blank.scatter_add_(1, signal.head_ids_NH, signal.head_p_NH)


@pytest.fixture(scope="module", params=MODES)
def opened(request, tmp_path_factory):
    """A store of four shards, and all it says."""
    store = filled(tmp_path_factory.mktemp(request.param), range(SHARDS), request.param)
    whole = join([signal for _, signal in store.read(HEAD)])
    return store, whole


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(st.integers(0, TOKENS - 1), min_size=1, max_size=40))
def test_any_places_in_any_order_are_those_of_the_whole(opened, rows):
    store, whole = opened
    row_P = torch.tensor(rows)
    found = Signals(store, HEAD).at(row_P, CPU)
    if store.key.mode == "sampled":  # no wider than what is asked for needs
        assert torch.equal(dense(found), dense(whole)[row_P])
        return
    for part, every in zip(fields(found), fields(whole), strict=True):
        assert torch.equal(part, every[row_P])


def test_ids_are_int64_and_numbers_float32(opened):
    store, _ = opened
    found = Signals(store, HEAD).at(torch.tensor([17, 2]), CPU)
    kinds = {part.dtype for part in fields(found)}
    numbers = torch.bfloat16 if store.key.mode == "hidden" else torch.float32
    assert kinds in ({numbers}, {numbers, torch.int64})


@pytest.mark.parametrize("row", [-1, TOKENS])
def test_a_place_that_is_not_there_is_a_mistake(opened, row):
    with pytest.raises(AssertionError):
        Signals(opened[0], HEAD).at(torch.tensor([0, row]), CPU)


def test_signals_go_where_they_are_wanted(opened):
    found = Signals(opened[0], HEAD).at(torch.tensor([0, 20]), torch.device("meta"))
    names = [name for name in found.__dataclass_fields__ if name != "head"]
    assert {getattr(found, name).device.type for name in names} == {"meta"}


def test_only_shards_that_are_asked_for_are_opened(tmp_path):
    store = filled(tmp_path, range(SHARDS))
    (tmp_path / "shard-00001.safetensors").unlink()
    signals = Signals(store)
    signals.at(torch.tensor([0, 3 * POSITIONS]), CPU)
    with pytest.raises(StorageError, match=r"shard-00001\.safetensors is missing or was changed"):
        signals.at(torch.tensor([0, POSITIONS]), CPU)


def test_a_changed_shard_is_seen_when_it_is_first_opened_unless_nobody_looks(tmp_path):
    store = filled(tmp_path, range(2))
    shard = tmp_path / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    rows = torch.tensor([POSITIONS])
    with pytest.raises(StorageError, match="is missing or was changed"):
        Signals(store).at(rows, CPU)
    Signals(store, check=False).at(rows, CPU)


@pytest.fixture
def looked_at(monkeypatch) -> list[str]:
    """The files whose digests are taken."""
    names, real = [], stores_module.file_digest

    def note(path):
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(stores_module, "file_digest", note)
    return names


def test_a_shard_is_checked_once_even_if_it_has_to_be_opened_again(
    tmp_path, monkeypatch, looked_at
):
    monkeypatch.setattr(stored, "_OPEN", 2)
    signals = Signals(filled(tmp_path, range(SHARDS)))
    looked_at.clear()
    for _ in range(2):
        for number in range(SHARDS):
            signals.at(torch.tensor([number * POSITIONS]), CPU)
            assert _mapped(tmp_path) <= 2
    assert sorted(looked_at) == [f"shard-0000{number}.safetensors" for number in range(SHARDS)]


def test_what_was_asked_for_last_stays_open(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "_OPEN", 2)
    store = filled(tmp_path, range(3))
    opened, real = [], Store.load

    def note(self, number, *, check=True):
        opened.append(number)
        return real(self, number, check=check)

    monkeypatch.setattr(Store, "load", note)
    signals = Signals(store)
    for number in (0, 1, 0, 2, 0):
        signals.at(torch.tensor([number * POSITIONS]), CPU)
    assert opened == [0, 1, 2]


def _mapped(path) -> int:
    """Return how many files under `path` this process has mapped."""
    with open(f"/proc/{os.getpid()}/maps", encoding="utf-8") as lines:
        return len({line.split()[-1] for line in lines if str(path) in line})


def test_what_is_appended_later_is_not_seen(tmp_path):
    store = filled(tmp_path, range(1))
    signals = Signals(store)
    filled(tmp_path, range(2))
    with pytest.raises(AssertionError):
        signals.at(torch.tensor([POSITIONS]), CPU)
