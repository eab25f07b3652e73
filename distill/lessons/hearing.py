"""Ask the teachers of a run for their lessons; what is on disk already is not asked again.

A teacher on disk whose tokenizer is the student's gives its signal at every training position, and
its exact hidden states on held-out text. One of another tokenizer reads the same bytes in its own
tokens (`across.py`). A served one scores the text, or wrote it.

Shapes: W windows.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audit.attest import digest
from distill import files
from distill.batches import Array
from distill.config import TeacherConfig
from distill.errors import MismatchError
from distill.evaluation import tasks
from distill.evaluation.answering import Effort, TeacherAnswers
from distill.evaluation.tasks import Answer, Task
from distill.heads import fit
from distill.lessons.across import hear, require_plain
from distill.lessons.curriculum import Text, scored_tag, shares, taught_by
from distill.lessons.keeping import Keeping, dtype_of, of_windows
from distill.lessons.lesson import Lesson, Said
from distill.lessons.tally import wrote
from distill.loss.objective import ChunkLikelihood, Divergence, SortedL1, from_a_teacher
from distill.session import Session
from distill.signals import Head, Signal, Sparse
from distill.store.store import Store
from distill.teachers.local import LocalTeacher, answer
from distill.teachers.served import asked_of, asked_so_far, log_sha256, served
from distill.text import chat, corpus
from distill.text.corpus import Windows
from distill.text.vocabulary import compare, require_shared
from student import device as devices

_CPU = torch.device("cpu")


def ask(
    session: Session,
    text: Text,
    tokenizer: Any,
    rows: int,
    paths: Sequence[Path | None],
    questions: Sequence[Task] = (),
) -> list[Lesson]:
    """Return every teacher's lesson on `text`, capturing what is not on disk yet.

    Args:
        session: of the run.
        text: read with the student's tokenizer.
        tokenizer: the student's.
        rows: of the student's head.
        paths: of the teachers on disk, in the order of the config; None for the served.
        questions: tasks that each teacher on disk answers too.

    Raises:
        TeacherError: a teacher cannot be used.
        MismatchError: signals on disk are of another teacher, text or setting, or a teacher's
            vocabulary is not the student's and no term across tokenizers is asked for.
        StorageError: the disk refused; finished shards are kept.
        EndpointError, BudgetError: a served teacher cannot be asked further.
    """
    train, held = shares(session.config, text, text.train), shares(session.config, text, text.held)
    lessons = []
    for number, (config, path) in enumerate(zip(session.config.teachers, paths, strict=True)):
        hearing = _Hearing(session, text, tokenizer, rows, config)
        train_W = taught_by(text.train, train, number)
        if path is not None:
            held_W = taught_by(text.held, held, number)
            lesson = hearing.local(path, train_W, held_W, questions)
        elif config.reads:
            lesson = hearing.scoring(train_W)
        else:
            lesson = hearing.writing(number)
        lessons.append(lesson)
    return lessons


@dataclass(frozen=True, slots=True)
class _Reader:
    """A teacher on disk, with a head of as many rows as the student's."""

    teacher: LocalTeacher
    head: Head

    def hidden(self, token_BS: torch.Tensor, start_BS: torch.Tensor | None = None) -> torch.Tensor:
        return self.teacher.hidden(token_BS, start_BS)


