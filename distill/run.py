"""A run, in order: config, text, teacher's lesson, training, evaluation, record. Read this first.

Every stage leaves a file and looks for it first, so the same command after an interruption goes on
where it stopped, and after a finished run changes nothing.
"""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from audit import strict_yaml
from audit.attest import file_digest
from distill import lesson, record, store
from distill.checkpoint import Checkpoints
from distill.config import RunConfig, load
from distill.corpus import Passage
from distill.errors import InputError, MismatchError
from distill.evaluate import measure, write_on
from distill.lesson import Lesson, Text
from distill.page import render_run
from distill.resources import shipped
from distill.session import Notes, Progress, Say, Session, claim, hold
from distill.teachers import embedded
from distill.train import Row, Trainer
from distill.train import run as train
from student import device as devices
from student import weights
from student.model import Student
from student.sizes import count_parameters, kv_cache_bytes_per_token

START = "checkpoints/step-000000"
OUTPUTS = ("config.yaml", "metrics.jsonl", "eval.json", "heldout.jsonl", "student", START)


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
    resolved = strict_yaml.dump(config)
    done = claim(out, config)
    if done is not None:
        say(f"{out} is finished already; nothing to do")
        evaluation = record.read_json(out / "eval.json")
        return Outcome(out=out, evaluation=evaluation, manifest=done, reused=True)
    device = devices.pick(config.device)
    session = Session(config=config, out=out, device=device, say=say, progress=progress)
    teacher = _teacher_path(config, say)
    tokenizer = weights.load_tokenizer(teacher)
    text = lesson.read(config, tokenizer)
    # Only now that the inputs are known to be good does the directory belong to this config.
    record.write_text(out / "config.yaml", resolved)
    _write_passages(out / "heldout.jsonl", text.passages)
    taught = lesson.ask(session, text, teacher)
    notes = Notes(out / "eval.json")
    trainer = _start(session, text, taught, tokenizer, notes)
    _train(session, trainer)
    weights.save(trainer.model, tokenizer, out / "student")
    _evaluate(session, trainer.model, text, taught, tokenizer, notes)
    manifest = _record(session, resolved, text, taught, notes)
    return Outcome(out=out, evaluation=notes.values, manifest=manifest, reused=False)


def control_of(student_run: Path, *, seed: int) -> RunConfig:
    """Return the config of a control: `student_run`'s own, without the teacher, from another seed.

    The teacher's weight goes to the cross-entropy, so text, steps, architecture, the scale of the
    loss and its other terms stay as they were. Held-out signals are shared with the student's run.

    Raises:
        InputError: `student_run` is no run directory.
        MismatchError: it is a control itself, or the seed is the student's.
    """
    path = student_run / "config.yaml"
    if not path.is_file():
        raise InputError(f"{student_run} is not a run directory: it has no config.yaml.")
    config = load(path)
    if not config.uses_teacher:
        raise MismatchError(f"{student_run} is itself a control; name the student's run.")
    if seed == config.seed:
        raise MismatchError(f"seed {seed} is the student's own; a control needs another.")
    whole = config.loss.forward_kl + config.loss.cross_entropy
    signals = config.signal.path or str(student_run / "signals")
    return replace(
        config,
        seed=seed,
        loss=replace(config.loss, forward_kl=0.0, cross_entropy=whole),
        signal=replace(config.signal, path=signals),
    )


def _teacher_path(config: RunConfig, say: Say) -> Path:
    if config.teacher.path == "embedded":
        return embedded.ensure(say)
    path = Path(config.teacher.path)
    if not (path / "config.json").is_file():
        raise InputError(
            f"teacher.path: {path} holds no model (no config.json); name the directory of a "
            "transformers causal language model, or embedded."
        )
    return path


def _write_passages(path: Path, passages: list[Passage]) -> None:
    """Keep the held-out prompts with their true continuations, in the form audit reads."""
    rows = [json.dumps(asdict(passage), ensure_ascii=False) for passage in passages]
    record.write_text(path, "".join(row + "\n" for row in rows))


def _start(session: Session, text: Text, taught: Lesson, tokenizer: Any, notes: Notes) -> Trainer:
    """Return a trainer of the new student, which is kept and measured before its first step."""
    config = session.config
    model = Student.build(
        config.student, taught.vocabulary, seed=config.seed, device=session.device
    )
    if not (session.out / START).is_dir():
        weights.save(model, tokenizer, session.out / START)
    if "before" not in notes.values:
        began = time.perf_counter()
        held = store.read_hidden(taught.held)
        before, teacher = measure(model, text.held, held, taught.head_VT)
        speed = taught.held.tokens / taught.held.seconds
        session.say(f"before: {_in_words(before.kl, before.top1_agreement)}")
        notes.add(
            before=asdict(before),
            teacher={"name": taught.name, "tokens_per_second": speed, **asdict(teacher)},
            evaluation_seconds=time.perf_counter() - began,
        )
    signal = None if taught.train is None else store.read_sparse(taught.train)
    return Trainer(model, config, text.train, signal)


