"""What the teacher has to say about a run's text, asked once and kept on disk.

Three things: its distribution at every training position (head and sampled tail), its exact hidden
states on held-out text, and its own answers to a few held-out prompts.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from audit.attest import digest
from distill import capture, corpus, record
from distill.config import RunConfig
from distill.corpus import Passage, Windows
from distill.errors import MismatchError
from distill.session import Session
from distill.store import Key, Store
from distill.teachers.local import LocalTeacher, answer
from student import device as devices
from student.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """The text of a run: packed windows of both sides, and what is set aside for questions."""

    sha256: str
    train: Windows
    held: Windows
    passages: list[Passage]
    prompts: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """What the teacher said, and who it was.

    Attributes:
        head_VT: float32 output head, which turns held-out states into logits.
        train: signals on the training windows; None for a control.
        held: exact signals on the held-out windows.
        answers: rows of `prompt` and `teacher`, its continuation.
    """

    name: str
    sha256: str
    path: Path
    vocabulary: Vocabulary
    head_VT: torch.Tensor
    train: Store | None
    held: Store
    answers: list[dict[str, str]]


def read(config: RunConfig, tokenizer: object) -> Text:
    """Return the text that `config` names, split and packed.

    Raises:
        InputError: a source is missing, malformed, or too short.
    """
    documents = corpus.load(config.text.sources)
    train_documents, held_documents = corpus.split(documents, config.text.held_out)
    length, wanted = config.text.sequence_length, config.evaluate
    held = corpus.pack(held_documents, tokenizer, length)
    few = corpus.evenly(len(held.tokens), max(1, wanted.tokens // length))
    return Text(
        sha256=corpus.text_digest(documents),
        train=corpus.pack(train_documents, tokenizer, length),
        held=held.take(few),
        passages=corpus.passages(
            held_documents,
            tokenizer,
            count=wanted.probe_prompts,
            prompt=wanted.prompt_tokens,
            continuation=wanted.continuation_tokens,
        ),
        prompts=[d.text for d in held_documents if d.id.startswith("prompts/")],
    )


def ask(session: Session, text: Text, teacher_path: Path) -> Lesson:
    """Return the teacher's lesson on `text`, capturing what is not on disk yet.

    Raises:
        TeacherError: the teacher cannot be used.
        MismatchError: the signals on disk are of another teacher, text or setting.
        StorageError: the disk refused; finished shards are kept.
    """
    config, shard_tokens = session.config, session.config.signal.shard_tokens
    teacher = LocalTeacher(
        config.teacher.name, teacher_path, device=session.device, dtype=torch.float32
    )
    key = Key(
        mode="hidden",
        teacher_sha256=teacher.sha256,
        text_sha256=digest([text.train.sha256(), text.held.sha256()]),
        vocab_size=teacher.vocab_size,
        settings={"dtype": "float32", "shard_tokens": shard_tokens},
    )
    held = Store(session.signals / "heldout", key)
    capture.hidden(teacher, text.held, held, shard_tokens, session.progress)
    answers = _answers(session, teacher, text)
    head_VT = teacher.head_VT.clone()
    return Lesson(
        name=teacher.name,
        sha256=teacher.sha256,
        path=teacher_path,
        vocabulary=teacher.vocabulary(),
        head_VT=head_VT,
        train=_train_signals(session, teacher, text, key) if config.uses_teacher else None,
        held=held,
        answers=answers,
    )


def _train_signals(session: Session, teacher: LocalTeacher, text: Text, held_key: Key) -> Store:
    """Return the store of head and tail on the training windows, filled."""
    signal = session.config.signal
    if signal.head >= teacher.vocab_size:
        raise MismatchError(
            f"signal.head is {signal.head}, but the teacher's vocabulary has only "
            f"{teacher.vocab_size} tokens; choose fewer."
        )
    dtype = devices.compute_dtype(session.device, session.config.dtype)
    settings = {
        "dtype": str(dtype).removeprefix("torch."),
        "head": signal.head,
        "tail": signal.tail,
        "shard_tokens": signal.shard_tokens,
    }
    store = Store(session.signals / "train", replace(held_key, mode="head_tail", settings=settings))
    had = store.tokens
    teacher.cast(dtype)
    capture.sparse(teacher, text.train, store, signal, session.progress)
    known = f", {had:,} of them there already" if had else ""
    per_token = store.size_bytes() / store.tokens
    session.say(f"teacher's signal: {store.tokens:,} tokens at {per_token:.0f} bytes{known}")
    return store


def _answers(session: Session, teacher: LocalTeacher, text: Text) -> list[dict[str, str]]:
    """Return how the teacher goes on: half from held-out prompts, half from held-out passages.

    Prompts are put as plain text, because the student has never seen a chat template.
    """
    wanted = session.config.evaluate
    asked = [{"prompt": prompt + "\n\n"} for prompt in text.prompts[: wanted.samples // 2]]
    few = corpus.evenly(len(text.passages), wanted.samples - len(asked))
    asked += [{"prompt": text.passages[i].prompt} for i in few]
    path = session.signals / "answers.json"
    key = digest([teacher.sha256, asked, wanted.sample_tokens])
    kept = record.read_json(path)
    if kept.get("key") != key:
        session.say(f"asking the teacher {len(asked)} held-out prompts")
        for seed, row in enumerate(asked):
            row["teacher"] = answer(
                teacher.model, teacher.tokenizer, row["prompt"], wanted.sample_tokens, seed=seed
            )
        kept = {"key": key, "answers": asked}
        record.write_json(path, kept)
    return list(kept["answers"])