class _Hearing:
    """One teacher being asked."""

    def __init__(
        self, session: Session, text: Text, tokenizer: Any, rows: int, config: TeacherConfig
    ) -> None:
        self.session = session
        self.run = session.config
        self.text = text
        self.tokenizer = tokenizer
        self.rows = rows
        self.config = config
        self.keeping = Keeping(session, config)
        self.place = self.keeping.place

    def local(self, path: Path, train_W: Array, held_W: Array, questions: Sequence[Task]) -> Lesson:
        """Return the lesson of a teacher on disk, on these windows."""
        teacher = LocalTeacher(
            self.config.name, path, device=self.session.device, dtype=torch.float32
        )
        shared = compare(
            teacher.tokenizer,
            self.tokenizer,
            teacher_rows=teacher.vocab_size,
            student_rows=self.rows,
        )
        across = bool(shared.differing) and self._may_differ()
        if not across:
            require_shared(shared, self.config.name)
            self._require_tokens(teacher)
            self._require_no_chunks()
        elif self.run.uses_teacher:
            require_plain(self.run, self.text, self.config.name)
        held = None if across else self._held(teacher, held_W)
        alone = self.session.worker.rank == 0  # what is not shared among workers is the first one's
        samples = self._samples(teacher) if alone else []
        answers, effort = self._tasks(teacher, questions if alone else ())
        train: Said | None = None
        facts: dict[str, Any] = {}
        if self.run.uses_teacher:
            teacher.cast(devices.compute_dtype(self.session.device, self.run.dtype))
            if across:
                train, facts = hear(teacher, self.text, self.tokenizer, self.run, self.keeping)
            else:
                train = self._train(teacher, train_W)
        return Lesson(
            config=self.config,
            sha256=teacher.sha256,
            path=path,
            width=None if across else teacher.width,
            train=train,
            held=held,
            vocabulary=asdict(shared) | {"across_tokenizers": across} | facts,
            samples=samples,
            tasks=answers,
            task_effort=effort,
            shapes={name: tuple(p.shape) for name, p in teacher.model.named_parameters()},
            live=self._live(teacher),
            wrote=wrote(self.session, self.config),
        )

    def _live(self, teacher: LocalTeacher) -> LocalTeacher | None:
        """Return the teacher, where it waits for what the student writes; None where it need not.

        Several wait on the host, and `scoring.resident` brings each to the device in its turn.
        """
        if not self.run.rollout.fraction or not self.run.uses_teacher:
            return None
        if len(self.run.teachers) > 1:
            teacher.move(_CPU)
        return teacher

    def _may_differ(self) -> bool:
        """Tell whether the loss is one for a teacher of another tokenizer, or a control's."""
        translated = self.run.signal.translated
        return not self.run.uses_teacher or any(
            isinstance(term, ChunkLikelihood | SortedL1)
            or (translated and isinstance(term, Divergence))
            for term in from_a_teacher(self.run.loss)
        )

    def _require_no_chunks(self) -> None:
        """Refuse a term that a teacher of the student's own tokenizer gives nothing for.

        Raises:
            MismatchError: it would never apply.
        """
        if any(isinstance(term, ChunkLikelihood) for term in from_a_teacher(self.run.loss)):
            raise MismatchError(
                f"loss: chunk_likelihood is for a teacher of another tokenizer, and teacher "
                f"{self.config.name!r} has the student's; take forward_kl."
            )

    def _require_tokens(self, teacher: LocalTeacher) -> None:
        """Refuse a teacher that has no row for a token of the text.

        Raises:
            MismatchError: names the highest.
        """
        last = int(max(self.text.train.tokens.max(), self.text.held.tokens.max()))
        if last >= teacher.vocab_size:
            raise MismatchError(
                f"teacher {self.config.name!r} has {teacher.vocab_size:,} tokens, but the text "
                f"holds token {last} ({self.tokenizer.convert_ids_to_tokens(last)!r}); choose "
                "another teacher, or its tokenizer for the student."
            )

    def scoring(self, window_W: Array) -> Lesson:
        """Return the lesson of a served teacher that scores these windows."""
        assert self.config.endpoint is not None
        model = self.config.endpoint.model
        if not self.run.uses_teacher:
            return Lesson(config=self.config, sha256=log_sha256(self.place), model=model)
        # A served model has no digest; name and address stand for it, and its log is pinned.
        key = self.keeping.key(
            "topk",
            digest([self.config.endpoint.base, model]),
            "served",
            self.rows,
            head=self.config.top,
        )
        store = Store(self.place / "train", key)
        held_BS = torch.from_numpy(self.text.held.tokens.astype(np.int64))
        with served(self.session, self.config, self.tokenizer, self.place, held_BS) as teacher:

            def score(windows: Windows, number: int) -> Signal:
                return teacher.score(torch.from_numpy(windows.tokens.astype(np.int64)))

            self.keeping.keep(score, self.text.train.take(window_W), store)
            spent = asked_of(self.config, teacher, self.place)
        return Lesson(
            config=self.config,
            sha256=log_sha256(self.place),
            model=model,
            train=of_windows(store, None, window_W, self.text.train),
            asked=spent,
        )

    def writing(self, number: int) -> Lesson:
        """Return the lesson of a served teacher that wrote, and what it held likely if asked."""
        assert self.config.endpoint is not None
        train = None
        if number in self.text.scored and self.run.uses_teacher:
            train = self._scored(self.text.scored[number], scored_tag(number))
        name, say = self.config.name, self.session.say
        spent = asked_so_far(name, self.config.endpoint, self.place, say)
        return Lesson(
            config=self.config,
            sha256=log_sha256(self.place),
            model=self.config.endpoint.model,
            train=train,
            asked=spent,
        )

    def _scored(self, signal: Sparse, tag: int) -> Said:
        """Keep the signal of scored answers, which is at hand already."""
        (window_W,) = np.nonzero(self.text.train.tag == tag)
        windows, length = self.text.train.take(window_W), self.text.train.weights.shape[1]
        head = signal.head_ids_NH.shape[1]
        key = self.keeping.key("topk", log_sha256(self.place), "served", self.rows, head=head)
        store = Store(self.place / "train", key)
        per_shard = max(1, self.run.signal.shard_tokens // length) * length

        def part(windows: Windows, number: int) -> Signal:
            first = number * per_shard
            return signal.take(torch.arange(first, first + windows.weights.size))

        self.keeping.keep(part, windows, store)
        return of_windows(store, None, window_W, self.text.train)

    def _samples(self, teacher: LocalTeacher) -> list[dict[str, str]]:
        """Return how the teacher goes on: half from held-out prompts, half from passages.

        Prompts are put as plain text, because a student may never have seen a chat template.
        """
        wanted, text = self.run.evaluate, self.text
        prompts = text.prompts[: wanted.samples // 2]
        if wanted.sample_form == "chat":
            chats = [({"role": "user", "content": prompt},) for prompt in prompts]
            asked = [{"prompt": chat.begin(teacher.tokenizer, messages)} for messages in chats]
        else:
            asked = [{"prompt": prompt + "\n\n"} for prompt in prompts]
        few = corpus.evenly(len(text.passages), wanted.samples - len(asked))
        asked += [{"prompt": text.passages[i].prompt} for i in few]
        path = self.place / "samples.json"
        key = digest([teacher.sha256, asked, wanted.sample_tokens])
        kept = files.read_json(path)
        if kept.get("key") != key:
            self.session.say(f"asking {self.config.name} {len(asked)} held-out prompts")
            for seed, row in enumerate(asked):
                row["teacher"] = answer(
                    teacher.model, teacher.tokenizer, row["prompt"], wanted.sample_tokens, seed=seed
                )
            kept = {"key": key, "answers": asked}
            files.write_json(path, kept)
        return list(kept["answers"])

    def _tasks(
        self, teacher: LocalTeacher, questions: Sequence[Task]
    ) -> tuple[list[list[Answer]], Effort]:
        """Return the teacher's answers to every task, and what they took, then or now."""
        found, spent = [], Effort()
        most = self.run.evaluate.task_tokens
        for task in questions:
            path = self.place / "tasks" / f"{task.name}.json"
            key = digest([teacher.sha256, most, asdict(task)])
            kept = files.read_json(path)
            if kept.get("key") != key:
                self.session.say(f"asking {self.config.name} the {len(task.items)} of {task.name}")
                asked = TeacherAnswers(teacher)
                answers = tasks.ask(task, asked, max_new_tokens=most)
                rows, effort = [asdict(answer) for answer in answers], asdict(asked.effort)
                kept = {"key": key, "answers": rows, "effort": effort}
                files.write_json(path, kept)
            found.append([Answer(**row) for row in kept["answers"]])
            spent += Effort(**kept["effort"])
        return found, spent

    def _held(self, teacher: LocalTeacher, window_W: Array) -> Said:
        """Return the exact hidden states on these held-out windows."""
        store = Store(
            self.place / "heldout", self.keeping.key("hidden", teacher.sha256, "float32", self.rows)
        )
        head = fit(teacher.head, self.rows)
        windows = self.text.held.take(window_W)
        self.keeping.fill(_Reader(teacher, head), windows, store, "capture of held-out text")
        # The teacher is cast later on; what is measured with stays as it was captured.
        kept = replace(head, weight_VT=head.weight_VT.clone())
        return of_windows(store, kept, window_W, self.text.held)

    def _train(self, teacher: LocalTeacher, window_W: Array) -> Said:
        """Return the teacher's signals on these training windows, of the mode that is asked for."""
        signal = self.run.signal
        if signal.mode in ("head_tail", "topk") and signal.head >= self.rows:
            raise MismatchError(
                f"signal.head is {signal.head}, but the vocabulary has only {self.rows} tokens; "
                "choose fewer."
            )
        head = signal.head if signal.mode in ("head_tail", "topk") else None
        tail = signal.tail if signal.mode in ("head_tail", "sampled") else None
        key = self.keeping.key(
            signal.mode, teacher.sha256, dtype_of(teacher), self.rows, head=head, tail=tail
        )
        store = Store(self.place / "train", key)
        fitted = fit(teacher.head, self.rows)
        self.keeping.fill(
            _Reader(teacher, fitted), self.text.train.take(window_W), store, "capture"
        )
        return of_windows(store, fitted, window_W, self.text.train)
