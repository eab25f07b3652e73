"""The course of a run: its text, and where asked for the student's own answers, as batches."""

from collections.abc import Sequence
from typing import Any

from audit import strict_yaml
from audit.attest import digest
from distill.batches import Reading
from distill.lessons.curriculum import Text, shares
from distill.lessons.lesson import Lesson, routes
from distill.rollout import rollouts, served
from distill.rollout.on_policy import OnPolicy
from distill.rollout.rollouts import Prompt, Rollouts, StudentWriter, Writer
from distill.rollout.scoring import Council, route
from distill.rollout.writings import Writings
from distill.session import Session
from distill.train import Course
from student.model import Student


def course(
    session: Session, text: Text, lessons: Sequence[Lesson], student: Student, tokenizer: Any
) -> Course:
    """Return the batches of a run.

    Raises:
        MismatchError: a tag has no teacher, or answers on disk are of another run.
        InputError: the student is to answer, and the text has no prompt, or one too long.
        EndpointError, BudgetError: a server is to answer in its place, and cannot be asked.
    """
    config = session.config
    said = [one.train for one in lessons]
    reading = Reading(
        text.train,
        routes(said, shares(config, text, text.train)),
        size=config.train.batch_size,
        seed=config.seed,
    )
    own = config.rollout.rows(config.train.batch_size)
    if not own:
        return reading
    live = [one for one in lessons if one.live is not None]
    teachers = [one.live for one in live if one.live is not None]
    prompts = rollouts.prompts(
        text.train_documents,
        tokenizer,
        tags=text.tags,
        length=config.rollout.prompt_tokens,
        longest=config.student.max_position_embeddings - config.rollout.max_new_tokens,
    )
    routed = route([prompt.tag for prompt in prompts], [one.config for one in live])
    council = Council(
        teachers,
        routed,
        vocab_size=student.vocabulary.size,
        estimator=config.rollout.estimator,
        device=session.device,
    )
    stated = strict_yaml.dump(config.lasting())
    run_sha256 = digest([stated, text.sha256, *(one.sha256 for one in lessons)])
    asked = config.rollout.endpoint
    key = rollouts.key(
        prompts,
        run_sha256,
        student.vocabulary.size,
        writer="student" if asked is None else asked.model,
    )
    answers = Rollouts(
        prompts,
        config.rollout,
        _writer(session, prompts, student, tokenizer),
        Writings(session.out / "rollouts", key),
        size=own,
        seed=config.seed,
    )
    return OnPolicy(answers, council, reading, rows=config.train.batch_size - own)


def _writer(
    session: Session, prompts: Sequence[Prompt], student: Student, tokenizer: Any
) -> Writer:
    """Return whoever answers: the student, or the server that the run file names."""
    if session.config.rollout.endpoint is None:
        return StudentWriter(student, session.config.rollout)
    return served.writer(session, prompts, tokenizer, student.vocabulary)
