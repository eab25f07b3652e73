"""A control is its student's run but for the teacher's signal and the seed."""

from dataclasses import replace
from pathlib import Path

import pytest

from audit import strict_yaml
from distill.config import (
    AnswersConfig,
    EvaluateConfig,
    OptimizerConfig,
    RunConfig,
    SignalConfig,
    TrainConfig,
)
from distill.errors import MismatchError
from distill.loss.objective import (
    CrossEntropy,
    Divergence,
    Prediction,
    Router,
)
from distill.run import control_of
from student.catalogue import presets

# Nothing here is what it would be by default.
STUDENT = RunConfig(
    seed=3,
    device="cpu",
    dtype="float32",
    student=presets()["v4-tiny"],
    signal=SignalConfig(head=5, tail=2),
    loss=(
        Divergence(kind="forward_kl", weight=0.4),
        Divergence(kind="jsd", weight=0.2, mix=0.5),
        CrossEntropy(weight=0.3),
        Router(kind="balance", weight=3e-4),
        Router(kind="indexer", weight=0.5),
        Prediction(weight=0.4, late=0.2, late_from=0.6),
    ),
    optimizer=OptimizerConfig(name="muon", learning_rate=1e-2),
    train=TrainConfig(steps=7, batch_size=4, dense_steps=2, routing_delay=2),
    evaluate=EvaluateConfig(samples=2),
)


def finished(config: RunConfig, path: Path) -> Path:
    path.mkdir()
    (path / "config.yaml").write_text(strict_yaml.dump(config), encoding="utf-8")
    return path


def test_a_control_differs_from_its_student_in_seed_teacher_and_place_of_signals_alone(tmp_path):
    made = control_of(finished(STUDENT, tmp_path / "run"), seed=4)
    assert (made.seed, made.uses_teacher) == (4, False)
    assert made.loss[0].kind == "cross_entropy"
    assert made.loss[0].weight == pytest.approx(0.9)
    assert made.loss[1:] == STUDENT.loss[3:]
    assert made.signal.path == str(tmp_path / "run" / "signals")
    signal = replace(made.signal, path=None)
    assert replace(made, seed=3, loss=STUDENT.loss, signal=signal) == STUDENT


def test_a_control_reads_the_signals_its_student_read(tmp_path):
    elsewhere = replace(STUDENT, signal=SignalConfig(path="signals/of/both"))
    made = control_of(finished(elsewhere, tmp_path / "run"), seed=4)
    assert made.signal == elsewhere.signal


def test_a_control_reads_nothing_that_a_teacher_on_disk_wrote(tmp_path):
    (teacher,) = STUDENT.teachers
    writing = replace(teacher, answers=AnswersConfig(prompts="prompts"))
    made = control_of(finished(replace(STUDENT, teachers=(writing,)), tmp_path / "run"), seed=4)
    assert made.teachers == STUDENT.teachers
    assert not made.is_taught


def test_a_control_of_a_control_or_with_its_students_seed_is_refused(tmp_path):
    run = finished(STUDENT, tmp_path / "run")
    with pytest.raises(MismatchError, match="seed 3 is the student's own"):
        control_of(run, seed=3)
    control = finished(control_of(run, seed=4), tmp_path / "control")
    with pytest.raises(MismatchError, match="is itself a control"):
        control_of(control, seed=5)
