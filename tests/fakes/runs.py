"""Finished runs to be audited: a tiny student, its teacher, and controls, made in seconds."""

from dataclasses import dataclass
from pathlib import Path

from distill.config import EvaluateConfig, TrainConfig
from distill.run import control_of, run
from tests.fakes.teachers import tiny_config

STEPS = 30
PROMPTS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """Directories: the teacher's model, the student's run, each control's run by name."""

    teacher: Path
    student: Path
    controls: dict[str, Path]


def tiny_runs(directory: Path, seeds: tuple[int, ...] = (1, 2, 3)) -> Runs:
    """Distil a tiny student under `directory` and train a control for each of `seeds`."""
    config = tiny_config(
        directory,
        train=TrainConfig(steps=STEPS, batch_size=4),
        evaluate=EvaluateConfig(
            tokens=256,
            samples=2,
            sample_tokens=8,
            probe_prompts=PROMPTS,
            prompt_tokens=8,
            continuation_tokens=8,
        ),
    )
    student = directory / "student"
    run(config, student, say=quiet, progress=still)
    controls = {f"control-{seed}": directory / f"control-{seed}" for seed in seeds}
    for seed, path in zip(seeds, controls.values(), strict=True):
        run(control_of(student, seed=seed), path, say=quiet, progress=still)
    return Runs(teacher=directory / "teacher", student=student, controls=controls)


def quiet(sentence: str) -> None:
    """Take a sentence and say nothing."""


def still(stage: str, done: int, total: int, note: str) -> None:
    """Take progress and show nothing."""
