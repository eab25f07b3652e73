"""`distill` as a user meets it: exit codes, one sentence for each failure, and exact resume.

Interrupted runs are compared with one that nobody disturbed: same rows, same weights, bit for bit.
"""

import errno
import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from audit import strict_yaml
from audit.attest import tree_digest
from cli import distill_app
from distill import checkpoint
from distill.config import load
from distill.resources import shipped
from distill.store import store
from distill.teachers import embedded
from distill.train import Trainer
from student import weights
from student.catalogue import presets
from tests.fakes.commands import (
    WITHOUT_TORCH,
    call,
    finish,
    modules_after,
    refusal,
    start,
)
from tests.fakes.files import bytes_of
from tests.fakes.runs import STEPS, Runs
from tests.fakes.teachers import tiny_teacher

FULL = OSError(errno.ENOSPC, "No space left on device")


def config_file(runs: Runs, path: Path, **settings: Any) -> Path:
    """Write the finished student's config with `settings` by key path to `path`."""
    config = yaml.safe_load((runs.student / "config.yaml").read_text(encoding="utf-8"))
    for key, value in settings.items():
        section = config
        *parents, last = key.split("__")
        for parent in parents:
            section = section[int(parent) if parent.isdecimal() else parent]
        section[last] = value
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def rows(out: Path) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def assert_as_if_undisturbed(out: Path, runs: Runs) -> None:
    """Fail unless the run in `out` ended as the fixture's uninterrupted one did."""
    assert [row["step"] for row in rows(out)] == list(range(1, STEPS + 1))
    assert [row["loss"] for row in rows(out)] == [row["loss"] for row in rows(runs.student)]
    assert tree_digest(out / "student") == tree_digest(runs.student / "student")
    assert not list(out.rglob("*.partial"))
    assert not list(out.rglob("slot-*"))
    one, other = (json.loads((p / "manifest.json").read_text()) for p in (out, runs.student))
    pinned = [{r["name"]: r["sha256"] for r in m["outputs"]} for m in (one, other)]
    for name in ("student", "checkpoints/step-000000", "heldout.jsonl", "config.yaml"):
        assert pinned[0][name] == pinned[1][name]


# Help, and what needs no run.


def test_help_of_every_verb_imports_no_torch():
    verbs = [[], *([name] for name in distill_app.main.commands)]
    modules = modules_after("distill", [[*verb, "--help"] for verb in verbs])
    assert "cli" in modules
    assert not modules & {"torch", "transformers", "numpy", "sklearn", "scipy", "pydantic"}


def test_every_verb_and_option_explains_itself():
    for name, command in distill_app.main.commands.items():
        result = call("distill", name, "--help")
        assert result.exit_code == 0
        assert command.help
        assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_the_version_is_the_distributions():
    assert call("distill", "--version").stdout.startswith("distill, version 0")


def test_init_prints_the_preset_and_check_accepts_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = call("distill", "init")
    assert result.exit_code == 0
    assert result.stdout == shipped("presets/quickstart.yaml").read_text(encoding="utf-8")
    path = tmp_path / "run.yaml"
    path.write_text(result.stdout, encoding="utf-8")
    checked = call("distill", "check", path, "-s", "train.steps=7")
    assert checked.exit_code == 0
    valid, costs = checked.stderr.splitlines()
    assert valid == f"{path} is valid."
    assert costs.startswith("`distill plan` says") and costs.endswith("its teacher is not here.")
    assert not (tmp_path / "cache").exists()
    assert yaml.safe_load(checked.stdout)["train"]["steps"] == 7


def test_the_examples_of_the_help_stand_a_line_each():
    shown = call("distill", "--help").stdout.splitlines()
    assert any(line.startswith("  distill init > run.yaml  ") for line in shown)
    assert "  distill run run.yaml -s train.steps=500 --out runs/mine" in shown


