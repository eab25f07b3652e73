"""What teachers write for the student to learn from: answers to the run's prompts.

Text alone is read like any other text. A server that gives its likeliest tokens beside the text is
heard twice: its answers are the text, and what it held likely at each place is the signal. Workers
that share the signals ask in turn, so each finds what the first of them was answered.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from audit.attest import digest, file_digest
from distill import files
from distill.config import AnswersConfig, TeacherConfig
from distill.errors import InputError
from distill.lessons.scored import Scored, learnt
from distill.materials import material
from distill.rollout import rejection
from distill.rollout.config import Anything
from distill.rollout.rejection import Question, Summary
from distill.session import Session
from distill.teachers.endpoint import EndpointTeacher
from distill.teachers.local import LocalTeacher, write
from distill.teachers.served import cut_short, log_sha256, served, turn
from distill.text import chat, sources
from distill.text.sources import Document

_ACCEPTED = "accepted.jsonl"
# Not the run's: runs that share signal.path share what teachers wrote, as they share signals.
_SEED = 0


def questions(config: AnswersConfig) -> list[Question]:
    """Return the prompts a teacher is asked, with references where answers are checked.

    Raises:
        InputError: the file cannot be read, or a row lacks what is needed.
    """
    checked = not all(isinstance(one, Anything) for one in config.select.checkers)
    return rejection.read_questions(Path(config.prompts), answered=checked)


@dataclass(frozen=True, slots=True)
class LocalWriter:
    """A teacher on disk that answers."""

    teacher: LocalTeacher
    config: AnswersConfig

    def write(self, prompts: Sequence[str], seed: int) -> list[str]:
        """Return an answer to each prompt; the same ones for the same prompts and seed."""
        begun = [_begun(self.teacher.tokenizer, prompt, self.config) for prompt in prompts]
        config = self.config
        return write(self.teacher, begun, config.max_new_tokens, config.temperature, seed=seed)

    def effort(self, asked: Sequence[Question], out: Path) -> "Effort":
        """Return what the answers in `out` took, by the teacher's tokenizer.

        It cuts a text anew, maybe into fewer tokens than were drawn; an end token counts as one.
        """
        tokenizer, most = self.teacher.tokenizer, self.config.max_new_tokens
        bos = tokenizer.bos_token_id  # which `write` puts before what does not begin with it
        begun = [_begun(tokenizer, one.prompt, self.config) for one in asked]
        prompts = dict(zip((q.id for q in asked), _lengths(tokenizer, begun, bos), strict=True))
        answers = rejection.answered(out)[: self.config.select.samples * len(asked)]
        lengths = _lengths(tokenizer, [answer.response for answer in answers])
        return Effort(
            cut=sum(length >= most for length in lengths),
            read=sum(prompts[answer.id] for answer in answers),
            written=sum(min(length + 1, most) for length in lengths),
        )


def _lengths(tokenizer: Any, texts: list[str], bos: int | None = None) -> list[int]:
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [len(row) + (bos is not None and row[:1] != [bos]) for row in rows]


@dataclass(frozen=True, slots=True)
class ServedWriter:
    """A served teacher that answers; the server puts prompts into its own template."""

    teacher: EndpointTeacher
    config: AnswersConfig

    def write(self, prompts: Sequence[str], seed: int) -> list[str]:
        """Return an answer to each prompt; those in the log come from there."""
        config = self.config
        # Servers take seeds of 32 bits; one that honours none still gives what its log has.
        return self.teacher.answer(
            prompts,
            max_tokens=config.max_new_tokens,
            temperature=config.temperature,
            seed=seed % 2**31,
        )

    def effort(self, asked: Sequence[Question], out: Path) -> "Effort":
        """Return what the log says; of tokens the server keeps count itself."""
        return Effort(cut=cut_short(self.teacher.endpoint))


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """What answers took.

    Attributes:
        cut: of them, those that ended at `max_new_tokens`.
        read: tokens of prompts, each as often as it was answered; 0 of a served teacher.
        written: tokens of answers; 0 of a served teacher.
    """

    cut: int
    read: int = 0
    written: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """What became of a teacher's answers in one run; `asked` is the sum of the four that follow.

    Attributes:
        sha256: of the file of those that were kept, or of the log of a server that scored them.
        asked: answers.
        kept: that the student learns from.
        rejected: that no checker accepts, or that say nothing.
        spare: accepted, but the same as another, or more than a prompt may have.
        dropped: scored ones whose prompt leaves no room in a window.
        cut: of all, those cut short: at `max_new_tokens`, at a token that the student does not
            have, or at a window's end.
        read: tokens a teacher on disk read for them.
        written: tokens a teacher on disk wrote.
    """

    sha256: str
    asked: int
    kept: int
    rejected: int
    spare: int = 0
    dropped: int = 0
    cut: int = 0
    read: int = 0
    written: int = 0

    def in_words(self) -> str:
        """Return the counts as a phrase; what there was none of is left out."""
        counts = {
            "kept": self.kept,
            "rejected": self.rejected,
            "spare": self.spare,
            "without room in a window": self.dropped,
            "cut short": self.cut,
        }
        said = [f"{count:,} {name}" for name, count in counts.items() if count or name == "kept"]
        return f"{self.asked:,} answers: {', '.join(said)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What all teachers wrote.

    Attributes:
        documents: of the training side.
        scored: by the number of the teacher.
    """

    documents: list[Document]
    scored: dict[int, list[Scored]]


