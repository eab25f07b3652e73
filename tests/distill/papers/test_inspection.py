"""What a run or a store is said to be is held against every byte of it."""

import shutil
from dataclasses import replace

import pytest

from distill.errors import InputError
from distill.papers.inspection import inspect
from distill.rollout.config import RolloutConfig
from tests.fakes import stores
from tests.fakes.sessions import bytes_of, carried_out, small_config

WRITES = RolloutConfig(fraction=0.5, max_new_tokens=4, prompt_tokens=4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with signals and answers of its own."""
    place = tmp_path_factory.mktemp("inspection")
    config = small_config(place, rollout=WRITES)
    config = replace(config, train=replace(config.train, steps=2))
    return carried_out(config, place / "run").out


@pytest.fixture
def out(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def wrong(path):
    """Return what is not as it should be, by name."""
    return {row["what"]: row["seen"] for row in inspect(path).rows if not row["ok"]}


def spoil(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_an_untouched_run_is_intact_and_looking_changes_nothing(out):
    before = bytes_of(out)
    found = inspect(out)
    assert found.ok and wrong(out) == {}
    looked_at = [row["what"] for row in found.rows]
    for name in ("config.yaml", "metrics.jsonl", "eval.json", "heldout.jsonl", "student"):
        assert name in looked_at
    assert {"training signals, tiny", "held-out signals, tiny"} <= set(looked_at)
    for place in ("signals/tiny/train", "signals/tiny/heldout", "rollouts/part-00000"):
        assert str(out / place) in looked_at
    assert bytes_of(out) == before


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("config.yaml", "config.yaml"),
        ("metrics.jsonl", "metrics.jsonl"),
        ("student/model.safetensors", "student"),
        ("checkpoints/step-000000/config.json", "checkpoints/step-000000"),
    ],
)
def test_a_changed_output_is_found_and_so_is_one_that_is_gone(out, name, what):
    spoil(out / name)
    assert wrong(out) == {what: "is gone or was changed"}
    (out / name).unlink()
    assert wrong(out) == {what: "is gone or was changed"}
    assert not inspect(out).ok


@pytest.mark.parametrize(
    "place", ["signals/tiny/train", "signals/tiny/heldout", "rollouts/part-00000"]
)
def test_a_changed_shard_is_found_and_so_is_one_that_is_gone(out, place):
    shard = out / place / "shard-00000.safetensors"
    spoil(shard)
    assert wrong(out) == {str(shard): "its bytes were changed"}
    shard.unlink()
    assert wrong(out) == {str(shard): "is gone"}


def test_signals_in_another_stores_place_are_found_though_they_are_whole(out, tmp_path):
    train = out / "signals/tiny/train"
    shutil.rmtree(train)
    stores.filled(train, range(2))
    assert wrong(out) == {
        "training signals, tiny": "are gone, or not those that the run read",
    }
    shutil.rmtree(train)
    assert list(wrong(out)) == ["training signals, tiny"]


def test_a_damaged_manifest_of_a_store_is_said_of_the_store(out):
    (out / "signals/tiny/train/manifest.json").write_text("{")
    assert set(wrong(out)) == {str(out / "signals/tiny/train"), "training signals, tiny"}


def test_signals_that_lie_elsewhere_are_not_looked_for(out, tmp_path):
    shutil.move(out / "signals", tmp_path / "elsewhere")
    assert inspect(out).ok
    # But where they are, they can be looked at, all at once or one by one.
    (one, *_) = [row["what"] for row in inspect(tmp_path / "elsewhere").rows]
    assert one == str(tmp_path / "elsewhere/tiny/heldout")
    assert inspect(tmp_path / "elsewhere").ok and len(inspect(tmp_path / "elsewhere").rows) == 2
    spoil(tmp_path / "elsewhere/tiny/train/shard-00000.safetensors")
    assert not inspect(tmp_path / "elsewhere").ok
    assert not inspect(tmp_path / "elsewhere/tiny/train").ok
    assert inspect(tmp_path / "elsewhere/tiny/heldout").ok


@pytest.mark.parametrize("mode", stores.MODES)
def test_a_store_of_any_mode_is_looked_at(tmp_path, mode):
    stores.filled(tmp_path / "store", range(3), mode)
    (row,) = inspect(tmp_path / "store").rows
    said = f"3 shards, {3 * stores.POSITIONS} tokens"
    assert row == {"what": str(tmp_path / "store"), "ok": True, "seen": said}


def test_where_there_is_nothing_that_is_one_sentence(tmp_path):
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(InputError, match=r"has no manifest\.json; name a finished run, a st"):
            inspect(path)