@pytest.mark.parametrize("name", ["v4-tiny", "mla-0.1b", "flash"])
def test_init_with_a_student_of_the_catalogue_is_a_config_that_check_accepts(tmp_path, name):
    result = call("distill", "init", "--student", name)
    assert result.exit_code == 0
    path = tmp_path / "run.yaml"
    path.write_text(result.stdout, encoding="utf-8")
    checked = call("distill", "check", path)
    assert checked.exit_code == 0
    assert checked.stdout == strict_yaml.dump(load(path))
    assert load(path).student == presets()[name]


def test_init_says_on_stderr_what_no_laptop_trains():
    assert call("distill", "init", "--student", "tiny").stderr == ""
    assert call("distill", "init").stderr == ""
    said = call("distill", "init", "--student", "mla-2b").stderr
    assert said.startswith("note: mla-2b has 24.3 billion parameters; training it takes 376 GiB ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["flsh", "", "list", "v4-tiny.yaml"])
def test_an_unknown_student_is_one_sentence_and_exit_code_2(name):
    said = refusal("distill", "init", "--student", name, code=2)
    assert f"student {name!r} is unknown" in said
    assert "`distill students` lists them" in said


def test_init_takes_no_more_than_it_knows():
    assert "unexpected extra argument" in refusal("distill", "init", "tiny", code=2)
    assert "requires an argument" in refusal("distill", "init", "--student", code=2)


def test_students_lists_the_catalogue_with_sizes():
    result = call("distill", "students")
    assert (result.exit_code, result.stderr) == (0, "")
    names = [line.split()[0] for line in result.stdout.partition("\n\n")[0].splitlines()]
    assert names[0] == "name"
    assert set(names[1:]) == set(presets())


def test_students_as_json_is_one_object():
    result = call("distill", "students", "--json")
    found = json.loads(result.stdout)
    assert found["vocabulary"] == 129_280
    pro = next(row for row in found["students"] if row["name"] == "pro")
    assert pro["family"] == "v4"
    assert pro["parameters"] == pytest.approx(1.6e12, rel=0.03)
    assert pro["active_parameters"] == pytest.approx(49e9, rel=0.03)
    assert pro["cache_bytes_per_token"] == pytest.approx(9_848, rel=0.01)
    assert set(pro) == {
        "name", "family", "parameters", "active_parameters", "prediction_parameters",
        "cache_bytes_per_token", "training_bytes",
    }  # fmt: skip


@pytest.mark.slow
def test_without_torch_configs_are_checked_and_runs_name_the_extra(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("seed: 1\n")
    code, out, err = finish(start("distill", "check", path, before=WITHOUT_TORCH))
    assert (code, yaml.safe_load(out)["seed"]) == (0, 1)
    assert "`distill plan` says what the student costs and keeps; it needs " in err
    code, out, _ = finish(start("distill", "students", before=WITHOUT_TORCH))
    assert (code, out[:4]) == (0, "name")
    code, out, _ = finish(start("distill", "init", "--student", "pro", before=WITHOUT_TORCH))
    assert (code, yaml.safe_load(out)["student"]["index_top_k"]) == (0, 1024)
    code, out, err = finish(start("distill", "run", path, before=WITHOUT_TORCH))
    assert (code, out) == (1, "")
    assert "is not installed; run: pip install 'spiritsafe[distill]'" in err
    assert "Traceback" not in err


# Refusals: one sentence and an exit code.


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"seed: \xff", "is not UTF-8 (byte 6)"),
        (b"seed: 1\ntrain:\n  step: 3\n", "run.yaml:3: unknown key 'step' in train; did you mean"),
        (b"train:\n  steps: many\n", "run.yaml:2: train.steps"),
        (b"train: [1\n", "not valid YAML"),
        (b"seed: 1\nseed: 2\n", "run.yaml:2: key 'seed' is given twice"),
        (b"- seed\n", "a config is a mapping"),
        (b"student: {num_layers: 1, num_dense_layers: 2}\n", "num_dense_layers is 2"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "check"])
