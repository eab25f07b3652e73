"""A run, in order: config, text, teacher's signals, training, evaluation, record.

Every stage leaves a file and looks for it first, so the same command after an interruption goes on
where it stopped, and after a finished run changes nothing. Read this module first.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from audit import strict_yaml
from audit.attest import digest, file_digest
from distill import capture, corpus, record, store
from distill.checkpoint import Checkpoints
from distill.config import LossConfig, RunConfig, load
from distill.corpus import Passage, Windows
from distill.errors import InputError, MismatchError
from distill.evaluate import measure, measure_teacher
from distill.page import render_run
from distill.resources import shipped
from distill.signals import Hidden, Sparse
from distill.store import Key, Store
from distill.teachers import embedded
from distill.teachers.local import LocalTeacher, answer
from distill.train import Row, Trainer
from distill.train import run as train
from student import device as devices
from student import weights
from student.config import count_parameters, kv_cache_bytes_per_token
from student.model import Vocabulary, build

Say = Callable[[str], None]
Progress = Callable[[str, int, int, str], None]

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """The text of a run: packed windows of both sides, and passages set aside for an audit."""

    sha256: str
    train: Windows
    held: Windows
    passages: list[Passage]
    prompts: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Taught:
    """What the teacher said of the text, and who it was."""

    name: str
    sha256: str
    path: Path
    vocabulary: Vocabulary
    head_VT: torch.Tensor
    train: Store | None
    held: Store
    answers: list[dict[str, str]]


def run(config: RunConfig, out: Path, *, say: Say, progress: Progress) -> Outcome:
    """Carry out `config` in the directory `out`, or finish what an earlier call began there.

    Raises:
        DistillError: and its kin of `student` and `audit`; what was finished is kept.
    """
    text_of_config = strict_yaml.dump(config)
    done = _claim(out, config, text_of_config)
    if done is not None:
        say(f"{out} is finished already; nothing to do")
        return Outcome(
            out=out, evaluation=record.read_json(out / "eval.json"), manifest=done, reused=True
        )
    device = devices.pick(config.device)
    teacher_path = _teacher_path(config, say)
    tokenizer = weights.load_tokenizer(teacher_path)
    text = _text(config, tokenizer)
    _write_passages(out / "heldout.jsonl", text.passages)
    taught = _ask_teacher(config, out, text, teacher_path, device, say, progress)
    notes = _Notes(out / "eval.json")
    trainer = _trainer(config, out, text, taught, tokenizer, device, notes, say)
    _train(trainer, out, say, progress)
    weights.save(trainer.model, tokenizer, out / "student")
    _evaluate(trainer.model, config, text, taught, tokenizer, out, notes, say)
    manifest = _record(config, text_of_config, out, text, taught, device, notes)
    return Outcome(out=out, evaluation=notes.values, manifest=manifest, reused=False)


def control_of(student_run: Path, *, seed: int) -> RunConfig:
    """Return the config of a control: `student_run`'s own, without the teacher, from another seed.

    The teacher's weight goes to the cross-entropy, so text, steps, architecture and the scale of
    the loss stay as they were. Held-out signals are shared with the student's run.

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
    return replace(
        config,
        seed=seed,
        loss=LossConfig(forward_kl=0.0, cross_entropy=whole),
        signal=replace(config.signal, path=str(_signals(config, student_run))),
    )


def _claim(out: Path, config: RunConfig, text: str) -> dict[str, Any] | None:
    """Take `out` for this config; return its manifest when the run there is finished and intact.

    Raises:
        MismatchError: another config ran there, or a finished run was changed since.
    """
    kept = out / "config.yaml"
    if kept.is_file():
        differs = _differences(asdict(load(kept)), asdict(config))
        if differs:
            raise MismatchError(
                f"{out} holds a run with another config ({'; '.join(differs[:3])}); choose another "
                "--out, or delete that directory."
            )
    else:
        record.write_text(kept, text)
    manifest = record.read_json(out / "manifest.json")
    if not manifest:
        return None
    changed = record.changed(out, manifest)
    if changed:
        raise MismatchError(
            f"{out} was finished, but {', '.join(changed)} changed since; restore it, or delete "
            "manifest.json there to finish the run anew."
        )
    return manifest


def _differences(old: dict[str, Any], new: dict[str, Any], path: str = "") -> list[str]:
    found = []
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            found += _differences(old[key], value, f"{path}{key}.")
        elif old.get(key) != value:
            found.append(f"{path}{key}: {old.get(key)} there, {value} here")
    return found


def _teacher_path(config: RunConfig, say: Say) -> Path:
    if config.teacher.path == "embedded":
        return embedded.ensure(say)
    return Path(config.teacher.path)


