"""Reports and run records with realistic numbers, made from a seed, for the tests of the pages."""

import random
from typing import Any

from audit.evidence import (
    Contrast,
    Controls,
    Exhibit,
    Finding,
    Material,
    Member,
    NotRun,
    Power,
    ProbeResult,
    PromptRow,
    Replication,
    Report,
    Suspect,
    Verdict,
)

SHA = "9f2c" * 16
LONG = (
    "A list comprehension builds a new list by applying an expression to each item of an iterable. "
    "It reads left to right: what to keep, where it comes from, and, if you like, a condition.\n\n"
    "    squares = [n * n for n in range(10) if n % 2 == 0]\n\n"
    "Use it when the whole list is wanted at once; a generator is the better choice for a stream."
)


def probe(
    verdict: Verdict = Verdict.SUPPORTED,
    *,
    name: str = "prompt-matched contrast",
    shift: float = 2.3,
    prompts: int = 200,
    references: int = 38,
    exhibits: int = 2,
    text: str = LONG,
    seed: int = 7,
) -> ProbeResult:
    """Return a probe with a population, contrasts, per-prompt values and exhibits."""
    rng = random.Random(seed)
    people = [
        Member(name="student-b-v1", role="suspect", score=round(shift, 4)),
        *(
            Member(name=f"control-{i}", role="control", score=round(rng.gauss(0.1, 0.6), 4))
            for i in range(5)
        ),
        *(
            Member(name=f"reference-{i:02d}", role="reference", score=round(rng.gauss(0, 0.8), 4))
            for i in range(references)
        ),
    ]
    rows = []
    for _ in range(prompts):
        others = rng.gauss(0.21, 0.05)
        rows.append(
            PromptRow(
                id=f"{rng.getrandbits(48):012x}",
                suspect=round(others + rng.gauss(0.025 * shift, 0.06), 4),
                others=round(others, 4),
            )
        )
    contrasts = []
    for i in range(6):
        mean = rng.gauss(0.03 * shift, 0.02)
        contrasts.append(
            Contrast(
                against=f"sibling-{i}-on-the-same-base-weights",
                mean=round(mean, 4),
                low=round(mean - 0.03, 4),
                high=round(mean + 0.03, 4),
                p_value=round(rng.uniform(0.0001, 0.02), 5),
            )
        )
    return ProbeResult(
        probe=name,
        needs="text",
        verdict=verdict,
        reason="The openings of the suspect's answers are nearer to the teacher's than those of "
        "any reference model.",
        null="The suspect is exchangeable with reference models that never saw the teacher; its "
        "rank among them is then uniform.",
        unit="difference in log-likelihood, nats per token",
        n_prompts=prompts,
        score=round(shift, 4),
        low=round(shift - 0.41, 4),
        high=round(shift + 0.39, 4),
        p_value=0.0227,
        rank=1,
        rank_of=references + 6,
        replication=(
            Replication(unit="prompts", n=prompts, test="paired t", p_value=3.1e-09),
            Replication(unit="documents", n=61, test="cluster bootstrap", p_value=0.0004),
            Replication(unit="runs", n=1, test="not possible with one run", p_value=None),
        ),
        contrasts=tuple(contrasts),
        population=tuple(people),
        prompts=tuple(rows),
        exhibits=tuple(
            Exhibit(
                id=f"{i:012x}",
                prompt="What is a list comprehension, and when is it the wrong tool?",
                answers={"student-b-v1": text, "teacher-a": text[:260], "control-0": text[40:]},
                note="Among the five prompts with the largest difference.",
            )
            for i in range(exhibits)
        ),
        cannot_say=("Whether the answers came by way of another model trained on the teacher.",),
    )


def insufficient() -> ProbeResult:
    """Return a probe that had too little to work on."""
    return ProbeResult(
        probe="shared errors",
        needs="text",
        verdict=Verdict.INSUFFICIENT,
        reason="Only 9 prompts have a checkable answer that the teacher gets wrong.",
        null="Errors fall independently given the difficulty of the prompt.",
        unit="excess agreement on wrong answers",
        n_prompts=9,
        would_need="about 40 prompts with a checkable wrong answer",
    )


