"""A batch of text and of the student's own answers is one batch, and a run of them is exact."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill.batches import Batch, Part
from distill.config import OptimizerConfig, RunConfig, TeacherConfig, TextConfig, TrainConfig
from distill.loss.objective import Divergence, SampledReverseKL
from distill.rollout.config import RolloutConfig
from distill.rollout.on_policy import OnPolicy, joined
from distill.rollout.rollouts import Prompt, Rollouts, StudentWriter, key
from distill.rollout.scoring import Council, route
from distill.rollout.writings import Writings
from distill.teachers.local import LocalTeacher
from distill.train import Trainer
from student.model import Student
from student.vocabulary import Vocabulary
from tests.fakes.lessons import random_signal, random_windows, reading
from tests.fakes.students import MLA
from tests.fakes.teachers import tiny_teacher

CPU = torch.device("cpu")
VOCAB, LENGTH = 320, 16
WINDOWS = random_windows(6, LENGTH, VOCAB)
PROMPTS = [Prompt(tokens=(0, 10 + n, 30 + n), tag="ab"[n % 2]) for n in range(10)]
CONFIG = RunConfig(
    device="cpu",
    dtype="float32",
    text=TextConfig(sequence_length=LENGTH),
    student=replace(MLA, num_mtp_layers=0),
    rollout=RolloutConfig(fraction=0.5, max_new_tokens=6, refresh_steps=2),
    loss=(Divergence(kind="forward_kl", on="text"), Divergence(kind="reverse_kl", on="own")),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=0),
    train=TrainConfig(steps=6, batch_size=4),
)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> list[LocalTeacher]:
    made = []
    for seed, name in enumerate("ab"):
        path = tiny_teacher(tmp_path_factory.mktemp(name), seed=seed)
        made.append(LocalTeacher(name, path, device=CPU, dtype=torch.float32))
    return made


def course(
    student: Student, teachers: list[LocalTeacher], path: Path, config: RunConfig = CONFIG
) -> OnPolicy:
    own = config.rollout.rows(config.train.batch_size)
    configs = [TeacherConfig(name=n, path="here", owned=True, tags=(n,)) for n in "ab"]
    council = Council(
        teachers,
        route("ab", configs),
        vocab_size=VOCAB,
        estimator=config.rollout.estimator,
        device=CPU,
    )
    rollouts = Rollouts(
        PROMPTS,
        config.rollout,
        StudentWriter(student, config.rollout),
        Writings(path, key(PROMPTS, "run", VOCAB)),
        size=own,
        seed=config.seed,
    )
    text = reading(WINDOWS, random_signal(WINDOWS, VOCAB), config)
    return OnPolicy(rollouts, council, text, rows=config.train.batch_size - own)


def trainer(teachers: list[LocalTeacher], path: Path, config: RunConfig = CONFIG) -> Trainer:
    vocabulary = Vocabulary(size=VOCAB, bos=0, eos=1, pad=2)
    student = Student.build(config.student, vocabulary, seed=config.seed)
    return Trainer(student, config, course(student, teachers, path, config))


def test_text_comes_first_and_the_students_answers_follow(teachers, tmp_path):
    made = trainer(teachers, tmp_path).course
    assert isinstance(made, OnPolicy) and made.reading is not None
    batch, text = made.batch(1), made.reading.batch(1, 2)
    own = made.rollouts.at(1).text.split()
    first = len(text.token_N)
    assert batch.token_N.tolist() == [*text.token_N.tolist(), *torch.cat([r[:-1] for r in own])]
    assert batch.label_N.tolist() == [*text.label_N.tolist(), *torch.cat([r[1:] for r in own])]
    assert batch.lengths == (LENGTH, LENGTH, *(len(row) - 1 for row in own))
    assert [part.own for part in batch.parts] == [False] + [True] * (len(batch.parts) - 1)
    assert batch.parts[0].at_M.tolist() == text.parts[0].at_M.tolist()
    counted = made.rollouts.at(1).text.counted_N.nonzero().flatten() + first
    there = torch.cat([part.at_M for part in batch.parts[1:]]).sort().values
    assert there.tolist() == counted.tolist()


def test_alone_the_students_answers_are_the_whole_batch(teachers, tmp_path):
    config = replace(CONFIG, rollout=replace(CONFIG.rollout, fraction=1.0))
    batch = trainer(teachers, tmp_path, config).course.batch(1)
    assert len(batch.lengths) == 4
    assert all(part.own for part in batch.parts)


def test_before_the_first_step_of_its_own_all_rows_are_text(teachers, tmp_path):
    config = replace(CONFIG, rollout=replace(CONFIG.rollout, fraction=1.0, first_step=3))
    made = trainer(teachers, tmp_path, config).course
    assert isinstance(made, OnPolicy) and made.reading is not None
    for step in (1, 2):
        batch, text = made.batch(step), made.reading.batch(step)
        assert batch.token_N.tolist() == text.token_N.tolist()
        assert batch.lengths == (LENGTH,) * 4
        assert batch.facts == {"own_rows": 0.0, "own_tokens": 0.0}
    first, second, third = made.batch(3), made.batch(4), made.batch(5)
    assert all(part.own for part in first.parts)
    assert [b.facts["staleness"] for b in (first, second, third)] == [0.0, 1.0, 0.0]


def test_a_batch_tells_what_it_cost_and_how_old_its_answers_are(teachers, tmp_path):
    made = trainer(teachers, tmp_path).course
    first, second = made.batch(1), made.batch(2)
    assert first.spent["generation"] > 0 == second.spent["generation"]
    assert first.spent["teacher"] > 0
    own = sum(len(part.at_M) for part in first.parts if part.own)
    assert first.facts == {"own_rows": 2.0, "own_tokens": float(own), "staleness": 0.0}
    assert second.facts["staleness"] == 1.0


def test_joining_moves_every_part_along():
    def batch(length: int, *places: int) -> Batch:
        stream = torch.arange(length)
        part = Part(at_M=torch.tensor(places))
        return Batch(
            token_N=stream,
            lengths=(length,),
            label_N=stream + 1,
            parts=(part,),
            spent={"teacher": 1.0},
            facts={"rows": float(length)},
        )

    whole = joined([batch(3, 0, 2), batch(4, 1), batch(2, 0)])
    assert [part.at_M.tolist() for part in whole.parts] == [[0, 2], [4], [7]]
    assert whole.lengths == (3, 4, 2)
    assert whole.spent == {"teacher": 3.0}
    assert whole.facts == {"rows": 2.0}


def rows(made: Trainer, first: int, last: int) -> list[float]:
    """Take the steps from `first` to `last`; return their losses."""
    found = []
    for row in made.steps(first):
        found.append(row["loss"])
        if row["step"] == last:
            break
    return found


@pytest.mark.parametrize("estimator", ["full", "sampled"])
def test_a_run_cut_in_the_midst_of_a_writing_takes_the_same_steps(teachers, tmp_path, estimator):
    config = replace(CONFIG, rollout=replace(CONFIG.rollout, estimator=estimator))
    if estimator == "sampled":
        config = replace(
            config, loss=(Divergence(kind="forward_kl", on="text"), SampledReverseKL())
        )
    whole = trainer(teachers, tmp_path / "whole", config)
    losses = rows(whole, 1, 6)
    cut = trainer(teachers, tmp_path / "cut", config)
    assert rows(cut, 1, 3) == losses[:3]
    state = {name: tensor.clone() for name, tensor in cut.state().items()}
    again = trainer(teachers, tmp_path / "cut", config)
    again.restore(state)
    assert rows(again, 4, 6) == losses[3:]
    for name, tensor in whole.state().items():
        assert torch.equal(again.state()[name], tensor), name


def test_students_learn_to_write_what_their_teachers_would(teachers, tmp_path):
    config = replace(
        CONFIG,
        rollout=RolloutConfig(fraction=1.0, max_new_tokens=6),
        train=TrainConfig(steps=25, batch_size=16),
    )
    found = rows(trainer(teachers, tmp_path, config), 1, 25)
    assert sum(found[-5:]) < 0.85 * sum(found[:5])