def _text(config: RunConfig, tokenizer: Any) -> Text:
    documents = corpus.load(config.text.sources)
    train_documents, held_documents = corpus.split(documents, config.text.held_out)
    length, wanted = config.text.sequence_length, config.evaluate
    held = corpus.pack(held_documents, tokenizer, length)
    held = held.take(corpus.evenly(len(held.tokens), max(1, wanted.tokens // length)))
    passages = corpus.passages(
        held_documents,
        tokenizer,
        count=wanted.probe_prompts,
        prompt=wanted.prompt_tokens,
        continuation=wanted.continuation_tokens,
    )
    return Text(
        sha256=corpus.text_digest(documents),
        train=corpus.pack(train_documents, tokenizer, length),
        held=held,
        passages=passages,
        prompts=[d.text for d in held_documents if d.id.startswith("prompts/")],
    )


def _write_passages(path: Path, passages: list[Passage]) -> None:
    """Keep the held-out prompts with their true continuations, in the form audit reads."""
    rows = [json.dumps(asdict(passage), ensure_ascii=False) for passage in passages]
    record.write_text(path, "".join(row + "\n" for row in rows))


def _signals(config: RunConfig, out: Path) -> Path:
    return Path(config.signal.path) if config.signal.path else out / "signals"


def _ask_teacher(
    config: RunConfig,
    out: Path,
    text: Text,
    path: Path,
    device: torch.device,
    say: Say,
    progress: Progress,
) -> Taught:
    """Capture what is missing of the teacher's signals, and its answers to the sample prompts."""
    place = _signals(config, out)
    exact = LocalTeacher(config.teacher.name, path, device=device, dtype=torch.float32)
    held_key = Key(
        mode="hidden",
        teacher_sha256=exact.sha256,
        text_sha256=digest([text.train.sha256(), text.held.sha256()]),
        vocab_size=exact.vocab_size,
        settings={"dtype": "float32", "shard_tokens": config.signal.shard_tokens},
    )
    held = Store(place / "heldout", held_key)
    capture.hidden(exact, text.held, held, config.signal.shard_tokens, progress)
    answers = _answers(exact, config, text, place / "answers.json", say)
    vocabulary, head_VT = exact.vocabulary(), exact.head_VT.clone()
    train_store = None
    if config.uses_teacher:
        dtype = devices.compute_dtype(device, config.dtype)
        exact.model.to(dtype)
        key = replace(
            held_key,
            mode="head_tail",
            settings={
                "dtype": str(dtype).removeprefix("torch."),
                "head": config.signal.head,
                "tail": config.signal.tail,
                "shard_tokens": config.signal.shard_tokens,
            },
        )
        train_store = Store(place / "train", key)
        had = train_store.tokens
        capture.sparse(exact, text.train, train_store, config.signal, progress)
        per_token = train_store.size_bytes() / train_store.tokens
        say(
            f"teacher's signal: {train_store.tokens:,} tokens, {per_token:.0f} bytes each"
            + (f" ({had:,} were there already)" if had else "")
        )
    return Taught(
        name=exact.name,
        sha256=exact.sha256,
        path=path,
        vocabulary=vocabulary,
        head_VT=head_VT,
        train=train_store,
        held=held,
        answers=answers,
    )


def _answers(
    teacher: LocalTeacher, config: RunConfig, text: Text, path: Path, say: Say
) -> list[dict[str, str]]:
    """Return the teacher's greedy answers to held-out prompts and passages, asked once."""
    half = config.evaluate.samples // 2
    asked = [{"form": "chat", "prompt": prompt} for prompt in text.prompts[:half]]
    open_ended = [text.passages[i] for i in corpus.evenly(len(text.passages), 99)]
    asked += [
        {"form": "text", "prompt": passage.prompt}
        for passage in open_ended[: config.evaluate.samples - len(asked)]
    ]
    key = digest([teacher.sha256, asked, config.evaluate.sample_tokens])
    kept = record.read_json(path)
    if kept.get("key") != key:
        say(f"asking the teacher {len(asked)} held-out prompts")
        limit = config.evaluate.sample_tokens
        for row in asked:
            row["teacher"] = answer(
                teacher.model, teacher.tokenizer, row["prompt"], limit, chat=row["form"] == "chat"
            )
        kept = {"key": key, "answers": asked}
        record.write_json(path, kept)
    return list(kept["answers"])


class _Notes:
    """`eval.json`: figures added as they are measured, on disk at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = record.read_json(path)

    def add(self, **figures: Any) -> None:
        self.values.update(figures)
        record.write_json(self.path, self.values)


def _trainer(
    config: RunConfig,
    out: Path,
    text: Text,
    taught: Taught,
    tokenizer: Any,
    device: torch.device,
    notes: _Notes,
    say: Say,
) -> Trainer:
    """Return the student as its last checkpoint left it, or new, measured before its first step."""
    model = build(config.student, taught.vocabulary, seed=config.seed, device=device)
    if not (out / START).is_dir():
        weights.save(model, tokenizer, out / START)
    if "before" not in notes.values:
        began = time.perf_counter()
        held = store.read_hidden(taught.held)
        before = measure(model, text.held, held, taught.head_VT)
        teacher = measure_teacher(text.held, held, taught.head_VT, taught.held.seconds)
        say(f"before: KL to the teacher {before.kl:.3f}, agreement {before.top1_agreement:.1%}")
        notes.add(
            before=before.as_dict(),
            teacher={"name": taught.name, **teacher},
            evaluation_seconds=time.perf_counter() - began,
        )
    signal = None if taught.train is None else store.read_sparse(taught.train)
    return Trainer(model, config, text.train, signal)


def _train(trainer: Trainer, out: Path, say: Say, progress: Progress) -> None:
    """Take the missing steps."""
    settings = trainer.config.checkpoint
    checkpoints = Checkpoints(out / "checkpoints", sync_seconds=settings.sync_seconds)
    saved = checkpoints.load()
    step = 0
    if saved is not None:
        trainer.restore(saved.tensors)
        step = saved.step
        say(f"going on after step {step} of {trainer.config.train.steps}")
    metrics = out / "metrics.jsonl"
    _forget_after(metrics, step)
    steps = trainer.config.train.steps

    def note(row: Row) -> None:
        stream.write(json.dumps(row) + "\n")
        stream.flush()
        kl = "" if row["kl"] is None else f", KL {row['kl']:.3f}"
        speed = f"{row['tokens_per_second']:,.0f} tokens/s"
        progress("training", row["step"], steps, f"steps; loss {row['loss']:.3f}{kl}, {speed}")

    with metrics.open("a", encoding="utf-8") as stream:
        train(
            trainer,
            first=step + 1,
            record=note,
            keep=lambda step: checkpoints.save(step, trainer.state()),
        )


def _forget_after(metrics: Path, step: int) -> None:
    """Drop rows of steps the checkpoint does not hold; they will be taken again, to the same end."""
    if not metrics.is_file():
        return
    rows = metrics.read_text(encoding="utf-8").splitlines(keepends=True)[:step]
    record.write_text(metrics, "".join(rows))


def _evaluate(
    model: Any,
    config: RunConfig,
    text: Text,
    taught: Taught,
    tokenizer: Any,
    out: Path,
    notes: _Notes,
    say: Say,
) -> None:
    """Measure the finished student, let it answer, and split the time."""
    began = time.perf_counter()
    after = measure(model, text.held, store.read_hidden(taught.held), taught.head_VT)
    say(f"after:  KL to the teacher {after.kl:.3f}, agreement {after.top1_agreement:.1%}")
    samples = [
        {
            "id": f"sample-{number}",
            "prompt": row["prompt"],
            "teacher": row["teacher"],
            "student": answer(
                model,
                tokenizer,
                row["prompt"],
                config.evaluate.sample_tokens,
                chat=row["form"] == "chat",
            ),
        }
        for number, row in enumerate(taught.answers, 1)
    ]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    evaluation = notes.values["evaluation_seconds"] + time.perf_counter() - began
    captured = taught.held.seconds + (taught.train.seconds if taught.train else 0.0)
    if not config.uses_teacher:
        captured = 0.0  # the held-out signals are the student run's
    notes.add(
        after=after.as_dict(),
        samples=samples,
        seconds={
            "capture": captured,
            "training": sum(row["seconds"] for row in rows),
            "evaluation": evaluation,
        },
        peak_memory_bytes=devices.peak_memory_bytes(),
    )


def _record(
    config: RunConfig,
    text_of_config: str,
    out: Path,
    text: Text,
    taught: Taught,
    device: torch.device,
    notes: _Notes,
) -> dict[str, Any]:
    """Write the page, the card and, last, the manifest."""
    line = record.material
    inputs = [
        line(taught.name, "teacher weights", taught.sha256, f"licence: {config.teacher.licence}"),
        line("tokenizer.json", "tokenizer", file_digest(taught.path / "tokenizer.json")),
        line(", ".join(config.text.sources), "text", text.sha256),
        line("held-out signals", "teacher signals", taught.held.sha256()),
    ]
    if "prompts" in config.text.sources:
        inputs.append(
            line("seeds/prompts.jsonl", "prompts", file_digest(shipped("seeds/prompts.jsonl")))
        )
    if taught.train is not None:
        inputs.append(line("training signals", "teacher signals", taught.train.sha256()))
    vocab = taught.vocabulary.size
    counted = count_parameters(config.student, vocab)
    manifest = record.manifest(
        config=config,
        config_text=text_of_config,
        role="student" if config.uses_teacher else "control",
        device=device,
        inputs=inputs,
        outputs=record.outputs(out, OUTPUTS),
        teacher={"name": taught.name, "sha256": taught.sha256},
        parameters={
            "total": counted.total,
            "active": counted.active,
            "kv_cache_bytes_per_token": kv_cache_bytes_per_token(config.student),
        },
    )
    rows = [json.loads(row) for row in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    title = "Distillation run" if config.uses_teacher else "Control run"
    page = render_run(rows, notes.values, manifest, text_of_config, title)
    record.write_text(out / "run.html", page)
    record.write_text(out / "README.md", record.model_card(config, notes.values, manifest))
    record.write_json(out / "manifest.json", manifest)
    Checkpoints(out / "checkpoints", sync_seconds=config.checkpoint.sync_seconds).clear()
    return manifest
