"""A run, in order: preparation, training, evaluation, papers. Read this first.

Every stage leaves a file and looks for it first, so the same command after an interruption goes on
where it stopped, and after a finished run changes nothing.
"""

import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from audit.statement import STATEMENT, begin
from distill import files, inherit
from distill.checkpoint import Checkpoints
from distill.config import RunConfig, load
from distill.course import course
from distill.errors import InputError, MismatchError
from distill.evaluation.evaluate import Measured
from distill.examination import Examination, glancing_seconds, history
from distill.loss import objective
from distill.papers import bundle, checks, cost, provenance, record
from distill.papers.bundle import START
from distill.papers.schema import CURRENT
from distill.prepare import Ready, prepare
from distill.rollout import served
from distill.session import Notes, Progress, Say, Session, claim, hold
from distill.store.capture import Worker
from distill.store.store import Store
from distill.train import Row, Trainer
from distill.train import run as train
from student import device as devices
from student import weights
from student.inherited import Inheriting
from student.model import Student


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a finished run has to show, and whether it was there already."""

    out: Path
    evaluation: dict[str, Any]
    manifest: dict[str, Any]
    reused: bool

    @property
    def page(self) -> Path:
        """The page a person opens."""
        return self.out / "run.html"


def run(config: RunConfig, out: Path, *, say: Say, progress: Progress) -> Outcome:
    """Carry out `config` in the directory `out`, or finish what an earlier call began there.

    Raises:
        DistillError: and its kin of `student` and `audit`; what was finished is kept.
    """
    with hold(out):
        return _run(config, out, say=say, progress=progress)


def _run(config: RunConfig, out: Path, *, say: Say, progress: Progress) -> Outcome:
    done = claim(out, config)
    if done is not None:
        say(f"{out} is finished already; nothing to do")
        if done.get("schema") == CURRENT and not (out / STATEMENT).is_file():
            _close(config, out)  # it was killed at the last step
        evaluation = files.read_json(out / "eval.json")
        return Outcome(out=out, evaluation=evaluation, manifest=done, reused=True)
    begin(out)
    device = devices.pick(config.device)
    session = Session(config=config, out=out, device=device, say=say, progress=progress)
    ready = prepare(session)
    notes = Notes(out / "eval.json")
    if "started" not in notes.values:
        notes.add(started=record.now())
    model = _new(session, ready)
    exam = Examination(session, ready.text, ready.lessons, ready.tokenizer, ready.tasks)
    _begin(session, model, ready.tokenizer, exam, notes)
    _train(session, _trainer(session, model, ready), exam)
    weights.save(model, ready.tokenizer, out / "student", inherited=record.inherited(config))
    _evaluate(session, model, ready, exam, notes)
    manifest = bundle.write(session, ready, model.config, _metrics(session))
    _close(config, out)
    return Outcome(out=out, evaluation=notes.values, manifest=manifest, reused=False)


def capture(config: RunConfig, *, say: Say, progress: Progress) -> list[Store]:
    """Ask the teachers of `config` for their signals and keep them in `signal.path`, no more.

    Several processes may share the work: see `distill.capture.Worker`. A run with the same
    `signal.path` finds everything there.

    Returns:
        The stores; one that other processes are still filling is not whole yet.

    Raises:
        MismatchError: `signal.path` is not set, or holds something else; RANK and WORLD_SIZE name
            no worker.
        DistillError: and its kin; what was finished is kept.
    """
    if config.signal.path is None:
        raise MismatchError("signal.path is not set; say where the signals are to be kept.")
    place = Path(config.signal.path)
    device = devices.pick(config.device)
    worker = Worker.from_environment(os.environ)
    session = Session(
        config=config, out=place, device=device, say=say, progress=progress, worker=worker
    )
    return [store for one in prepare(session).lessons for _, store in one.stores()]


def control_of(student_run: Path, *, seed: int) -> RunConfig:
    """Return the config of a control: `student_run`'s own, without the teacher, from another seed.

    A student that began with its teacher's weights has controls of its make that are drawn. What a
    teacher on disk wrote is left out, so that the text is as far as the user's own the same. The
    teacher's weight goes to the cross-entropy, so text, steps, architecture, the scale of the
    loss and its other terms stay as they were. Held-out signals are shared with the student's run.

    Raises:
        InputError: `student_run` is no run directory.
        MismatchError: it is a control itself, a served teacher wrote part of its text, or the seed
            is the student's.
    """
    path = student_run / "config.yaml"
    if not path.is_file():
        raise InputError(f"{student_run} is not a run directory: it has no config.yaml.")
    config = load(path)
    if not config.is_taught:
        raise MismatchError(f"{student_run} is itself a control; name the student's run.")
    if any(teacher.answers and teacher.endpoint for teacher in config.teachers):
        raise MismatchError(
            f"{student_run} learnt from text that a served teacher wrote, so no run on its text is "
            "without a teacher; train a control on other text of the same kind."
        )
    if seed == config.seed:
        raise MismatchError(f"seed {seed} is the student's own; a control needs another.")
    signals = config.signal.path or str(student_run / "signals")
    student = config.student
    if isinstance(student, Inheriting):  # of the same make, and from weights of its own
        student, _ = weights.read_config(student_run / "student")
    return replace(
        config,
        student=student,
        teachers=tuple(replace(teacher, answers=None) for teacher in config.teachers),
        seed=seed,
        loss=objective.without_teacher(config.loss),
        signal=replace(config.signal, path=signals),
        rollout=replace(config.rollout, fraction=0.0),
    )


def _new(session: Session, ready: Ready) -> Student:
    """Return the student before its first step: drawn from the seed, or with a teacher's weights.

    What a teacher's weights were made into is kept, so that another call begins with the same.
    """
    config, start = session.config, session.out / START
    if not isinstance(config.student, Inheriting):
        return Student.build(
            config.student, ready.vocabulary, seed=config.seed, device=session.device
        )
    if (start / "config.json").is_file():
        model = weights.load(start, device=session.device).train()
    else:
        model = inherit.begin(session, config.student, ready)
    inherit.hold(model)
    return model


def _begin(
    session: Session, model: Student, tokenizer: Any, exam: Examination, notes: Notes
) -> None:
    """Keep and measure the new student before its first step."""
    if not (session.out / START).is_dir():
        weights.save(
            model, tokenizer, session.out / START, inherited=record.inherited(session.config)
        )
    if "before" not in notes.values:
        began = time.perf_counter()
        before = exam.measure(model)
        session.say(f"before: {_in_words(before.measured)}")
        notes.add(
            before=asdict(before.measured),
            teacher=exam.teacher(before),
            evaluation_seconds=time.perf_counter() - began,
        )


def _trainer(session: Session, model: Student, ready: Ready) -> Trainer:
    config = session.config
    matched = any(isinstance(term, objective.HiddenMatch) for term in config.loss)
    return Trainer(
        model,
        config,
        course(session, ready.text, ready.lessons, model, ready.tokenizer),
        teacher_width=ready.lessons[0].width if matched else None,
    )


def _in_words(measured: Measured) -> str:
    if measured.kl is None:
        return f"{measured.bits_per_byte:.3f} bits a byte"
    return (
        f"KL to the teacher {measured.kl:.3f} nats a token, "
        f"top-1 agreement {measured.top1_agreement:.1%}"
    )


def _train(session: Session, trainer: Trainer, exam: Examination) -> None:
    """Take the steps that are missing, from the last checkpoint on."""
    steps, every = session.config.train.steps, session.config.evaluate.every_steps
    checkpoints = _checkpoints(session.config, session.out)
    saved = checkpoints.load()
    if saved is not None:
        trainer.restore(saved.tensors)
        session.say(f"going on after step {saved.step} of {steps}")
    last = saved.step if saved is not None else 0
    metrics = session.out / "metrics.jsonl"
    _forget_after(metrics, last)
    with metrics.open("a", encoding="utf-8") as stream:

        def note(row: Row) -> None:
            if every and row["step"] % every == 0:
                row = row | {"held_out": exam.glance(trainer.model)}
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            session.progress("training", row["step"], steps, _step_in_words(row))

        train(
            trainer,
            first=last + 1,
            record=note,
            keep=lambda step: checkpoints.save(step, trainer.state()),
        )


def _close(config: RunConfig, out: Path) -> None:
    """Drop what training needed to go on, and write the statement over all that is left."""
    _checkpoints(config, out).clear()
    provenance.write(out)


def _checkpoints(config: RunConfig, out: Path) -> Checkpoints:
    return Checkpoints(out / "checkpoints", sync_seconds=config.checkpoint.sync_seconds)


def _step_in_words(row: Row) -> str:
    divergence = next((n for n in row["terms"] if n not in ("balance", "indexer", "mtp")), None)
    said = "" if divergence is None else f", {divergence} {row['terms'][divergence]:.3f}"
    tokens, speed = f"{row['tokens']:,} tokens", f"{row['tokens_per_second']:,.0f} tokens/s"
    return f"steps; {tokens}, loss {row['loss']:.3f}{said}, {speed}"


def _forget_after(metrics: Path, step: int) -> None:
    """Drop rows of steps the checkpoint does not hold; they are taken again, to the same end."""
    if metrics.is_file():
        rows = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        files.write_text(metrics, "".join(rows[:step]))


def _metrics(session: Session) -> list[Row]:
    lines = (session.out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _evaluate(
    session: Session, model: Student, ready: Ready, exam: Examination, notes: Notes
) -> None:
    """Measure the finished student, let it answer, and make out the bill."""
    began = time.perf_counter()
    after = exam.measure(model)
    session.say(f"after:  {_in_words(after.measured)}")
    samples = exam.samples(model)
    comparison = [*exam.behind(after), *exam.tasks(model)]
    metrics = _metrics(session)
    training = sum(row["seconds"] for row in metrics)
    seconds = {
        "capture": sum(one.seconds for one in ready.lessons),
        "training": training,
        "evaluation": notes.values["evaluation_seconds"]
        + glancing_seconds(metrics)
        + time.perf_counter()
        - began,
    }
    notes.add(
        after=asdict(after.measured),
        samples=samples,
        comparison=comparison,
        held_out=history(session.out.name, notes.values["before"], metrics, session.config),
        seconds=seconds,
        served=checks.seen(session),
        bill=cost.of_run(
            session.config,
            model.config,
            model.vocabulary,
            ready.lessons,
            metrics,
            seconds,
            exam.examined(metrics),
            served.asked_of(session),
        ),
        peak_memory_bytes=devices.peak_memory_bytes(),
    )