def test_a_wrong_config_is_one_sentence_and_exit_code_2(tmp_path, content, said, verb):
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_bytes(content)
    out = ["--out", tmp_path / "out"] if verb == "run" else []
    assert said in refusal("distill", verb, path, *out, code=2)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.txt", None, "none.txt does not exist"),
        ("empty.txt", b"", "empty.txt is empty"),
        ("empty.jsonl", b"\n\n", "empty.jsonl is empty"),
        ("latin.txt", b"caf\xe9", "latin.txt is not UTF-8 (byte 3)"),
        ("bad.jsonl", b'{"text": "a"}\n\n{"text": \n', "bad.jsonl, line 3: not valid JSON"),
        ("bad.jsonl", b'{"text": "a"}\n{"prompt": "b"}\n', "bad.jsonl, line 2: needs an object"),
        ("text.pdf", b"x", "is unknown; use pydoc, prompts"),
        ("one.txt", b"too short to be split", "document"),
    ],
)
def test_unusable_text_is_one_sentence_and_exit_code_2(runs, tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    config = config_file(runs, tmp_path / "run.yaml", text__sources=[str(path)])
    assert said in refusal("distill", "run", config, "--out", tmp_path / "out", code=2)


def test_without_the_teachers_package_the_install_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "PACKAGE", "no_such_package_here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for arguments in (["run", "--out", tmp_path / "out"], ["teacher"]):
        said = refusal("distill", *arguments, code=1)
        assert f"the embedded teacher is not installed; run: {embedded.INSTALL}" in said


@pytest.mark.parametrize(("files", "code"), [([], 2), (["config.json"], 1)])
def test_a_teacher_that_is_not_there_is_one_sentence(runs, tmp_path, files, code):
    teacher = tmp_path / "nobody"
    for name in files:
        teacher.mkdir()
        (teacher / name).write_text("{}")
    config = config_file(runs, tmp_path / "run.yaml", teachers__0__path=str(teacher))
    said = refusal("distill", "run", config, "--out", tmp_path / "out", code=code)
    assert str(teacher) in said


def test_signals_of_another_vocabulary_are_refused(runs, tmp_path):
    other = tiny_teacher(tmp_path / "other", vocab=330)
    shared = str(runs.student / "signals")
    config = config_file(
        runs, tmp_path / "run.yaml", teachers__0__path=str(other), signal__path=shared
    )
    before = bytes_of(runs.student / "signals")
    said = refusal("distill", "run", config, "--out", tmp_path / "out", code=2)
    assert "holds signals over 320 tokens, but this run's vocabulary has 330" in said
    assert bytes_of(runs.student / "signals") == before


def test_signals_of_another_teacher_are_refused(runs, tmp_path):
    other = tiny_teacher(tmp_path / "other", seed=7)
    shared = str(runs.student / "signals")
    config = config_file(
        runs, tmp_path / "run.yaml", teachers__0__path=str(other), signal__path=shared
    )
    said = refusal("distill", "run", config, "--out", tmp_path / "out", code=2)
    assert "signals of a different teacher_sha256" in said


def test_another_config_in_the_same_directory_is_refused(runs):
    before = bytes_of(runs.student)
    arguments = ["run", runs.student / "config.yaml", "-s", "train.steps=31"]
    said = refusal("distill", *arguments, "--out", runs.student, code=2)
    assert "another config (train.steps: 30 there, 31 here)" in said
    assert bytes_of(runs.student) == before


@pytest.mark.parametrize("name", ["student/model.safetensors", "eval.json", "heldout.jsonl"])
def test_a_finished_run_that_was_changed_since_is_refused(runs, tmp_path, name):
    out = shutil.copytree(runs.student, tmp_path / "out")
    (out / name).write_bytes((out / name).read_bytes() + b" ")
    said = refusal("distill", "run", out / "config.yaml", "--out", out, code=2)
    assert f"was finished, but {name.partition('/')[0]} changed since" in said


@pytest.mark.parametrize(
    ("which", "seed", "said"),
    [
        ("nothing", 1, "is not a run directory"),
        ("student", 0, "seed 0 is the student's own"),
        ("control", 5, "is itself a control"),
    ],
)
def test_a_control_of_the_wrong_thing_is_refused(runs, tmp_path, which, seed, said):
    places = {"nothing": tmp_path, "student": runs.student, "control": runs.controls["control-1"]}
    arguments = ["control", places[which], "--seed", seed, "--out", tmp_path / "out"]
    assert said in refusal("distill", *arguments, code=2)


@pytest.mark.parametrize("seed", [-1, 2**53, 1.5])
def test_a_seed_no_student_can_begin_from_is_refused_before_anything_is_read(tmp_path, seed):
    arguments = ["control", tmp_path / "none", "--seed", seed, "--out", tmp_path / "out"]
    assert "Invalid value for '--seed'" in refusal("distill", *arguments, code=2)


def test_the_traceback_is_shown_when_it_is_asked_for(tmp_path):
    code, _, err = finish(start("distill", "check", tmp_path / "none.yaml", "-v"))
    assert code == 1
    assert "Traceback" in err and "InputError" in err


# A finished run.


def test_a_finished_run_is_read_and_not_touched(runs):
    before = bytes_of(runs.student)
    result = call("distill", "run", runs.student / "config.yaml", "--out", runs.student)
    assert result.exit_code == 0
    assert f"{runs.student} is finished already; nothing to do" in result.stderr
    assert f"student: {runs.student / 'student'}" in result.stdout
    assert bytes_of(runs.student) == before


def test_json_is_one_object_and_quiet_is_silent(runs):
    arguments = ["run", runs.student / "config.yaml", "--out", runs.student, "--json", "-q"]
    result = call("distill", *arguments)
    assert result.stderr == ""
    said = json.loads(result.stdout)
    assert (said["reused"], said["out"]) == (True, str(runs.student))
    assert said["after"]["kl"] < said["before"]["kl"]


# Interruptions.


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The steps that were taken, in order."""
    steps: list[int] = []
    real = Trainer._step

    def step(self: Trainer, number: int) -> dict[str, Any]:
        steps.append(number)
        return real(self, number)

    monkeypatch.setattr(Trainer, "_step", step)
    yield steps


def again(runs: Runs, out: Path) -> str:
    """Give the same command again, which must finish; return what it said on stderr."""
    result = call("distill", "run", runs.student / "config.yaml", "--out", out)
    assert result.exit_code == 0, result.output
    return result.stderr


def at_call(number: int, error: BaseException, real: Callable[..., Any]) -> Callable[..., Any]:
    """Return `real`, which raises `error` at its call `number`, from 1, and before it does."""
    calls = 0

    def function(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise error
        return real(*arguments, **named)

    return function


@pytest.mark.slow
@pytest.mark.parametrize("place", ["in a step", "between its row and its checkpoint"])
def test_an_interrupted_training_ends_as_if_undisturbed(runs, tmp_path, monkeypatch, taken, place):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        if place == "in a step":
            patch.setattr(Trainer, "_step", at_call(12, KeyboardInterrupt(), Trainer._step))
        else:
            patch.setattr(Trainer, "state", at_call(12, KeyboardInterrupt(), Trainer.state))
        result = call("distill", "run", runs.student / "config.yaml", "--out", out)
    assert result.exit_code == 130
    assert "interrupted; what was finished is saved" in result.stderr
    assert len(rows(out)) == (11 if place == "in a step" else 12)
    taken.clear()
    assert f"going on after step 11 of {STEPS}" in again(runs, out)
    assert taken == list(range(12, STEPS + 1))
    assert_as_if_undisturbed(out, runs)


def full_capture(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(store, "save_file", at_call(4, FULL, store.save_file))


def full_checkpoint(patch: pytest.MonkeyPatch) -> None:
    real = checkpoint._write_in_place
    patch.setattr(checkpoint, "_write_in_place", at_call(8, FULL, real))


def full_student(patch: pytest.MonkeyPatch) -> None:
    # The first call keeps the start, the second is the student's.
    patch.setattr(weights, "save_file", at_call(2, FULL, weights.save_file))


def full_page(patch: pytest.MonkeyPatch) -> None:
    real = Path.write_bytes

    def write_bytes(self: Path, data: bytes) -> int:
        if self.name.startswith("run.html"):
            raise FULL
        return real(self, data)

    patch.setattr(Path, "write_bytes", write_bytes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fill", "said", "kept", "steps"),
    [
        (full_capture, "tiny/train: No space left on device; what was", "signals/**/shard-*", 30),
        (full_checkpoint, "step 7 is kept", "checkpoints/slot-*", 23),
        (full_student, "cannot write the model to", "signals/**/shard-*", 0),
        (full_page, "run.html: No space left on device; what was finished is kept", "student/*", 0),
    ],
)
def test_a_full_disk_keeps_what_was_finished(
    runs, tmp_path, monkeypatch, taken, fill, said, kept, steps
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        fill(patch)
        result = call("distill", "run", runs.student / "config.yaml", "--out", out)
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ") and said in last
    assert not (out / "manifest.json").exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob(kept)}
    assert before
    taken.clear()
    again(runs, out)
    assert len(taken) == steps
    if "shard" in kept:
        assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert_as_if_undisturbed(out, runs)


# Numbers are as in the undisturbed run; each step only takes long enough to be killed in.
SLOW_STEPS = """
import time
from distill.train import Trainer
real = Trainer._step
Trainer._step = lambda self, step: (time.sleep(0.1), real(self, step))[1]
"""


@pytest.mark.slow
def test_a_training_killed_at_any_moment_goes_on_one_step_back_at_most(runs, tmp_path, taken):
    out = tmp_path / "out"
    arguments = ["run", runs.student / "config.yaml", "--out", out, "-q"]
    process = start("distill", *arguments, before=SLOW_STEPS)
    metrics, deadline = out / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.is_file() and metrics.read_bytes().count(b"\n") >= 10):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    done = metrics.read_bytes().count(b"\n")
    assert done < STEPS
    again(runs, out)
    assert taken[0] in (done, done + 1)
    assert taken == list(range(taken[0], STEPS + 1))
    assert_as_if_undisturbed(out, runs)


KILLED_IN_CAPTURE = """
import os, signal
from distill.store.store import Store
real = Store.put
def put(self, number, *arguments):
    if self.path.name == "train" and number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, number, *arguments)
