"""A store holds what was captured, whole shards only, and never two things under one name."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from distill import store
from distill.errors import MismatchError, StorageError
from distill.signals import Sparse, sparsify
from distill.store import Key, Store, pack_sparse, read_hidden, read_sparse, rows

VOCAB = 300
CPU = torch.device("cpu")
KEY = Key(
    mode="head_tail",
    teacher_sha256="t" * 64,
    text_sha256="x" * 64,
    vocab_size=VOCAB,
    settings={"dtype": "float32", "head": 5, "tail": 3, "shard_tokens": 16},
)


def signal(number: int) -> Sparse:
    generator = torch.Generator().manual_seed(number)
    logits = 2 * torch.randn(16, VOCAB, generator=generator)
    return sparsify(logits, head=5, tail=3, generator=generator)


def fill(path, numbers) -> Store:
    """Open the store and append the shards that are missing of `numbers`."""
    opened = Store(path, KEY)
    for number in list(numbers)[len(opened.shards) :]:
        opened.append(pack_sparse(signal(number), VOCAB), seconds=0.5)
    return opened


def contents(path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def test_signals_come_back_as_they_were(tmp_path):
    fill(tmp_path, range(3))
    found = rows(read_sparse(Store(tmp_path, KEY)), torch.arange(48), CPU)
    expected = [signal(number) for number in range(3)]
    assert torch.equal(found.head_ids_NH, torch.cat([s.head_ids_NH for s in expected]))
    assert torch.equal(found.tail_ids_NR, torch.cat([s.tail_ids_NR for s in expected]))
    assert torch.equal(found.tail_mass_N, torch.cat([s.tail_mass_N for s in expected]))
    assert torch.equal(found.entropy_N, torch.cat([s.entropy_N for s in expected]))
    halves = torch.cat([s.head_p_NH for s in expected])
    torch.testing.assert_close(found.head_p_NH, halves, rtol=2**-11, atol=2**-24)


def test_rows_are_taken_by_place_and_unpacked(tmp_path):
    whole = read_sparse(fill(tmp_path, range(3)))
    index = torch.tensor([40, 2, 2, 17])
    some, all_of_them = rows(whole, index, CPU), rows(whole, torch.arange(48), CPU)
    assert torch.equal(some.head_ids_NH, all_of_them.head_ids_NH[index])
    assert torch.equal(some.entropy_N, all_of_them.entropy_N[index])
    assert some.head_ids_NH.dtype == some.tail_ids_NR.dtype == torch.int64
    assert some.head_p_NH.dtype == torch.float32


@pytest.mark.parametrize(
    ("vocab", "dtype"), [(2**16, torch.uint16), (2**16 + 1, torch.int32)], ids=["small", "large"]
)
def test_the_last_token_of_a_vocabulary_survives_packing(vocab, dtype):
    ids = torch.tensor([[vocab - 1, 0]])
    half = torch.tensor([[0.5, 0.5]])
    one = torch.ones(1)
    packed = pack_sparse(Sparse(ids, half, ids, one, one), vocab)
    assert packed["head_ids"].dtype == packed["tail_ids"].dtype == dtype
    assert packed["head_ids"].long().tolist() == packed["tail_ids"].long().tolist() == ids.tolist()


def test_hidden_states_come_back_exactly(tmp_path):
    opened = Store(tmp_path, replace(KEY, mode="hidden"))
    states = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    for part in states.split(4):
        opened.append({"states": part.contiguous()}, seconds=0.1)
    assert torch.equal(read_hidden(opened).states_NT, states)


@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_capture_resumed_after_some_shards_ends_with_the_same_bytes(tmp_path, before):
    whole = fill(tmp_path / "whole", range(4))
    fill(tmp_path / "cut", range(before))
    resumed = fill(tmp_path / "cut", range(4))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert resumed.sha256() == whole.sha256()
    assert resumed.tokens == 64
    assert resumed.seconds == 2.0
    assert resumed.size_bytes() == sum(
        len(b) for n, b in contents(tmp_path / "cut").items() if n.startswith("shard-")
    )


def test_a_shard_left_by_a_kill_before_the_index_was_written_is_replaced(tmp_path):
    fill(tmp_path / "whole", range(2))
    fill(tmp_path / "cut", range(1))
    (tmp_path / "cut" / "shard-00001.safetensors").write_bytes(b"half a shard")
    (tmp_path / "cut" / "shard-00001.safetensors.partial").write_bytes(b"less")
    resumed = fill(tmp_path / "cut", range(2))
    list(resumed.read())
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_the_digest_is_of_key_and_shards(tmp_path):
    whole = fill(tmp_path / "a", range(2))
    digests = {whole.sha256(), fill(tmp_path / "b", range(3)).sha256()}
    digests.add(fill(tmp_path / "c", [0, 9]).sha256())
    whole.key = replace(KEY, text_sha256="y" * 64)
    digests.add(whole.sha256())
    assert len(digests) == 4


def test_signals_over_another_vocabulary_are_refused_by_its_size(tmp_path):
    fill(tmp_path, range(1))
    with pytest.raises(MismatchError) as caught:
        Store(tmp_path, replace(KEY, vocab_size=49_152))
    assert str(caught.value) == (
        f"{tmp_path} holds signals over 300 tokens, but this run's vocabulary has 49152; "
        "set signal.path to another directory."
    )
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"teacher_sha256": "u" * 64}, "teacher_sha256"),
        ({"text_sha256": "y" * 64}, "text_sha256"),
        ({"settings": {**KEY.settings, "tail": 4}}, "settings"),
        ({"mode": "hidden"}, "mode"),
    ],
)
def test_signals_of_something_else_are_refused_by_what_differs(tmp_path, change, named):
    before = fill(tmp_path, range(1)).shards
    with pytest.raises(MismatchError, match=f"holds signals of a different {named}; set signal"):
        Store(tmp_path, replace(KEY, **change))
    assert Store(tmp_path, KEY).shards == before


@pytest.mark.parametrize("damage", [b"", b"longer than it was"], ids=["gone", "changed"])
def test_a_shard_that_is_gone_or_changed_is_refused(tmp_path, damage):
    opened = fill(tmp_path, range(2))
    shard = tmp_path / "shard-00001.safetensors"
    if damage:
        shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    else:
        shard.unlink()
    with pytest.raises(StorageError, match=r"shard-00001.* is missing or was changed; delete"):
        read_sparse(opened)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "3"])
def test_an_index_that_cannot_be_read_is_refused(tmp_path, text):
    fill(tmp_path, range(1))
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(StorageError, match=r"index\.json cannot be read; delete"):
        Store(tmp_path, KEY)


def failing(kind: type[BaseException]):
    def save(tensors, path):
        path.write_bytes(b"a part")
        raise kind(28, "No space left on device")

    return save


def test_a_full_disk_keeps_the_shards_before_it(tmp_path, monkeypatch):
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    opened = fill(cut, range(2))
    before = contents(cut)
    with monkeypatch.context() as patch:
        patch.setattr(store, "save_file", failing(OSError))
        with pytest.raises(StorageError, match="No space left on device; what was finished is"):
            opened.append(pack_sparse(signal(2), VOCAB), seconds=0.5)
    assert contents(cut) == before
    assert opened.tokens == 32
    opened.append(pack_sparse(signal(2), VOCAB), seconds=0.5)
    fill(whole, range(3))
    assert contents(cut) == contents(whole)


def test_a_disk_that_really_refuses_is_an_error_of_ours(tmp_path):
    resource = pytest.importorskip("resource")
    opened = fill(tmp_path, range(1))
    before = contents(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, hard))
    try:
        with pytest.raises(StorageError, match="cannot write to"):
            opened.append(pack_sparse(signal(1), VOCAB), seconds=0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == before


def test_an_interrupt_leaves_no_partial_shard(tmp_path, monkeypatch):
    opened = fill(tmp_path, range(1))
    before = contents(tmp_path)
    monkeypatch.setattr(store, "save_file", failing(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        opened.append(pack_sparse(signal(1), VOCAB), seconds=0.5)
    assert contents(tmp_path) == before


def test_shards_are_plain_safetensors(tmp_path):
    fill(tmp_path, range(1))
    found = load_file(tmp_path / "shard-00000.safetensors")
    assert sorted(found) == ["entropy", "head_ids", "head_p", "tail_ids", "tail_mass"]
    assert {t.shape[0] for t in found.values()} == {16}
