"""Finished audits and validations on disk, made by the real thing from a few words."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from audit.config import AuditConfig
from audit.errors import AuditError, InputError
from audit.lineup.ruling import Rules
from audit.probe import Outcome, probe
from audit.response_log import key_of
from audit.statement import statement, subjects, write
from audit.validate import validate
from tests.fakes import banks, lineups


class Listener:
    """What an audit said, and the stages of its progress."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.said: list[str] = []
        self.stages: list[str] = []

    def say(self, sentence: str) -> None:
        """Keep a sentence."""
        self.said.append(sentence)

    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        """Keep a stage."""
        assert 0 <= done <= total
        if stage not in self.stages:
            self.stages.append(stage)


def carry_out(config: AuditConfig, out: Path, listener: Listener | None = None) -> Outcome:
    """Carry out an audit in this process."""
    heard = listener or Listener()
    return probe(config, out, command="audit probe", say=heard.say, progress=heard.progress)


def refusal(config: AuditConfig, out: Path, kind: type[AuditError] = InputError) -> str:
    """Carry out an audit that must be refused; return the one sentence that says why."""
    with pytest.raises(kind) as caught:
        carry_out(config, out)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def answers_file(path: Path, said: Sequence[str], ids: Sequence[int] | None = None) -> str:
    """Write what a model said to prompts of equal ids; return where."""
    places = range(len(said)) if ids is None else ids
    rows = [
        {"id": f"p{i}", "prompt": f"prompt {i}", "response": text, "document": f"d{i // 4}"}
        for i, text in zip(places, said, strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def words(seed: int, count: int = 24) -> list[str]:
    """Return that many answers of ten words each."""
    random = np.random.default_rng(seed)
    return [" ".join(f"w{n}" for n in random.integers(0, 50, 10)) for _ in range(count)]


def answered(work: Path, *, references: int = 3) -> Path:
    """Carry out an audit of answers in `work`; return its directory."""
    work.mkdir(parents=True, exist_ok=True)
    config = AuditConfig(
        suspect=answers_file(work / "suspect.jsonl", words(0)),
        teachers={"T": answers_file(work / "teacher.jsonl", words(0))},
        reference_models={
            f"r{i}": answers_file(work / f"r{i}.jsonl", words(i + 1)) for i in range(references)
        },
    )
    out = work / "audit"
    carry_out(config, out)
    return out


def validated(work: Path) -> Path:
    """Validate a bank of a few models in `work`; return the directory of the validation."""
    people = [*lineups.teachers(5, 1), *lineups.unrelated(6)]
    said = {p.name: {f"q{n}": lineups.answer(p, n, 0) for n in range(25)} for p in people}
    labels = {person.name: person.labels for person in people}
    groups = {f"g{n}": {"vendor": f"v{n}", "public_launch": ""} for n in range(5)}
    bank = banks.write(work / "bank", said, labels=labels, groups=groups)
    out = work / "validation"
    validate(
        bank, out, rules=Rules(), least_prompts=20, cache=None, say=_silent, progress=_silent
    )  # fmt: skip
    return out


def add_log(audit: Path, answers: int = 3) -> Path:
    """Give a finished audit a log of a served model, as it would have one; return the log."""
    log = audit / "responses" / "responses.jsonl"
    log.parent.mkdir(exist_ok=True)
    url = "http://127.0.0.1:1/v1"
    with log.open("w") as stream:
        for sample in range(answers):
            asked = {"path": "completions", "body": {"temperature": 1.0}, "sample": sample}
            row = {"key": key_of(url, asked), "url": url, "asked": asked, "body": "{}"}
            stream.write(json.dumps(row) + "\n")
    restate(audit)
    return log


def restate(audit: Path) -> None:
    """Write the statement of `audit` anew, as somebody who changes it on purpose would."""
    value = json.loads((audit / "statement.json").read_bytes())
    value["predicate"].pop("spiritsafe_sha256")
    write(audit, statement(subjects(audit), value["predicateType"], value["predicate"]))


def _silent(*told: object) -> None:
    return None