def gather(session: Session, tokenizer: Any, paths: Sequence[Path | None]) -> Written:
    """Return what the teachers that write have written, asking for what is not on disk.

    Args:
        session: of the run; what another run with its signal.path was told is not asked again.
        tokenizer: the student's.
        paths: of the teachers on disk, None for the served.

    Raises:
        InputError: a prompt file cannot be used, or no answer was accepted.
        TeacherError, EndpointError, BudgetError: a teacher cannot be asked.
    """
    found, scored = [], {}
    for number, (config, path) in enumerate(zip(session.config.teachers, paths, strict=True)):
        place = session.place(config.name)
        if config.answers is None:
            continue
        if path is not None:
            teacher = LocalTeacher(config.name, path, device=session.device, dtype=torch.float32)
            writer = LocalWriter(teacher, config.answers)
            sha256 = teacher.sha256
            with turn(place, config.name, session.say):
                found += documents(session, config, writer, place, teacher_sha256=sha256)
            continue
        assert config.endpoint is not None
        with served(session, config, tokenizer, place) as asked:
            if config.says == "top_logprobs":
                scored[number] = _with_top(session, config, asked, tokenizer)
                continue
            sha256 = digest([config.endpoint.base, config.endpoint.model, config.endpoint.system])
            answering = ServedWriter(asked, config.answers)
            found += documents(session, config, answering, place, teacher_sha256=sha256)
    return Written(documents=found, scored=scored)


def _with_top(
    session: Session, config: TeacherConfig, teacher: EndpointTeacher, tokenizer: Any
) -> list[Scored]:
    """Return one answer to each prompt with the teacher's likeliest tokens."""
    assert config.answers is not None
    answers = config.answers
    asked = questions(answers)
    found = teacher.answer_with_top(
        [question.prompt for question in asked],
        max_tokens=answers.max_new_tokens,
        temperature=answers.temperature,
        seed=_SEED,
        tell=lambda done, total: session.progress("answers", done, total, config.name),
    )
    rows, kept, cut = [], 0, 0
    length = session.config.text.sequence_length
    for question, answer in zip(asked, found, strict=True):
        ids = tokenizer(_begun(tokenizer, question.prompt, answers), add_special_tokens=False)
        prompt = ids["input_ids"]
        if prompt[:1] != [tokenizer.bos_token_id]:
            prompt = [tokenizer.bos_token_id, *prompt]
        if not answer.tokens:
            continue
        row = Scored(tokens=(*prompt, *answer.tokens), first=len(prompt), signal=answer.signal)
        rows.append(row)
        room = learnt(row, length)
        kept += room > 0
        cut += room < len(answer.tokens) or answer.cut > 0 or not answer.finished
    if not rows:
        raise InputError(f"{answers.prompts}: {config.name!r} answered nothing to any prompt.")
    tally = Tally(
        sha256=log_sha256(session.place(config.name)),
        asked=len(asked),
        kept=kept,
        rejected=len(asked) - len(rows),
        dropped=len(rows) - kept,
        cut=cut,
    )
    _keep(session, config, tally)
    return rows


