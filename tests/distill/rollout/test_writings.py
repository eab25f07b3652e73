"""A run's writings are one chain, however many stores they fill."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill.errors import MismatchError, StorageError
from distill.rollout import writings as module
from distill.rollout.writings import Writings
from distill.store.shard import Key, Sequences
from distill.store.verify import verify

KEY = Key(mode="text", teacher_sha256="run", vocab_size=97, settings={"writer": "student"})


@pytest.fixture(autouse=True)
def three_a_store(monkeypatch) -> None:
    monkeypatch.setattr(module, "_SHARDS", 3)


def text(number: int) -> Sequences:
    tokens = [torch.tensor([3, number, row, 4]) for row in range(2)]
    return Sequences.of(tokens, [torch.tensor([False, True, True])] * 2)


def filled(path: Path, count: int) -> Writings:
    made = Writings(path, KEY)
    for number in range(len(made), count):
        made.add(text(number), seconds=1.0)
    return made


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 6, 8])
def test_writings_are_read_again_by_number(tmp_path, count):
    filled(tmp_path, count)
    again = Writings(tmp_path, KEY)
    assert len(again) == count
    for number in range(count):
        assert again.read(number).sha256() == text(number).sha256()


def test_no_store_has_more_than_its_share(tmp_path):
    filled(tmp_path, 8)
    parts = sorted(tmp_path.iterdir())
    assert [part.name for part in parts] == ["part-00000", "part-00001", "part-00002"]
    assert [len(list(part.glob("*.safetensors"))) for part in parts] == [3, 3, 2]
    assert all(verify(part).ok for part in parts)


def test_writings_that_went_on_later_are_the_same_chain(tmp_path):
    whole = filled(tmp_path / "whole", 7)
    for count in (2, 3, 5, 7):
        cut = filled(tmp_path / "cut", count)
    assert cut.sha256() == whole.sha256()
    ends = {filled(tmp_path / f"of-{count}", count).sha256() for count in range(8)}
    assert whole.sha256() in ends
    assert len(ends) == 8


def test_a_later_store_pins_the_earlier_ones(tmp_path):
    filled(tmp_path / "a", 4)
    other = Writings(tmp_path / "b", KEY)
    for number in (9, 1, 2):
        other.add(text(number), seconds=1.0)
    (tmp_path / "a" / "part-00001").rename(tmp_path / "b" / "part-00001")
    with pytest.raises(MismatchError):
        Writings(tmp_path / "b", KEY)


def test_a_writing_that_was_changed_or_is_gone_is_an_error(tmp_path):
    made = filled(tmp_path, 4)
    place = tmp_path / "part-00000" / "shard-00001.safetensors"
    place.write_bytes(place.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(StorageError, match="missing or was changed"):
        made.read(1)
    place.unlink()
    with pytest.raises(StorageError, match="missing or was changed"):
        made.read(1)
    assert made.read(3).sha256() == text(3).sha256()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6])
def test_whoevers_they_are_they_can_be_opened_and_nothing_is_changed(tmp_path, count):
    made = filled(tmp_path, count)
    before = sorted(tmp_path.rglob("*"))
    found = Writings.open(tmp_path)
    assert (len(found), found.sha256(), found.key) == (count, made.sha256(), KEY)
    assert sorted(tmp_path.rglob("*")) == before


def test_where_there_are_none_none_are_opened(tmp_path):
    assert Writings.open(tmp_path) is None and Writings.open(tmp_path / "gone") is None
    Writings(tmp_path, KEY)
    assert Writings.open(tmp_path) is None


def test_without_their_last_part_they_are_not_the_same(tmp_path):
    whole = filled(tmp_path, 4).sha256()
    shutil.rmtree(tmp_path / "part-00001")
    assert Writings.open(tmp_path).sha256() != whole


@pytest.mark.parametrize(
    "changed", [{"teacher_sha256": "another"}, {"settings": {"writer": "someone"}}]
)
def test_another_runs_writings_are_refused(tmp_path, changed):
    filled(tmp_path, 1)
    with pytest.raises(MismatchError):
        Writings(tmp_path, replace(KEY, **changed))
