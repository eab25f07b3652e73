"""The bill of a run, from what its lessons, its steps and its evaluation say of themselves."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from distill.config import RunConfig
from distill.lessons.lesson import Lesson
from distill.papers import work
from distill.papers.bill import bill
from distill.papers.ledger import Line
from student.vocabulary import Vocabulary

Row = Mapping[str, Any]


def of_run(
    config: RunConfig,
    vocabulary: Vocabulary,
    lessons: Sequence[Lesson],
    metrics: Sequence[Row],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Return the bill as it stands in `eval.json`.

    Args:
        config: the run's.
        vocabulary: the student's.
        lessons: who taught, what they read, what was asked of servers.
        metrics: a row a step.
        seconds: wall time of each stage.
    """
    trained = int(metrics[-1]["tokens"])
    own = int(sum(row.get("own_tokens", 0) for row in metrics))
    tokens = {
        "trained on": trained,
        "captured": sum(one.tokens_read for one in lessons),
        "generated": own,
    }
    return bill(
        tokens={name: count for name, count in tokens.items() if count},
        work=[*_student(config, vocabulary, trained, own), *_teachers(config, lessons, own)],
        seconds=seconds,
        prices=config.prices,
        asked=[one.asked for one in lessons if one.asked is not None],
    )


def _student(config: RunConfig, vocabulary: Vocabulary, trained: int, own: int) -> list[Line]:
    length = config.text.sequence_length
    lines = [
        work.student_training(
            config.student,
            vocabulary.size,
            sequence_tokens=length,
            tokens=trained,
            recompute=config.train.recompute,
            routing_ahead=config.train.routing_delay > 0,
        )
    ]
    passes = [("evaluating", length // 2, 2 * config.evaluate.tokens)]
    if own:
        passes.append(("writing", config.rollout.max_new_tokens // 2, own))
    for doing, context, tokens in passes:
        lines.append(
            work.student_forward(
                config.student, vocabulary.size, context=context, tokens=tokens, doing=doing
            )
        )
    return lines


def _teachers(config: RunConfig, lessons: Sequence[Lesson], own: int) -> list[Line]:
    length = config.text.sequence_length
    reading = [one for one in lessons if one.path is not None]
    lines = [
        work.teacher_forward(
            one.config.name,
            one.shapes,
            json.loads((one.path / "config.json").read_text(encoding="utf-8")),
            sequence_tokens=length,
            # Each answer of the student's is read by the teachers of its tag; shares are equal
            # only where tags are, so it is counted once for each teacher that may read it.
            tokens=one.tokens_read + (own if one.live is not None else 0),
        )
        for one in reading
        if one.path is not None
    ]
    served = [one.asked for one in lessons if one.asked is not None]
    return lines + [work.served(asked.teacher, asked.read + asked.written) for asked in served]
