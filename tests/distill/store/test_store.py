"""A store holds what was captured, whole shards only, and never two things under one name."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill import files
from distill.errors import MismatchError, StorageError
from distill.signals import Sparse
from distill.store import store
from distill.store.shard import Key, Sequences
from distill.store.store import Store
from tests.fakes.processes import processes
from tests.fakes.stores import HEAD, MODES, POSITIONS, filled, key, signal, text, write_every


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def put(opened: Store, number: int) -> None:
    opened.put(number, text(number), signal(number), seconds=0.5)


@pytest.mark.parametrize("mode", MODES)
def test_text_and_signals_of_every_shard_come_back(tmp_path, mode):
    filled(tmp_path, range(3), mode)
    read = list(Store.open(tmp_path).read(HEAD))
    assert len(read) == 3
    for number, (found, _) in enumerate(read):
        assert found.sha256() == text(number).sha256()
    states = {"hidden": "states_NT", "text": "logp_N"}.get(mode, "entropy_N")
    for number, (_, said) in enumerate(read):
        expected = getattr(signal(number, mode), states)
        expected = expected.half().float() if states == "entropy_N" else expected
        assert torch.equal(getattr(said, states).nan_to_num(7), expected.nan_to_num(7))


def test_a_store_can_be_opened_without_knowing_what_it_is_of(tmp_path):
    made = filled(tmp_path, range(2))
    found = Store.open(tmp_path)
    assert found.key == key()
    assert found.shards == made.shards
    assert found.tokens == 2 * POSITIONS
    assert found.seconds == 1.0


def test_nothing_is_written_before_the_first_signal(tmp_path):
    Store(tmp_path / "none", key())
    assert not (tmp_path / "none").exists()
    with pytest.raises(StorageError, match=r"manifest\.json cannot be read"):
        Store.open(tmp_path / "none")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_capture_resumed_after_some_shards_ends_with_the_same_bytes(tmp_path, before, mode):
    whole = filled(tmp_path / "whole", range(4), mode)
    filled(tmp_path / "cut", range(before), mode)
    resumed = filled(tmp_path / "cut", range(4), mode)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert resumed.sha256() == whole.sha256()
    assert resumed.size_bytes() == sum(
        len(b) for n, b in contents(tmp_path / "cut").items() if n.startswith("shard-")
    )


@pytest.mark.parametrize("beside", [None, "", '{"file": "sha'], ids=["nothing", "empty", "torn"])
def test_a_kill_between_shard_and_entry_costs_that_shard(tmp_path, beside):
    filled(tmp_path / "whole", range(2))
    cut = tmp_path / "cut"
    filled(cut, range(1))
    (cut / "shard-00001.safetensors").write_bytes(b"half a shard")
    (cut / "shard-00001.safetensors.partial").write_bytes(b"less")
    if beside is not None:
        (cut / "shard-00001.json").write_text(beside)
    assert Store.open(cut).entry(1) is None
    filled(cut, range(2))
    assert contents(cut) == contents(tmp_path / "whole")


def test_a_kill_between_entry_and_manifest_costs_nothing(tmp_path):
    filled(tmp_path / "whole", range(2))
    cut = filled(tmp_path / "cut", range(1))
    put(cut, 1)
    found = Store.open(tmp_path / "cut")
    assert len(found.shards) == 1
    assert found.entry(1).text_sha256 == text(1).sha256()
    found.seal()
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_kill_between_manifest_and_the_removal_of_entries_leaves_nothing_in_the_end(tmp_path):
    made = Store(tmp_path, key())
    put(made, 0)
    entry = (tmp_path / "shard-00000.json").read_bytes()
    made.seal()
    before = contents(tmp_path)
    (tmp_path / "shard-00000.json").write_bytes(entry)
    made.seal()
    assert contents(tmp_path) == before


def test_an_append_after_a_kill_takes_the_place_of_what_was_not_sealed(tmp_path):
    filled(tmp_path / "whole", range(2))
    cut = filled(tmp_path / "cut", range(1))
    cut.put(1, text(7), signal(7), seconds=0.5)
    filled(tmp_path / "cut", range(2))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_an_entry_never_speaks_of_another_shard_than_the_one_beside_it(tmp_path, monkeypatch):
    opened = filled(tmp_path, range(1))
    opened.put(1, text(7), signal(7), seconds=0.5)

    def die(path, value):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "_write_json", die)
        with pytest.raises(KeyboardInterrupt):
            put(opened, 1)
    assert opened.entry(1) is None
    opened.seal()
    assert len(opened.shards) == 1


def test_shards_made_in_any_order_by_several_writers_are_those_of_one(tmp_path):
    filled(tmp_path / "whole", range(5))
    writers = [Store(tmp_path / "parts", key()) for _ in range(3)]
    for writer, number in zip([1, 0, 2, 1, 0], [4, 3, 2, 1, 0], strict=True):
        put(writers[writer], number)
        writers[writer].seal()
        assert len(Store.open(tmp_path / "parts").shards) == (5 if number == 0 else 0)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    writers[2].seal()
    assert writers[2].sha256() == Store.open(tmp_path / "whole").sha256()


def test_what_is_missing_holds_back_only_what_comes_after(tmp_path):
    opened = Store(tmp_path, key())
    for number in (0, 1, 3):
        put(opened, number)
    opened.seal()
    assert len(opened.shards) == 2
    assert (tmp_path / "shard-00003.json").is_file()
    put(opened, 2)
    opened.seal()
    assert len(opened.shards) == 4
    assert not list(tmp_path.glob("*.json.*"))


def test_processes_that_write_at_once_seal_one_chain(tmp_path):
    whole = filled(tmp_path / "whole", range(12))
    parts = tmp_path / "parts"
    assert processes(write_every, [(parts, rank, 3, 12) for rank in range(3)]) == [0, 0, 0]
    assert contents(parts) == contents(tmp_path / "whole")
    assert Store.open(parts).sha256() == whole.sha256()


def test_the_digest_is_of_key_text_signals_and_order(tmp_path):
    digests = {
        filled(tmp_path / "a", [0, 1]).sha256(),
        filled(tmp_path / "b", [0, 1, 2]).sha256(),
        filled(tmp_path / "c", [1, 0]).sha256(),
        filled(tmp_path / "d", [0, 1], "topk").sha256(),
        Store(tmp_path / "e", key()).sha256(),
    }
    other_text = Store(tmp_path / "f", key())
    other_text.append(replace(text(0), counted_N=~text(0).counted_N), signal(0), 0.5)
    other_text.append(text(1), signal(1), 0.5)
    other_key = Store(tmp_path / "g", replace(key(), teacher_sha256="u" * 64))
    for number in (0, 1):
        other_key.append(text(number), signal(number), 0.5)
    assert len(digests | {other_text.sha256(), other_key.sha256()}) == 7


def test_the_digest_is_not_of_the_time_it_took(tmp_path):
    one, other = (Store(tmp_path / name, key()) for name in ("one", "other"))
    one.append(text(0), signal(0), 0.5)
    other.append(text(0), signal(0), 0.7)
    assert one.sha256() == other.sha256()
    assert one.seconds != other.seconds


def test_signals_over_another_vocabulary_are_refused_by_its_size(tmp_path):
    filled(tmp_path, range(1))
    with pytest.raises(MismatchError) as caught:
        Store(tmp_path, key(vocab_size=49_152))
    assert str(caught.value) == (
        f"{tmp_path} holds signals over 300 tokens, but this run's vocabulary has 49152; "
        "set signal.path to another directory."
    )
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"teacher_sha256": "u" * 64}, "teacher_sha256"),
        ({"settings": {"head": 5, "tail": 4}}, "settings"),
        ({"mode": "hidden"}, "mode"),
    ],
)
def test_signals_of_something_else_are_refused_by_what_differs(tmp_path, change, named):
    before = filled(tmp_path, range(1)).shards
    with pytest.raises(MismatchError, match=f"holds signals of a different {named}; set signal"):
        Store(tmp_path, replace(key(), **change))
    assert Store(tmp_path, key()).shards == before


def test_a_store_that_another_process_began_meanwhile_is_refused_before_a_signal(tmp_path):
    late = Store(tmp_path, replace(key(), teacher_sha256="u" * 64))
    filled(tmp_path, range(1))
    before = contents(tmp_path)
    with pytest.raises(MismatchError, match="of a different teacher_sha256"):
        put(late, 1)
    assert contents(tmp_path) == before


def change(path: Path, number: int) -> None:
    shard = path / f"shard-{number:05d}.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")


def cut(path: Path, number: int) -> None:
    shard = path / f"shard-{number:05d}.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])


def remove(path: Path, number: int) -> None:
    (path / f"shard-{number:05d}.safetensors").unlink()


def swap(path: Path, number: int) -> None:
    one, other = (path / f"shard-{n:05d}.safetensors" for n in (number, number - 1))
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)


@pytest.mark.parametrize("damage", [change, cut, remove, swap])
def test_a_shard_that_is_gone_or_changed_is_refused(tmp_path, damage):
    opened = filled(tmp_path, range(2))
    damage(tmp_path, 1)
    with pytest.raises(StorageError, match=r"shard-0000.* is missing or was changed; delete that"):
        list(opened.read())


def test_a_lost_shard_can_be_made_again_if_it_comes_out_the_same(tmp_path):
    opened = filled(tmp_path, range(3))
    before = contents(tmp_path)
    remove(tmp_path, 1)
    assert opened.entry(1) is None
    with pytest.raises(MismatchError, match=r"shard-00001.* cannot be made again as it was"):
        opened.put(1, text(1), signal(9), seconds=0.5)
    assert opened.entry(1) is None
    put(opened, 1)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("damage", ["", "{", "{}", "[]", "3", '{"key": {}, "shards": []}', b"\xff"])
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path, damage):
    filled(tmp_path, range(1))
    raw = damage if isinstance(damage, bytes) else damage.encode()
    (tmp_path / "manifest.json").write_bytes(raw)
    with pytest.raises(StorageError, match=r"manifest\.json cannot be read; restore it, or delete"):
        Store(tmp_path, key())


def edited(path: Path, edit) -> None:
    file = path / "manifest.json"
    value = json.loads(file.read_text())
    edit(value)
    file.write_text(json.dumps(value))


EDITS = {
    "reordered": lambda value: value["shards"].reverse(),
    "left out": lambda value: value["shards"].pop(0),
    "another text": lambda value: value["shards"][0].update(text_sha256="0" * 64),
    "another size": lambda value: value["shards"][1].update(tokens=15),
    "another key": lambda value: value["key"].update(teacher_sha256="u" * 64),
    "another file": lambda value: value["shards"][0].update(file="../elsewhere"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_manifest_that_was_edited_breaks_its_chain(tmp_path, edit):
    filled(tmp_path, range(3))
    edited(tmp_path, edit)
    with pytest.raises(StorageError, match=r"its chain breaks at shard-0000\d.safetensors; rest"):
        Store.open(tmp_path)


def test_the_time_a_shard_took_is_no_part_of_the_chain(tmp_path):
    filled(tmp_path, range(2))
    edited(tmp_path, lambda value: value["shards"][0].update(seconds=9.0))
    assert Store.open(tmp_path).seconds == 9.5


def failing(kind: type[BaseException]):
    def save(tensors, path):
        path.write_bytes(b"a part")
        raise kind(28, "No space left on device")

    return save


def test_a_full_disk_keeps_the_shards_before_it(tmp_path, monkeypatch):
    opened = filled(tmp_path / "cut", range(2))
    before = contents(tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(store, "save_file", failing(OSError))
        with pytest.raises(StorageError, match="No space left on device; what was finished is"):
            opened.append(text(2), signal(2), seconds=0.5)
    assert contents(tmp_path / "cut") == before
    assert opened.tokens == 2 * POSITIONS
    opened.append(text(2), signal(2), seconds=0.5)
    filled(tmp_path / "whole", range(3))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_disk_that_fills_up_at_the_manifest_keeps_the_shard_for_later(tmp_path, monkeypatch):
    opened = filled(tmp_path / "cut", range(2))

    def refuse(source, target):
        if str(target).endswith("manifest.json"):
            raise OSError(28, "No space left on device")
        real(source, target)

    real = files.os.replace
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", refuse)
        with pytest.raises(StorageError, match="No space left on device"):
            opened.append(text(2), signal(2), seconds=0.5)
    assert opened.tokens == Store.open(tmp_path / "cut").tokens == 2 * POSITIONS
    Store.open(tmp_path / "cut").seal()
    filled(tmp_path / "whole", range(3))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_file_of_someone_else_s_is_left_alone(tmp_path):
    (tmp_path / "shard-notes.json").write_text("mine")
    filled(tmp_path, range(2))
    assert (tmp_path / "shard-notes.json").read_text() == "mine"


def test_a_disk_that_really_refuses_is_an_error_of_ours(tmp_path):
    resource = pytest.importorskip("resource")
    opened = filled(tmp_path, range(1))
    before = contents(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, hard))
    try:
        with pytest.raises(StorageError, match="cannot write to"):
            opened.append(text(1), signal(1), seconds=0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == before


def test_an_interrupt_leaves_no_partial_shard(tmp_path, monkeypatch):
    opened = filled(tmp_path, range(1))
    before = contents(tmp_path)
    monkeypatch.setattr(store, "save_file", failing(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        opened.append(text(1), signal(1), seconds=0.5)
    assert contents(tmp_path) == before


def test_shards_can_be_read_by_others_than_their_owner(tmp_path):
    filled(tmp_path, range(1))
    assert {file.stat().st_mode & 0o444 for file in tmp_path.glob("*.*s*")} == {0o444}


def test_24_and_8_at_deepseek_s_vocabulary_cost_at_most_125_bytes_a_token(tmp_path):
    generator = torch.Generator().manual_seed(0)
    windows = [torch.randint(0, 129_280, (257,), generator=generator) for _ in range(16)]
    made = Store(
        tmp_path,
        Key(
            mode="head_tail",
            teacher_sha256="t" * 64,
            vocab_size=129_280,
            settings={"dtype": "bfloat16", "head": 24, "tail": 8, "shard_tokens": 4096},
        ),
    )
    p_NH = torch.rand(4096, 24, generator=generator) / 24
    said = Sparse(
        torch.randint(0, 129_280, (4096, 24), generator=generator),
        p_NH,
        torch.randint(0, 129_280, (4096, 8), generator=generator),
        1 - p_NH.sum(1),
        torch.full((4096,), 2.5),
    )
    made.append(Sequences.of(windows), said, 1.0)
    every_file = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert made.size_bytes() / made.tokens <= 125
    assert every_file / made.tokens <= 125
