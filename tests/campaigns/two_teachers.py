"""Does one student learn from two teachers what neither can by itself?

`python tests/campaigns/two_teachers.py --work DIR --json PATH`: for each seed two teachers, one
that sorts digits and one that shifts them (`tests/fakes/skills.py`), then one `distill run`. It
begins with what the teachers wrote, checked against the known answers; then the student writes
every row itself and each is compared, over the whole vocabulary by reverse KL, with the teacher
of its tag. All three answer held-out questions of both skills. Minutes, so not a test:
`make campaign`.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from distill.checkpoint import Checkpoints
from distill.config import (
    AnswersConfig,
    CheckpointConfig,
    EvaluateConfig,
    OptimizerConfig,
    RunConfig,
    SignalConfig,
    TeacherConfig,
    TextConfig,
    TrainConfig,
)
from distill.evaluation.answering import StudentAnswers
from distill.lessons.written import LocalWriter
from distill.loss.objective import Divergence, Router
from distill.rollout import rejection
from distill.rollout.config import RejectionConfig, RolloutConfig, Same
from distill.run import Outcome, run
from distill.teachers.local import LocalTeacher
from student.config import MLAConfig
from student.model import Student
from student.vocabulary import Vocabulary
from tests.fakes import skills
from tests.fakes.skills import SKILLS, Item, Skill

# Seeds 11 to 13 were looked at while the settings were chosen; these were not.
SEEDS = (1, 2, 3)
TEACHER_STEPS = 600
QUESTIONS, HELD_OUT = 3000, 500  # of each skill
# An answer is right or it is not; within five in a hundred, and twenty points beyond.
WITHIN, BEYOND, ABLE = 0.05, 0.20, 0.90
CPU = torch.device("cpu")

STUDENT = MLAConfig(
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    q_lora_rank=None,
    kv_lora_rank=32,
    qk_rope_head_dim=16,
    qk_nope_head_dim=16,
    v_head_dim=16,
    intermediate_size=128,
    num_routed_experts=4,
    moe_intermediate_size=32,
    max_position_embeddings=128,
    rope_theta=100.0,  # texts are a dozen tokens long
)


def say(sentence: str) -> None:
    """Print one sentence."""
    print(sentence, flush=True)


def teachers(work: Path, seed: int) -> dict[str, Path]:
    """Return a teacher of each skill, trained if it is not there."""
    found = {}
    for skill in SKILLS:
        path = work / "teachers" / f"{skill.name}-{seed}"
        if not (path / "model.safetensors").is_file():
            say(f"training the teacher of {skill.name}")
            skills.teach(skill, path, seed=seed, steps=TEACHER_STEPS)
        found[skill.name] = path
    return found


def answers(skill: Skill, teacher: Path, work: Path, seed: int) -> Path:
    """Return what a teacher wrote to questions of its skill, where it is right."""
    asked = skills.items(skill, QUESTIONS, seed=seed, held_out=False)
    questions = rejection.read_questions(
        skills.write_questions(asked, work / f"{skill.name}-questions.jsonl")
    )
    how = AnswersConfig(prompts="", max_new_tokens=skills.ANSWER, temperature=1.0)
    local = LocalTeacher(skill.name, teacher, device=CPU, dtype=torch.float32)
    summary = rejection.sample(
        questions,
        LocalWriter(local, how),
        RejectionConfig(checkers=(Same(kind="exact"),), batch_size=500),
        work / f"{skill.name}-answers",
        teacher_sha256=local.sha256,
        seed=seed,
        progress=lambda done, total: None,
    )
    say(f"{skill.name}: {summary.accepted:,} of {summary.answers:,} answers are right")
    return work / f"{skill.name}-answers" / "accepted.jsonl"


def settings(work: Path, seed: int) -> RunConfig:
    """Return the run of one seed, whose teachers, text and tasks are made if missing."""
    known = teachers(work.parent, seed)
    texts, tasks = [], []
    for skill in SKILLS:
        texts.append(str(answers(skill, known[skill.name], work, seed)))
        held = skills.items(skill, HELD_OUT, seed=seed, held_out=True)
        tasks.append(str(skills.write_task(held, work / f"{skill.name}.jsonl")))
    return RunConfig(
        seed=seed,
        device="cpu",
        dtype="float32",
        teachers=tuple(
            TeacherConfig(name=_teacher(name), path=str(path), owned=True, tags=(name,))
            for name, path in known.items()
        ),
        # A window is a question with its answer, as a row of the student's own is.
        text=TextConfig(sources=tuple(texts), held_out=0.1, sequence_length=skills.ROW),
        student=STUDENT,
        signal=SignalConfig(mode="hidden", shard_tokens=16_384),
        rollout=RolloutConfig(
            fraction=1.0, first_step=301, max_new_tokens=skills.ANSWER, batch_size=256
        ),
        loss=(
            Divergence(kind="forward_kl", on="text"),
            Divergence(kind="reverse_kl", on="own"),
            Router(kind="balance", weight=1e-4),
        ),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=30, weight_decay=0.01),
        train=TrainConfig(steps=900, batch_size=48, bias_update_speed=0.01),
        checkpoint=CheckpointConfig(every_steps=50),
        evaluate=EvaluateConfig(
            tokens=4096,
            every_steps=100,
            tasks=tuple(tasks),
            task_tokens=skills.ANSWER,
            samples=0,
            probe_prompts=1,
            prompt_tokens=4,
            continuation_tokens=4,
        ),
    )


class Watch:
    """Prints how a run goes on, and looks at its student now and then, outside its clock.

    Attributes:
        seen: a row a look: step, tokens of training, and accuracy by skill.
    """

    def __init__(self, out: Path, config: RunConfig, questions: Mapping[str, Sequence[Item]]):
        self.out = out
        self.config = config
        self.questions = questions
        self.seen: list[dict[str, float]] = []

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        """Be told of progress: before a step's checkpoint is kept, so the last one is there."""
        if done == total or (stage == "training" and done % 100 == 0):
            say(f"{stage}: {done:,} of {total:,} {note}")
        if stage == "training" and (done - 1) % self.config.evaluate.every_steps == 0:
            self._look(done - 1)

    def _look(self, step: int) -> None:
        saved = Checkpoints(self.out / "checkpoints", sync_seconds=1.0).load()
        if saved is None or saved.step != step:
            return
        known = skills.tokenizer()
        vocabulary = Vocabulary(size=skills.VOCAB, bos=known.bos_token_id, eos=known.eos_token_id)
        student = Student.build(self.config.student, vocabulary)
        weights = {n: t for n, t in saved.tensors.items() if n.startswith("model.")}
        student.load_state_dict({n.removeprefix("model."): t for n, t in weights.items()})
        who = StudentAnswers(student, known)
        right = {name: skills.accuracy(who, asked) for name, asked in self.questions.items()}
        self.seen.append({"step": step, "tokens": int(saved.tensors["tokens"]), **right})


