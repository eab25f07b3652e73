"""`distill capture` and `distill verify` as a user meets them, and the teachers `run` refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from audit import strict_yaml
from distill.config import RunConfig
from distill.errors import MismatchError
from distill.loss.objective import CrossEntropy
from distill.rollout.config import RejectionConfig, Same
from distill.run import capture
from distill.store.store import Store
from tests.fakes.commands import call, finish, refusal, start
from tests.fakes.dialects import Behaviour
from tests.fakes.endpoints import Server, TinyModel, speaking_teacher
from tests.fakes.files import bytes_of
from tests.fakes.keys import pair
from tests.fakes.runs import quiet, still
from tests.fakes.sessions import (
    TERMS,
    answers,
    carried_out,
    metrics,
    prompts_file,
    served_teacher,
    small_config,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("verbs")
    speaking_teacher(made / "teacher", steps=60)
    prompts_file(made / "prompts.jsonl")
    return made


@pytest.fixture(scope="module")
def model(place):
    return TinyModel(place / "teacher")


def small(place: Path, **changes) -> RunConfig:
    made = small_config(place, **changes)
    signal = replace(made.signal, shard_tokens=256)
    text = replace(made.text, tokenizer=str(place / "teacher"))
    return replace(made, signal=signal, text=text, train=replace(made.train, steps=2))


def written(config: RunConfig, path: Path) -> Path:
    path.write_text(strict_yaml.dump(config), encoding="utf-8")
    return path


@pytest.fixture
def config(place, tmp_path) -> Path:
    return written(small(place), tmp_path / "run.yaml")


def shards(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.glob("shard-*.safetensors")}


# Capture.


def test_capture_keeps_the_signals_and_says_where(config, tmp_path):
    out = tmp_path / "signals"
    result = call("distill", "capture", config, "--out", out)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        str(out / "tiny" / "train"),
        str(out / "tiny" / "heldout"),
    ]
    assert not (out / "metrics.jsonl").exists() and not (out / "student").exists()
    again = call("distill", "capture", config, "--out", out, "--json", "-q")
    for row in json.loads(again.stdout)["stores"]:
        store = Store.open(Path(row["path"]))
        assert (row["mode"], row["tokens"]) == (store.key.mode, store.tokens)
        assert (row["bytes"], row["sha256"]) == (store.size_bytes(), store.sha256())


def test_a_run_takes_what_was_captured(config, tmp_path):
    out = tmp_path / "signals"
    call("distill", "capture", config, "--out", out)
    before = shards(out / "tiny" / "train")
    arguments = ["run", config, "--out", tmp_path / "run", "-s", f"signal.path={out}"]
    result = call("distill", *arguments)
    assert result.exit_code == 0, result.output
    assert "of them there already" in result.stderr
    assert shards(out / "tiny" / "train") == before
    assert not (tmp_path / "run" / "signals").exists()


def test_each_worker_makes_its_share_and_together_they_make_all(config, tmp_path, monkeypatch):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    call("distill", "capture", config, "--out", alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, made in (("1", {1, 3, 5}), ("0", {0, 1, 2, 3, 4, 5})):
        monkeypatch.setenv("RANK", rank)
        assert call("distill", "capture", config, "--out", shared).exit_code == 0
        names = {f"shard-{number:05d}.safetensors" for number in made}
        assert names <= set(shards(shared / "tiny" / "train"))
        assert rank == "0" or f"shard-{0:05d}.safetensors" not in shards(shared / "tiny" / "train")
    assert shards(shared / "tiny" / "train") == shards(alone / "tiny" / "train")
    one, other = (Store.open(path / "tiny" / "train").sha256() for path in (alone, shared))
    assert one == other


@pytest.mark.slow
def test_workers_at_the_same_time_end_with_one_workers_bytes(config, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    call("distill", "capture", config, "--out", alone)
    started = [
        start(
            "distill",
            *["capture", config, "--out", shared, "-q"],
            before=f"import os\nos.environ.update(RANK='{rank}', WORLD_SIZE='2')",
        )
        for rank in range(2)
    ]
    for process in started:
        assert finish(process)[::2] == (0, "")
    for side in ("train", "heldout"):
        assert shards(shared / "tiny" / side) == shards(alone / "tiny" / side)
    assert call("distill", "verify", shared).exit_code == 0


@pytest.mark.parametrize(("rank", "of"), [("2", "2"), ("one", "2"), ("-1", "2")])
def test_a_rank_that_names_no_worker_is_refused(config, tmp_path, monkeypatch, rank, of):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", of)
    said = refusal("distill", "capture", config, "--out", tmp_path / "signals", code=2)
    assert "RANK is" in said and "set both as torchrun does" in said
    assert not (tmp_path / "signals").exists()


def test_a_run_is_alone_whatever_the_environment_says(place, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert len(metrics(carried_out(small(place), tmp_path / "run").out)) == 2


def test_capture_without_a_place_is_refused(place):
    with pytest.raises(MismatchError, match=r"signal\.path is not set"):
        capture(small(place), say=quiet, progress=still)


# Verify.


@pytest.fixture(scope="module")
def finished(place) -> Path:
    return carried_out(small(place), place / "finished").out


def test_an_intact_run_exits_0(finished):
    result = call("distill", "verify", finished)
    assert result.exit_code == 0
    *rows, last = result.stdout.splitlines()
    assert all(row.startswith("ok       ") for row in rows if "statement.sig.json" not in row)
    assert "training signals, tiny" in result.stdout
    assert last.startswith("intact: ") and last.endswith("; statement.sig.json unsigned")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("student/model.safetensors", "student: is gone or was changed"),
        ("signals/tiny/train/shard-00002.safetensors", "its bytes were changed"),
        ("run.html", "run.html: is not what the records give"),
    ],
)
def test_a_changed_byte_exits_1_and_is_named(finished, tmp_path, name, said):
    out = shutil.copytree(finished, tmp_path / "run")
    data = bytearray((out / name).read_bytes())
    data[len(data) // 2] ^= 1
    (out / name).write_bytes(data)
    result = call("distill", "verify", out)
    assert result.exit_code == 1
    lines = [line for line in result.stdout.splitlines() if line.startswith("CHANGED  ")]
    assert lines[0].startswith(f"CHANGED  {name}: was changed: its sha256 is ")
    assert any(said in line for line in lines)
    told = call("distill", "verify", out, "--json")
    assert told.exit_code == 1
    found = json.loads(told.stdout)
    assert found["ok"] is False
    assert name in [row["what"] for row in found["checks"] if row["ok"] is False]


def test_signals_that_were_deleted_are_absent_and_that_is_no_failure(finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(out / "signals")
    result = call("distill", "verify", out)
    assert result.exit_code == 0
    absent = [line for line in result.stdout.splitlines() if line.startswith("-        ")]
    inputs = "training signals, tiny: not there", "held-out signals, tiny: not there"
    assert all(any(said in line for line in absent) for said in inputs)
    found = json.loads(call("distill", "verify", out, "--json").stdout)
    assert found["ok"] is True
    assert [row["ok"] for row in found["checks"]].count(None) == len(absent)


def test_captured_signals_are_looked_at_as_the_help_says(config, tmp_path):
    out = tmp_path / "signals"
    call("distill", "capture", config, "--out", out)
    result = call("distill", "verify", out)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "intact: 2"
    (out / "tiny" / "train" / "shard-00000.safetensors").unlink()
    result = call("distill", "verify", out)
    assert result.exit_code == 1 and "shard-00000.safetensors: is gone" in result.stdout


def test_a_run_is_signed_and_verified_with_keys(finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "run")
    call("audit", "keygen", tmp_path / "me.pem")
    mine, yours = tmp_path / "me.pem", tmp_path / "me.pub.pem"
    weights, public = pair(tmp_path)
    alone = call("distill", "sign", out, "--key", mine)
    assert alone.exit_code == 0 and "signed with the statement alone" in alone.stdout
    result = call("distill", "sign", out, "--key", mine, "--weights-key", weights)
    assert result.exit_code == 0 and "student.sig.json: signed by" in result.stdout
    keys = "--key", yours, "--weights-key", public
    result = call("distill", "verify", out, *keys)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("intact: ")
    assert "unsigned" not in result.stdout and "not checked" not in result.stdout
    (out / "heldout.jsonl").write_text("{}\n")
    assert call("distill", "verify", out, *keys).exit_code == 1
    said = refusal("distill", "sign", out, "--key", mine, code=2)
    assert "heldout.jsonl was changed" in said and "sign what is intact" in said


def test_the_page_of_a_run_is_drawn_again_byte_for_byte(finished, tmp_path):
    page = (finished / "run.html").read_bytes()
    assert call("distill", "report", finished, "--out", tmp_path / "page.html").exit_code == 0
    assert (tmp_path / "page.html").read_bytes() == page
    assert call("distill", "report", finished, "--out", "-").stdout.encode() == page
    out = shutil.copytree(finished, tmp_path / "run")
    (out / "run.html").unlink()
    assert call("distill", "report", out).exit_code == 0
    assert bytes_of(out)[str(out / "run.html")][0] == page
    assert call("distill", "verify", out).exit_code == 0
    said = refusal("distill", "report", tmp_path, code=2)
    assert "is no finished run: it has no manifest.json" in said


def test_where_there_is_nothing_to_look_at_that_is_said(tmp_path):
    said = refusal("distill", "verify", tmp_path, code=2)
    assert "name a finished run, a store, or a directory of stores" in said


# Teachers that may not, or cannot, teach.


@pytest.mark.parametrize("verb", ["run", "capture"])
@pytest.mark.parametrize("terms", [None, replace(TERMS, permits_training=False)])
def test_terms_that_are_missing_or_no_exit_2_and_nothing_is_asked(
    place, model, tmp_path, verb, terms
):
    with Server(model) as server:
        how = answers(place / "prompts.jsonl")
        far = served_teacher(server, api="chat", answers=how, owned=False, terms=terms)
        for loss in (small(place).loss, (CrossEntropy(),)):
            made = small(place, teachers=(small(place).teachers[0], far), loss=loss)
            arguments = [verb, written(made, tmp_path / "run.yaml"), "--out", tmp_path / "out"]
            assert "teacher 'far'" in refusal("distill", *arguments, code=2)
        assert server.posts == 0
    assert not (tmp_path / "out" / "signals").exists()
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_a_server_without_likely_tokens_is_one_sentence_and_nothing_is_written(
    place, model, tmp_path
):
    with Server(model, "transformers") as server:
        how = answers(place / "prompts.jsonl")
        far = served_teacher(server, api="chat", says="top_logprobs", answers=how)
        config = written(small(place, teachers=(far,)), tmp_path / "run.yaml")
        said = refusal("distill", "run", config, "--out", tmp_path / "out", code=1)
        assert "cannot be used for top_logprobs" in said and "left out without a word" in said
        prompts = {str(body.get("messages", body.get("prompt"))) for body in server.bodies}
    asked = json.loads((place / "prompts.jsonl").read_text().splitlines()[0])["prompt"]
    assert not any(asked in prompt for prompt in prompts)
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_a_server_that_shifts_its_scores_is_one_sentence(place, model, tmp_path):
    with Server(model, behaviour=(Behaviour.SHIFTED,)) as server:
        far = served_teacher(server, says="prompt_logprobs", agrees_with=str(place / "teacher"))
        config = written(small(place, teachers=(far,)), tmp_path / "run.yaml")
        said = refusal("distill", "run", config, "--out", tmp_path / "out", code=1)
    assert "another position, temperature or model" in said


def test_no_accepted_answer_is_one_sentence(place, tmp_path):
    prompts = prompts_file(tmp_path / "hard.jsonl", 2, answer="what nobody says")
    how = answers(prompts, select=RejectionConfig(checkers=(Same(kind="exact"),)))
    teacher = replace(small(place).teachers[0], answers=how)
    config = written(small(place, teachers=(teacher,)), tmp_path / "run.yaml")
    said = refusal("distill", "run", config, "--out", tmp_path / "out", code=2)
    assert "none of the 2 answers of 'tiny' was accepted; look at" in said


def test_a_budget_that_is_spent_exits_4_and_keeps_what_was_answered(place, model, tmp_path):
    with Server(model) as server:
        far = served_teacher(server, says="prompt_logprobs")
        asked = replace(far.endpoint, max_requests=40)
        made = small(place, teachers=(replace(far, endpoint=asked),))
        config = written(made, tmp_path / "run.yaml")
        said = refusal("distill", "run", config, "--out", tmp_path / "out", code=4)
        assert "max_requests: 40" in said
    log = tmp_path / "out" / "signals" / "far" / "responses.jsonl"
    assert len(log.read_text().splitlines()) == 40
    before = bytes_of(log.parent)
    assert "max_requests: 40" in refusal(
        "distill", "run", config, "--out", tmp_path / "out", code=4
    )
    assert {name: kept[0] for name, kept in bytes_of(log.parent).items()} == {
        name: kept[0] for name, kept in before.items()
    }


def test_plan_says_how_large_a_student_is_before_anything_runs(config):
    done = call("distill", "plan", config)
    assert done.exit_code == 0, done.output
    student, cache, training = done.stdout.splitlines()
    assert student.startswith("student: ") and "at work on a token" in student
    assert cache.startswith("cache: ") and "B a token" in cache
    assert training.startswith("training: ") and "FLOP of the student" in training
    found = json.loads(call("distill", "plan", config, "--json").stdout)
    assert f"{found['tokens']:,} tokens" in training


def test_check_says_of_a_student_what_plan_says(config):
    checked = call("distill", "check", config)
    assert checked.exit_code == 0, checked.output
    valid, *costs = checked.stderr.splitlines()
    assert valid == f"{config} is valid."
    assert costs == call("distill", "plan", config).stdout.splitlines()


def test_check_refuses_a_student_that_cannot_inherit_from_its_teacher(config):
    student = '{"init": "teacher", "max_position_embeddings": 999}'
    asked = ["-s", f"student={student}", "-s", "text.tokenizer=teacher"]
    said = refusal("distill", "check", config, *asked, code=2)
    assert "max_position_embeddings is 999, more than the teacher's" in said


def test_plan_names_what_is_wrong_with_a_config(config):
    said = refusal("distill", "plan", config, "-s", "student.hidden_sise=3", code=2)
    assert "hidden_size" in said