def finding(
    verdict: Verdict = Verdict.SUPPORTED,
    *,
    suspect: str = "student-b-v1",
    teacher: str = "teacher-a",
    probes: tuple[ProbeResult, ...] | None = None,
) -> Finding:
    """Return a finding whose numbers suit its verdict."""
    if verdict is Verdict.INSUFFICIENT:
        return Finding(
            suspect=suspect, teacher=teacher, group=teacher, verdict=verdict, relation="",
            reason="No probe had enough material.", score=None, low=None, high=None, rank=None,
            p_value=None, p_adjusted=None, log10_lr=None, log10_lr_low=None,
            probes=(insufficient(),),
        )  # fmt: skip
    high = verdict is Verdict.SUPPORTED
    return Finding(
        suspect=suspect,
        teacher=teacher,
        group=teacher,
        verdict=verdict,
        reason="Scores above every reference model in both views."
        if high
        else "Scores within the range of the reference models.",
        relation="distilled or served otherwise: not separated" if high else "no relation found",
        score=2.3 if high else 0.417,
        low=1.912 if high else 0.031,
        high=2.733 if high else 0.809,
        rank=1 if high else 14,
        p_value=0.0227 if high else 0.318,
        p_adjusted=0.0454 if high else 0.636,
        log10_lr=1.534 if high else -0.712,
        log10_lr_low=0.884 if high else -1.105,
        probes=probes
        if probes is not None
        else (probe(verdict, shift=2.3 if high else 0.417), insufficient()),
    )


def report(**changes: Any) -> Report:
    """Return a whole report; `changes` replaces its fields."""
    fields: dict[str, Any] = {
        "tool": "spiritsafe 0.1.0",
        "created": "2026-11-21T09:30:00Z",
        "suspect": Suspect(
            name="student-b-v1", kind="responses file", sha256=SHA, reference="base-b-v0"
        ),
        "propositions": (
            "The suspect's answers derive from models of the teacher's group.",
            "They do not; likeness comes from common data, a common era or a common style.",
        ),
        "settings": {"alpha": 0.05, "seed": 0, "correction": "holm", "views": ["openings", "full"]},
        "findings": (finding(), finding(Verdict.NOT_SUPPORTED, teacher="teacher-c")),
        "controls": Controls(
            description="Five models trained on text written by people, with the same recipe.",
            findings=(
                finding(Verdict.NOT_SUPPORTED, suspect="control-0", probes=()),
                finding(Verdict.INCONCLUSIVE, suspect="control-1", probes=()),
            ),
            matched=("base weights", "prompts and decoding", "length of training"),
            unmatched=("training text",),
        ),
        "power": (
            Power(
                probe="prompt-matched contrast", n_prompts=200, smallest_effect=0.34,
                unit="score", note="200 prompts and 38 references.",
            ),
            Power(
                probe="shared errors", n_prompts=9, smallest_effect=None, unit="score",
                note="About 40 prompts with a checkable wrong answer.",
            ),
        ),
        "not_run": (
            NotRun(
                probe="weights", reason="The suspect is a file of answers.",
                would_need="The suspect's weights.",
            ),
            NotRun(
                probe="watermark", reason="The teacher's key was not given.",
                would_need="The teacher's cooperation.",
            ),
        ),
        "materials": (
            Material(name="answers.jsonl", kind="suspect responses", sha256=SHA),
            Material(name="teacher-a.jsonl", kind="teacher responses", sha256=SHA, note="one run"),
        ),
        "limits": ("One sample an answer.", "Prompts are in English only."),
        "command": "audit probe --suspect answers.jsonl --teacher teacher-a=teacher-a.jsonl "
        "--bank bank --out out",
        "packages": {"numpy": "2.4.0", "pydantic": "2.14.3"},
    }  # fmt: skip
    return Report(**{**fields, **changes})
