"""Every kind of damage to a store is reported, by name, and none of it raises."""

import hashlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.attest import canonical_bytes, digest
from distill.store.store import Store
from distill.store.verify import StoreReport, verify
from tests.fakes.stores import MODES, POSITIONS, filled, key, signal, text

NAMES = tuple(f"shard-0000{number}.safetensors" for number in range(3))


def edit(path, change) -> None:
    """Change the manifest on purpose, its own digest with it."""
    file = path / "manifest.json"
    value = json.loads(file.read_text())
    change(value)
    del value["spiritsafe_sha256"]
    file.write_bytes(canonical_bytes({**value, "spiritsafe_sha256": digest(value)}))


@pytest.mark.parametrize("mode", MODES)
def test_a_whole_store_is_intact(tmp_path, mode):
    store = filled(tmp_path, range(3), mode)
    assert verify(tmp_path) == StoreReport(
        path=tmp_path,
        sha256=store.sha256(),
        intact=NAMES,
        tokens=3 * POSITIONS,
        bytes=store.size_bytes(),
    )
    assert verify(tmp_path).ok


def test_a_store_without_a_shard_is_intact_and_empty(tmp_path):
    Store(tmp_path, key()).seal()
    assert verify(tmp_path).ok
    assert verify(tmp_path).tokens == 0


def test_a_changed_a_cut_and_a_lost_shard_are_told_apart_from_an_intact_one(tmp_path):
    filled(tmp_path, range(4))
    changed, short, lost = (tmp_path / name for name in NAMES)
    changed.write_bytes(changed.read_bytes()[:-1] + b"!")
    short.write_bytes(short.read_bytes()[:100])
    lost.unlink()
    found = verify(tmp_path)
    assert found.broken == (
        (changed.name, "its bytes were changed"),
        (short.name, "its bytes were changed"),
    )
    assert found.missing == (lost.name,)
    assert found.intact == ("shard-00003.safetensors",)
    assert found.tokens == POSITIONS
    assert found.bytes == (tmp_path / "shard-00003.safetensors").stat().st_size
    assert not found.ok


def test_a_lost_shard_alone_is_enough_not_to_be_whole(tmp_path):
    filled(tmp_path, range(2))
    (tmp_path / NAMES[1]).unlink()
    found = verify(tmp_path)
    assert (found.problem, found.broken, found.missing) == ("", (), (NAMES[1],))
    assert not found.ok


def test_shards_that_changed_places_are_both_broken(tmp_path):
    filled(tmp_path, range(3))
    first, second = (tmp_path / name for name in NAMES[:2])
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    assert [name for name, _ in verify(tmp_path).broken] == list(NAMES[:2])


@pytest.mark.parametrize(
    ("change", "breaks"),
    [
        (lambda value: value["shards"].reverse(), 0),
        (lambda value: value["shards"].pop(1), 1),
        (lambda value: value["shards"][2].update(text_sha256="0"), 2),
        (lambda value: value["key"].update(vocab_size=301), 0),
    ],
)
def test_a_manifest_that_was_edited_has_a_broken_chain(tmp_path, change, breaks):
    filled(tmp_path, range(3))
    edit(tmp_path, change)
    found = verify(tmp_path)
    assert found.problem == f"the chain breaks at {NAMES[breaks]}"
    assert not found.ok


def test_a_shorter_store_is_told_by_the_end_of_its_chain(tmp_path):
    whole = filled(tmp_path, range(3)).sha256()
    edit(tmp_path, lambda value: value["shards"].pop())
    found = verify(tmp_path)
    assert found.ok
    assert found.extra == (NAMES[2],)
    assert found.sha256 != whole


def test_a_manifest_that_was_written_again_by_hand_is_not_intact(tmp_path):
    filled(tmp_path, range(2))
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=1))
    assert verify(tmp_path).problem == "its manifest was changed"


def test_a_store_of_before_is_read_and_verified(tmp_path):
    store = filled(tmp_path, range(2))
    file = tmp_path / "manifest.json"
    value = json.loads(file.read_text()) | {"schema": "spiritsafe.store/1"}
    file.write_text(json.dumps(value))
    assert not verify(tmp_path).ok  # it would be a new one that calls itself old
    del value["spiritsafe_sha256"]
    file.write_text(json.dumps(value, indent=1) + "\n")
    assert verify(tmp_path).ok
    assert Store.open(tmp_path).sha256() == store.sha256()


def test_what_a_killed_capture_left_is_named_and_harmless(tmp_path):
    store = filled(tmp_path, range(1))
    store.put(2, text(2), signal(2), 0.5)
    (tmp_path / "shard-00001.safetensors.partial").write_bytes(b"less")
    found = verify(tmp_path)
    assert found.ok
    assert found.extra == (
        "shard-00001.safetensors.partial",
        "shard-00002.json",
        "shard-00002.safetensors",
    )


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b"[" * 9999, b'{"key": 1}'])
def test_a_manifest_that_cannot_be_read_is_the_problem(tmp_path, damage):
    filled(tmp_path, range(1))
    (tmp_path / "manifest.json").write_bytes(damage)
    found = verify(tmp_path)
    assert "manifest.json cannot be read" in found.problem
    assert found.extra == NAMES[:1]
    assert not found.ok


def test_a_place_without_a_store_is_no_store(tmp_path):
    assert not verify(tmp_path / "nowhere").ok
    assert not verify(tmp_path).ok


def test_a_shard_that_its_own_entry_belies_is_broken(tmp_path):
    # As a writer with a mistake would leave it: digests and chain in order, facts wrong.
    store = Store(tmp_path, key())
    store.put(0, text(0), signal(0), 0.5)
    entry = tmp_path / "shard-00000.json"
    for change, reason in (
        ({"tokens": 9}, "it holds 16 positions, not 9"),
        ({"text_sha256": "0"}, "its text is not the one that is named"),
    ):
        told = json.loads(entry.read_text()) | change
        other = Store(tmp_path / reason[:4].strip(), key())
        other.put(0, text(0), signal(0), 0.5)
        (other.path / "shard-00000.json").write_text(json.dumps(told))
        other.seal()
        assert verify(other.path).broken == ((NAMES[0], reason),)


def test_a_file_that_is_no_shard_is_broken_whatever_its_digest(tmp_path):
    store = filled(tmp_path, range(1))
    (tmp_path / "shard-00001.safetensors").write_bytes(b"no tensors")
    entry = json.loads((tmp_path / "manifest.json").read_text())["shards"][0]
    digest = hashlib.sha256(b"no tensors").hexdigest()
    told = entry | {"file": "shard-00001.safetensors", "sha256": digest, "chain": ""}
    (tmp_path / "shard-00001.json").write_text(json.dumps(told))
    store.seal()
    ((name, reason),) = verify(tmp_path).broken
    assert name == "shard-00001.safetensors"
    assert reason.startswith("it cannot be read: ")


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_flipped_byte_goes_unseen(whole_store, data):
    file = data.draw(st.sampled_from(sorted(whole_store.glob("*.*s*"))))
    raw = file.read_bytes()
    place = data.draw(st.integers(0, len(raw) - 1))
    other = data.draw(st.integers(1, 255))
    try:
        file.write_bytes(raw[:place] + bytes([raw[place] ^ other]) + raw[place + 1 :])
        found = verify(whole_store)
        assert not found.ok
    finally:
        file.write_bytes(raw)
    assert verify(whole_store).ok


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    filled(path, range(3))
    return path