def _begun(tokenizer: Any, prompt: str, config: AnswersConfig) -> str:
    if config.form == "text":
        return prompt
    return chat.begin(tokenizer, ({"role": "user", "content": prompt},))


def documents(
    session: Session,
    config: TeacherConfig,
    writer: LocalWriter | ServedWriter,
    place: Path,
    *,
    teacher_sha256: str,
) -> list[Document]:
    """Return what is kept of a teacher's answers, asking for those that are not on disk.

    Args:
        session: of the run.
        config: the teacher's; has answers.
        writer: who answers.
        place: of the teacher's files.
        teacher_sha256: of the teacher.

    Raises:
        InputError: no answer was accepted.
        MismatchError: answers on disk are of another teacher, prompts or settings.
        StorageError: the disk refused.
    """
    assert config.answers is not None
    answers = config.answers
    out = place / "answers"
    asked = questions(answers)
    summary = rejection.sample(
        asked,
        writer,
        answers.select,
        out,
        teacher_sha256=digest(
            [teacher_sha256, answers.form, answers.max_new_tokens, answers.temperature]
        ),
        seed=_SEED,
        progress=lambda done, total: session.progress("answers", done, total, config.name),
    )
    if not summary.kept:
        raise InputError(
            f"{answers.prompts}: none of the {summary.answers} answers of {config.name!r} was "
            f"accepted; look at {out / 'answers.jsonl'} and the checkers."
        )
    tally = _tally(summary, writer.effort(asked, out), file_digest(out / _ACCEPTED))
    without = f"; {summary.prompts_without:,} of {summary.prompts:,} prompts without one"
    _keep(session, config, tally, without)
    found = sources.load([str(out / _ACCEPTED)])
    return found if answers.form == "chat" else [_plain(document) for document in found]


def _plain(document: Document) -> Document:
    """Return a question and its answer as one text."""
    text = "".join(str(message["content"]) for message in document.messages)
    return replace(document, text=text, messages=())


def _tally(summary: Summary, effort: Effort, sha256: str) -> Tally:
    return Tally(
        sha256=sha256,
        asked=summary.answers,
        kept=summary.kept,
        rejected=summary.answers - summary.accepted,
        spare=summary.accepted - summary.kept,
        **asdict(effort),
    )


def _keep(session: Session, config: TeacherConfig, tally: Tally, more: str = "") -> None:
    """Say what became of the answers, and leave it for the record."""
    session.say(f"{config.name}: {tally.in_words()}{more}")
    files.write_json(_tally_file(session, config), asdict(tally))


def _tally_file(session: Session, config: TeacherConfig) -> Path:
    # The run's own: of the same answers another run, with other windows, may lose others.
    return session.out / "answers" / f"{session.place(config.name).name}.json"


def tally(session: Session, config: TeacherConfig) -> Tally | None:
    """Return what became of a teacher's answers in this run; None for one that wrote none."""
    if config.answers is None:
        return None
    return Tally(**files.read_json(_tally_file(session, config)))


def wrote(session: Session, config: TeacherConfig) -> tuple[int, int] | None:
    """Return the tokens a teacher on disk read and wrote for its answers, once they are there."""
    found = tally(session, config)
    return None if found is None or config.path is None else (found.read, found.written)


def line(session: Session, config: TeacherConfig) -> dict[str, str] | None:
    """Return the record's line of a teacher's answers; None for one that wrote none."""
    found = tally(session, config)
    if found is None:
        return None
    name = f"answers, {config.name}"
    return material(name, "answers a teacher wrote", found.sha256, found.in_words())