def one_seed(work: Path, seed: int) -> dict[str, object]:
    """Return what came of one seed."""
    home = work / f"seed-{seed}"
    config = settings(home, seed)
    held = {s.name: skills.items(s, HELD_OUT, seed=seed, held_out=True) for s in SKILLS}
    watch = Watch(home / "run", config, held)
    done = run(config, home / "run", say=say, progress=watch)
    right = accuracies(done)
    return {
        "accuracy": right,
        "claims": claims(right),
        "accuracy_while_training": watch.seen,
        "comparison": [_without_items(row) for row in done.evaluation["comparison"]],
        "seconds": done.evaluation["seconds"],
    }


def accuracies(done: Outcome) -> dict[str, dict[str, float]]:
    """Return for each task the share of right answers of the student and of each teacher."""
    right: dict[str, dict[str, float]] = {}
    for row in done.evaluation["comparison"]:
        task, _, teacher = row["name"].partition(", ")
        if teacher:
            right.setdefault(task, {"student": row["student"]})[teacher] = row["teacher"]
    return right


def claims(right: Mapping[str, Mapping[str, float]]) -> dict[str, bool]:
    """Return what is claimed, and whether it holds."""
    found = {}
    for task, of in right.items():
        student, own = of["student"], of[_teacher(task)]
        others = [v for name, v in of.items() if name not in (_teacher(task), "student")]
        found |= {
            f"teacher of {task}: {ABLE:.0%} right or more": own >= ABLE,
            f"{task}: student within {WITHIN:.0%} of its teacher": student >= own * (1 - WITHIN),
            f"{task}: student {BEYOND:.0%} beyond the other": student >= max(others) + BEYOND,
        }
    return found


def _teacher(task: str) -> str:
    return f"teacher of {task}"


def _without_items(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "task"}


def main() -> None:
    """Run the campaign and write its figures; exit 1 where a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    began = time.process_time()
    seeds = {f"seed_{seed}": one_seed(options.work, seed) for seed in options.seeds}
    held = all(all(dict(seed["claims"]).values()) for seed in seeds.values())  # type: ignore[call-overload]
    result = {"all_claims_hold": held, "cpu_seconds": time.process_time() - began, **seeds}
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    raise SystemExit(0 if held else 1)


if __name__ == "__main__":
    main()
