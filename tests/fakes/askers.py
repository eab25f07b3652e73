"""Workers of one capture, each a process, that ask the teachers of a run."""

from pathlib import Path

import torch

from distill import prepare
from distill.config import RunConfig
from distill.files import write_json
from distill.lessons import written
from distill.session import Session
from distill.store.capture import Worker
from distill.text import student_tokenizer
from tests.fakes.runs import still


def _session(config: RunConfig, out: Path, rank: int, of: int, said: list[str]) -> Session:
    torch.set_num_threads(1)
    return Session(
        config=config,
        out=out,
        device=torch.device("cpu"),
        say=said.append,
        progress=still,
        worker=Worker(rank=rank, of=of),
    )


def gathers(config: RunConfig, out: Path, rank: int, of: int) -> None:
    """Gather what teachers write; leave what was said and the texts in `out`."""
    said: list[str] = []
    session = _session(config, out, rank, of, said)
    paths = [None if one.path is None else Path(one.path) for one in config.teachers]
    tokenizer, _ = student_tokenizer.load(config.text.tokenizer, paths)
    found = written.gather(session, tokenizer, paths, held=())
    texts = [document.text for document in found.documents]
    scored = {str(number): [row.tokens for row in rows] for number, rows in found.scored.items()}
    write_json(out / "found.json", {"texts": texts, "scored": scored, "said": said})


def captures(config: RunConfig, out: Path, rank: int, of: int) -> None:
    """Do all that comes before the first step; leave what was said in `out`."""
    said: list[str] = []
    prepare.prepare(_session(config, out, rank, of, said))
    write_json(out / "found.json", {"said": said})