Store.put = put
"""


@pytest.mark.slow
def test_a_killed_capture_keeps_its_shards_and_ends_with_the_same_signals(runs, tmp_path):
    out = tmp_path / "out"
    arguments = ["run", runs.student / "config.yaml", "--out", out, "-q"]
    assert finish(start("distill", *arguments, before=KILLED_IN_CAPTURE))[0] == -signal.SIGKILL
    place = Path("signals", "tiny", "train")
    shards = {p: b for p, b in bytes_of(out / place).items() if p.endswith(".safetensors")}
    assert len(shards) == 3
    again(runs, out)
    after = bytes_of(out / place)
    assert shards.items() <= after.items()
    names = sorted(Path(path).name for path in after)
    for name in names:
        if name.startswith("shard"):
            one, other = (p / place / name for p in (out, runs.student))
            assert one.read_bytes() == other.read_bytes()
    assert_as_if_undisturbed(out, runs)


@pytest.mark.slow
def test_a_control_trains_without_the_teachers_signal(runs, tmp_path):
    out = tmp_path / "out"
    result = call("distill", "control", runs.student, "--seed", 1, "--out", out, "--json", "-q")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["reused"] is False
    assert not any("forward_kl" in row["terms"] for row in rows(out))
    assert not (out / "signals").exists()
    assert tree_digest(out / "student") == tree_digest(runs.controls["control-1"] / "student")
