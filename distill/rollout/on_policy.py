"""A course of which the student writes a share itself, and its teachers read that.

On-policy distillation (Agarwal et al., arXiv 2306.13649, algorithm 1): of each step's rows some
are text, as `batches.Reading` gives it, and the others the student's own answers to prompts.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from distill.batches import Batch, Part, Reading
from distill.rollout.rollouts import Rollout, Rollouts
from distill.rollout.scoring import Council


class OnPolicy:
    """The batches of a run in which the student answers; see `train.Course`.

    Steps have to be taken in order, with the weights of the step before: not for a course that is
    asked ahead, as delayed routing does.
    """

    def __init__(
        self, rollouts: Rollouts, council: Council, reading: Reading | None, *, rows: int
    ) -> None:
        """Take `rows` windows of `reading` a step, none without it, and the rollouts' own rows.

        Steps before the first with rollouts take all windows that `reading` gives a step.
        """
        self.rollouts = rollouts
        self.council = council
        self.reading = reading
        self.rows = rows

    def batch(self, step: int) -> Batch:
        """Return the batch of `step` (from 1): the text first, then the student's answers."""
        before = self.rollouts.config.first_step - 1
        if self.reading is not None and step <= before:
            return replace(self.reading.batch(step), facts=_facts(0, 0))
        own = self._own(self.rollouts.at(step - before))
        if self.reading is None or self.rows == 0:
            return own
        return joined([self.reading.batch(step, self.rows), own])

    def _own(self, written: Rollout) -> Batch:
        text = written.text
        began = time.perf_counter()
        parts = self.council.parts(text, written.tags)
        tokens = text.split()
        return Batch(
            token_N=torch.cat([row[:-1] for row in tokens]),
            lengths=tuple(text.length_B.tolist()),
            label_N=torch.cat([row[1:] for row in tokens]),
            parts=parts,
            spent={"generation": written.seconds, "teacher": time.perf_counter() - began},
            facts=_facts(len(written.tags), sum(len(part.at_M) for part in parts))
            | {"staleness": float(written.staleness)},
        )


def _facts(rows: int, tokens: int) -> dict[str, float]:
    return {"own_rows": float(rows), "own_tokens": float(tokens)}


def joined(batches: Sequence[Batch]) -> Batch:
    """Return one batch of all documents of `batches`, in order."""
    parts: list[Part] = []
    spent: dict[str, float] = {}
    facts: dict[str, float] = {}
    first = 0
    for batch in batches:
        parts += [Part(at_M=p.at_M + first, voices=p.voices, own=p.own) for p in batch.parts]
        for name, seconds in batch.spent.items():
            spent[name] = spent.get(name, 0.0) + seconds
        facts |= batch.facts
        first += len(batch.token_N)
    return Batch(
        token_N=torch.cat([batch.token_N for batch in batches]),
        lengths=tuple(length for batch in batches for length in batch.lengths),
        label_N=torch.cat([batch.label_N for batch in batches]),
        parts=tuple(parts),
        spent=spent,
        facts=facts,
    )