def _in_words(kl: float, agreement: float) -> str:
    return f"KL to the teacher {kl:.3f} nats a token, top-1 agreement {agreement:.1%}"


def _train(session: Session, trainer: Trainer) -> None:
    """Take the steps that are missing, from the last checkpoint on."""
    steps = session.config.train.steps
    checkpoints = _checkpoints(session)
    saved = checkpoints.load()
    if saved is not None:
        trainer.restore(saved.tensors)
        session.say(f"going on after step {saved.step} of {steps}")
    last = saved.step if saved is not None else 0
    metrics = session.out / "metrics.jsonl"
    _forget_after(metrics, last)
    with metrics.open("a", encoding="utf-8") as stream:

        def note(row: Row) -> None:
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            session.progress("training", row["step"], steps, _step_in_words(row))

        train(
            trainer,
            first=last + 1,
            record=note,
            keep=lambda step: checkpoints.save(step, trainer.state()),
        )


def _checkpoints(session: Session) -> Checkpoints:
    seconds = session.config.checkpoint.sync_seconds
    return Checkpoints(session.out / "checkpoints", sync_seconds=seconds)


def _step_in_words(row: Row) -> str:
    kl = "" if row["kl"] is None else f", KL {row['kl']:.3f}"
    return f"steps; loss {row['loss']:.3f}{kl}, {row['tokens_per_second']:,.0f} tokens/s"


def _forget_after(metrics: Path, step: int) -> None:
    """Drop rows of steps the checkpoint does not hold; they are taken again, to the same end."""
    if metrics.is_file():
        rows = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        record.write_text(metrics, "".join(rows[:step]))


def _metrics(session: Session) -> list[Row]:
    lines = (session.out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _evaluate(
    session: Session, model: Student, text: Text, taught: Lesson, tokenizer: Any, notes: Notes
) -> None:
    """Measure the finished student, let it answer, and split the time."""
    began = time.perf_counter()
    after, _ = measure(model, text.held, store.read_hidden(taught.held), taught.head_VT)
    session.say(f"after:  {_in_words(after.kl, after.top1_agreement)}")
    limit = session.config.evaluate.sample_tokens
    samples = []
    for seed, row in enumerate(taught.answers):
        continued = write_on(model, tokenizer, row["prompt"], limit, seed=seed)
        samples.append({"id": f"sample-{seed + 1}", **row, "student": continued})
    # A control's held-out signals were captured by the student's run, and are in its bill.
    captured = taught.held.seconds + taught.train.seconds if taught.train else 0.0
    notes.add(
        after=asdict(after),
        samples=samples,
        seconds={
            "capture": captured,
            "training": sum(row["seconds"] for row in _metrics(session)),
            "evaluation": notes.values["evaluation_seconds"] + time.perf_counter() - began,
        },
        peak_memory_bytes=devices.peak_memory_bytes(),
    )


def _record(
    session: Session, resolved: str, text: Text, taught: Lesson, notes: Notes
) -> dict[str, Any]:
    """Write the page, the card and, last, the manifest; then drop the training state."""
    config, out = session.config, session.out
    counted = count_parameters(config.student, taught.vocabulary.size)
    manifest = record.manifest(
        config=config,
        config_text=resolved,
        device=session.device,
        inputs=_inputs(config, text, taught),
        outputs=record.outputs(out, OUTPUTS),
        teacher={"name": taught.name, "sha256": taught.sha256},
        sizes={
            "parameters": counted.total,
            "active_parameters": counted.active,
            "kv_cache_bytes_per_token": kv_cache_bytes_per_token(config.student),
        },
    )
    title = "Distillation run" if config.uses_teacher else "Control run"
    page = render_run(_metrics(session), notes.values, manifest, resolved, title)
    record.write_text(out / "run.html", page)
    record.write_text(out / "README.md", record.model_card(config, notes.values, manifest))
    record.write_json(out / "manifest.json", manifest)
    _checkpoints(session).clear()
    return manifest


def _inputs(config: RunConfig, text: Text, taught: Lesson) -> list[dict[str, str]]:
    """Return a line for everything that went in, pinned by digest."""
    line = record.material
    licence = f"licence as stated: {config.teacher.licence}"
    rows = [
        line(taught.name, "teacher weights", taught.sha256, licence),
        line("tokenizer.json", "tokenizer", file_digest(taught.path / "tokenizer.json")),
        line(", ".join(config.text.sources), "text", text.sha256),
        line("held-out signals", "teacher signals", taught.held.sha256()),
    ]
    if "prompts" in config.text.sources:
        sha256 = file_digest(shipped("seeds/prompts.jsonl"))
        rows.append(line("seeds/prompts.jsonl", "prompts", sha256))
    if taught.train is not None:
        rows.append(line("training signals", "teacher signals", taught.train.sha256()))
    return rows
