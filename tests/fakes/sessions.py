"""Runs of a second with every kind of teacher, what they said, and what they left."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from audit.question import EndpointConfig
from distill.config import AnswersConfig, RunConfig, TeacherConfig
from distill.heads import logits
from distill.loss.objective import ChunkLikelihood, CrossEntropy
from distill.run import Outcome, run
from distill.session import Session
from distill.signals import Signal
from distill.store import shard
from distill.store.store import Store
from distill.teachers.local import LocalTeacher
from distill.terms import Terms
from distill.text.corpus import Windows
from tests.fakes.endpoints import TINY, Server
from tests.fakes.runs import still
from tests.fakes.teachers import (
    byte_pairs,
    documents_file,
    sentences,
    tiny_config,
    tiny_teacher,
)

CPU = torch.device("cpu")
OBLIGATION = "Name the teacher beside the student."
TERMS = Terms(
    owner="Somebody",
    url="https://example.org/terms",
    retrieved="2026-11-01",
    sha256="a" * 64,
    permits_training=True,
    obligations=(OBLIGATION,),
)


@dataclass(frozen=True, slots=True)
class Said:
    """Sentences a run says, in order."""

    sentences: list[str] = field(default_factory=list)

    def __call__(self, sentence: str) -> None:
        """Take one."""
        self.sentences.append(sentence)


def small_config(directory: Path, **changes: Any) -> RunConfig:
    """Return `tiny_config` on a text of a dozen documents."""
    if not (directory / "text.jsonl").is_file():
        documents_file(directory / "text.jsonl", count=12, length=8)
    return tiny_config(directory, **changes)


def called(place: Path, name: str, **changes: Any) -> TeacherConfig:
    """Return the teacher in the directory of this name."""
    stated = small_config(place).teachers[0]
    return replace(stated, name=name, path=str(place / name), **changes)


def across(place: Path, **changes: Any) -> RunConfig:
    """Return a run of a teacher with another tokenizer than the student's, heard by chunks."""
    text = replace(small_config(place).text, tokenizer=str(place / "teacher"))
    loss = ChunkLikelihood(temperature=10.0), CrossEntropy(weight=0.1)
    stated = {"teachers": (called(place, "stranger"),), "text": text, "loss": loss}
    return small_config(place, **stated | changes)


def session(config: RunConfig, out: Path, say: Said | None = None, **changes: Any) -> Session:
    """Return a session of `config` in `out`, on the CPU."""
    heard = Said() if say is None else say
    return Session(config=config, out=out, device=CPU, say=heard, progress=still, **changes)


def carried_out(config: RunConfig, out: Path, say: Said | None = None) -> Outcome:
    """Carry out a run."""
    return run(config, out, say=Said() if say is None else say, progress=still)


def metrics(out: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's steps."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def rows_file(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write JSON Lines; return `path`."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tagged_file(path: Path, tags: str, each: int = 6) -> Path:
    """Write documents of which each of `tags`, a letter each, has `each`; return `path`."""
    pairs = [(tag, number) for number in range(each) for tag in tags]
    rows = [{"text": sentences(8, 100 * ord(tag) + n), "tag": tag} for tag, n in pairs]
    return rows_file(path, rows)


def prompts_file(path: Path, count: int = 6, **more: Any) -> Path:
    """Write `count` prompts with what else each row should have; return `path`."""
    return rows_file(path, [{"prompt": sentences(1, n), **more} for n in range(count)])


def answers(prompts: Path, **changes: Any) -> AnswersConfig:
    """Return how a teacher answers: six tokens, the likeliest."""
    how: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0.0}
    return AnswersConfig(prompts=str(prompts), **how | changes)


def served_teacher(server: Server, *, api: Any = "completions", **changes: Any) -> TeacherConfig:
    """Return the teacher that `server` serves; it is asked once and not again after a failure."""
    asked = EndpointConfig(url=server.url, model=TINY, api=api, retries=0)
    stated: dict[str, Any] = {"name": "far", "endpoint": asked, "owned": True}
    return TeacherConfig(**stated | changes)


def with_tokenizer(config: RunConfig, path: Path) -> RunConfig:
    """Return the config with the tokenizer in `path` for the student."""
    return replace(config, text=replace(config.text, tokenizer=str(path)))


def stranger(path: Path) -> Path:
    """Write a teacher whose tokenizer cuts the same bytes otherwise; return `path`."""
    tiny_teacher(path, seed=5, vocab=300)
    byte_pairs([sentences(60, seed=77), sentences(60, seed=78).upper()], 300).save_pretrained(path)
    return path


def texts(store: Store, tokenizer: Any) -> list[str]:
    """Return what the sequences of a store say, in order."""
    shards = [shard.decode_text(store.key, store.load(n)) for n in range(len(store.shards))]
    return [tokenizer.decode(row) for one in shards for row in one.split()]


def spoken(path: Path, windows: Windows, name: str = "teacher") -> torch.Tensor:
    """Return the log-probabilities `[N, V]` of the model in `path` at all positions of windows.

    Each stretch of context is read by itself, so nothing but the model decides them.
    """
    teacher = LocalTeacher(name, path, device=CPU, dtype=torch.float32)
    token_N = torch.from_numpy(windows.tokens[:, :-1].astype("int64")).flatten()
    states = [teacher.hidden(part[None])[0] for part in token_N.split(list(windows.lengths()))]
    with torch.inference_mode():
        return logits(torch.cat(states), teacher.head).log_softmax(-1)


def everywhere(source: Any, rows: Any, windows: Windows) -> Signal:
    """Return what a source says at all positions of windows, which it has to have."""
    count, length = windows.weights.shape
    window_N = torch.arange(count).repeat_interleave(length).numpy()
    row_N = rows.of(window_N, torch.arange(length).repeat(count).numpy())
    assert (row_N >= 0).all()
    return source.at(torch.from_numpy(row_N), CPU)
