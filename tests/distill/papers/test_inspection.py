"""What a run or a store is said to be is held against every byte of it."""

import json
import shutil
from dataclasses import replace

import pytest

from audit.question import EndpointConfig
from distill.config import TrainConfig
from distill.errors import InputError
from distill.papers.inspection import inspect
from distill.rollout.config import RolloutConfig
from distill.rollout.writings import Writings
from tests.fakes import stores
from tests.fakes.endpoints import TINY, Server, TinyModel, speaking_teacher
from tests.fakes.sessions import (
    answers,
    bytes_of,
    carried_out,
    prompts_file,
    served_teacher,
    small_config,
)

WRITES = RolloutConfig(fraction=0.5, max_new_tokens=4, prompt_tokens=4)
AWAY = "not there: it lies elsewhere or was deleted"
OTHER = "are gone, or not those that the run read"


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
    return {row["what"]: row["seen"] for row in inspect(path).rows if row["ok"] is False}


def absent(path):
    """Return what is not there, by name."""
    return {row["what"]: row["seen"] for row in inspect(path).rows if row["ok"] is None}


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
    assert {"training signals, tiny", "held-out signals, tiny", "rollouts"} <= set(looked_at)
    assert all(row["ok"] for row in found.rows)
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
        "training signals, tiny": OTHER,
    }
    shutil.rmtree(train)
    assert wrong(out) == {} and absent(out) == {"training signals, tiny": AWAY}


def test_a_damaged_manifest_of_a_store_is_said_of_the_store(out):
    (out / "signals/tiny/train/manifest.json").write_text("{")
    assert set(wrong(out)) == {str(out / "signals/tiny/train"), "training signals, tiny"}


def test_signals_that_lie_elsewhere_are_not_looked_for(out, tmp_path):
    shutil.move(out / "signals", tmp_path / "elsewhere")
    assert inspect(out).ok and absent(out) == {
        "training signals, tiny": AWAY,
        "held-out signals, tiny": AWAY,
    }
    # But where they are, they can be looked at, all at once or one by one.
    (one, *_) = [row["what"] for row in inspect(tmp_path / "elsewhere").rows]
    assert one == str(tmp_path / "elsewhere/tiny/heldout")
    assert inspect(tmp_path / "elsewhere").ok and len(inspect(tmp_path / "elsewhere").rows) == 2
    spoil(tmp_path / "elsewhere/tiny/train/shard-00000.safetensors")
    assert not inspect(tmp_path / "elsewhere").ok
    assert not inspect(tmp_path / "elsewhere/tiny/train").ok
    assert inspect(tmp_path / "elsewhere/tiny/heldout").ok


# What was written on the way.


def test_answers_of_the_students_that_were_swapped_are_found_though_they_are_whole(out, tmp_path):
    part = out / "rollouts" / "part-00000"
    found = Writings.open(out / "rollouts")
    other = Writings(tmp_path / "other", found.key)
    for number in reversed(range(len(found))):
        other.add(found.read(number), seconds=1.0)
    shutil.rmtree(part)
    shutil.copytree(tmp_path / "other" / "part-00000", part)
    assert wrong(out) == {"rollouts": OTHER}
    (part / "manifest.json").write_text("{")
    assert wrong(out).keys() == {"rollouts", str(part)}
    shutil.rmtree(out / "rollouts")
    assert inspect(out).ok and absent(out) == {"rollouts": AWAY}


@pytest.fixture(scope="module")
def taught_by_servers(tmp_path_factory):
    """A finished run with teachers that write, on disk and served, and a server on the way."""
    place = tmp_path_factory.mktemp("served")
    speaking_teacher(place / "teacher", steps=60)
    how = answers(prompts_file(place / "prompts.jsonl"))
    with Server(TinyModel(place / "teacher")) as server:
        near = replace(small_config(place).teachers[0], answers=how)
        far = served_teacher(server, api="chat", answers=replace(how, max_new_tokens=5))
        scored = served_teacher(server, api="chat", says="top_logprobs", top=5, answers=how)
        asked = EndpointConfig(url=server.url, model=TINY, api="completions")
        text = replace(
            small_config(place).text, sequence_length=64, tokenizer=str(place / "teacher")
        )
        config = small_config(
            place,
            teachers=(near, far, replace(scored, name="scored")),
            text=text,
            rollout=replace(WRITES, endpoint=asked, owned=True),
            train=TrainConfig(steps=2, batch_size=4),
        )
        return carried_out(config, place / "run").out


@pytest.fixture
def served(taught_by_servers, tmp_path):
    return shutil.copytree(taught_by_servers, tmp_path / "run")


OF_FAR = {"far"}
OF_SCORED = {"scored", "answers, scored"}


def test_logs_and_answers_are_looked_at(served):
    rows = {row["what"]: row["ok"] for row in inspect(served).rows}
    known = {"far", "scored", "answers, tiny", "answers, far", "answers, scored", "rollouts"}
    assert known <= set(rows) and all(rows.values())
    (asked,) = [name for name in rows if name.startswith(f"{TINY} at http://127.0.0.1:")]
    spoil_line(served / "rollouts" / "served" / "responses.jsonl")
    assert wrong(served) == {asked: OTHER}


def spoil_line(path):
    """Change a byte in the midst of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("far/responses.jsonl", OF_FAR),
        ("scored/responses.jsonl", OF_SCORED),
        ("far/answers/accepted.jsonl", {"answers, far"}),
        ("tiny/answers/accepted.jsonl", {"answers, tiny"}),
    ],
)
def test_a_changed_byte_of_what_a_teacher_answered_is_found(served, file, named):
    spoil_line(served / "signals" / file)
    assert wrong(served) == dict.fromkeys(named, OTHER)
    (served / "signals" / file).unlink()
    assert inspect(served).ok and absent(served) == dict.fromkeys(named, AWAY)


def test_of_two_stores_that_were_alike_one_is_missed(out):
    manifest = json.loads((out / "manifest.json").read_text())
    row = next(row for row in manifest["inputs"] if row["kind"] == "teacher signals")
    manifest["inputs"].append(row | {"name": "training signals, twin"})
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert absent(out) == {"training signals, twin": AWAY}
    shutil.copytree(out / "signals" / "tiny" / "train", out / "signals" / "twin" / "train")
    assert absent(out) == wrong(out) == {}


def test_a_log_that_was_added_to_still_begins_with_what_the_run_was_told(served):
    log = served / "signals" / "far" / "responses.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines, lines[0]]))
    assert inspect(served).ok and absent(served) == {}
    log.write_bytes(b"".join(lines[:-1]))
    assert wrong(served) == dict.fromkeys(OF_FAR, OTHER)


def test_signals_that_were_deleted_are_not_there(served):
    shutil.rmtree(served / "signals")
    assert inspect(served).ok
    names = {"training signals, tiny", "held-out signals, tiny", "training signals, scored"}
    writers = {f"answers, {name}" for name in ("tiny", "far", "scored")}
    assert absent(served) == dict.fromkeys(names | writers | {"far", "scored"}, AWAY)


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
