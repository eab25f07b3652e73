"""A served teacher in a run: seen before it is relied on, compared with itself where that can be.

What is asked of it lies in the run's signals: the preflight's table, the agreement with the same
model on disk, and the log of every answer, so that nothing is asked twice. Workers that share the
signals ask in turn, each finding what those before it were answered.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from audit import preflight
from audit.attest import digest, file_digest
from audit.endpoint import Endpoint
from audit.preflight import Need
from audit.question import EndpointConfig, Reply
from audit.spending import Spending
from distill import files
from distill.config import TeacherConfig
from distill.prices import Asked
from distill.session import Say, Session
from distill.signals import Hidden, Signal
from distill.store.chain import MANIFEST
from distill.store.store import Store
from distill.teachers import agreement
from distill.teachers.endpoint import EndpointTeacher
from distill.teachers.local import LocalTeacher

RESPONSES = "responses.jsonl"
_SEEN = "preflight.json"

_TURN = ".asking"

# Tokens of the passages on which a teacher is compared with itself: a request each.
_SEQUENCES, _TOKENS = 2, 33


@contextmanager
def turn(place: Path, name: str, say: Say) -> Iterator[None]:
    """Wait until no other process asks the one whose files are in `place`; do not take two turns.

    A killed process lets go by itself.
    """
    with files.turn(
        place / _TURN, lambda: say(f"{name}: another process is asking; waiting for it")
    ):
        yield


@contextmanager
def served(
    session: Session,
    config: TeacherConfig,
    tokenizer: Any,
    place: Path,
    token_BS: torch.Tensor | None = None,
) -> Iterator[EndpointTeacher]:
    """Open a served teacher in its turn, after it was found to give what the run needs of it.

    Args:
        session: of the run.
        config: the teacher's; has an endpoint.
        tokenizer: the student's.
        place: where its files are.
        token_BS: a little text, to see that it is scored; for a teacher that reads.

    Raises:
        EndpointError: it does not give that, or is gone.
        BudgetError: a limit of its config is reached.
        TeacherError: it disagrees with the model on disk that it should be.
    """
    assert config.endpoint is not None
    if token_BS is not None:
        token_BS = token_BS[:_SEQUENCES, :_TOKENS]
    with turn(place, config.name, session.say):
        _look(session, config, place, token_BS)
        with Endpoint(config.endpoint, place / RESPONSES) as endpoint:
            teacher = EndpointTeacher(config.name, endpoint, tokenizer, top=config.top)
            if config.agrees_with is not None and token_BS is not None:
                _agree(session, config, teacher, place, token_BS)
            yield teacher


def _look(
    session: Session, config: TeacherConfig, place: Path, token_BS: torch.Tensor | None
) -> None:
    """Require what the run needs of a teacher's server."""
    assert config.endpoint is not None
    ids = None if token_BS is None else token_BS[0].tolist()
    needs, say = _needs(config), session.say
    look(config.name, config.endpoint, needs, place, say, tokens=ids, top=config.top)


def look(
    name: str,
    asked: EndpointConfig,
    needs: Sequence[Need],
    place: Path,
    say: Say,
    *,
    tokens: Sequence[int] | None = None,
    top: int = 20,
) -> None:
    """Require these needs of a server; the table is kept in `place` and made once.

    Args:
        name: whose server it is.
        asked: where it is.
        needs: see `audit.preflight`.
        place: a directory of its own.
        say: told that it is looked at.
        tokens: ids of a little text, for a server that scores.
        top: likeliest tokens that are wanted at each place.

    Raises:
        EndpointError: it does not meet one, or is gone.
        BudgetError: a limit is reached.
    """
    path, key = place / _SEEN, digest([asdict(asked.lasting()), list(needs)])
    if files.read_json(path).get("key") == key:
        return
    say(f"{name}: some 25 small questions, to see what its server gives")
    log = place / "preflight.jsonl"
    log.unlink(missing_ok=True)  # an old answer would stand for a server that has changed
    with Endpoint(asked, log) as endpoint:
        found = preflight.run(endpoint, tokens=tokens, top=top)
        seen = {**asdict(found), "spent": asdict(endpoint.spent)}
    files.write_json(path, {"key": None, **seen})  # to be read where it is refused
    found.require(needs)
    files.write_json(path, {"key": key, **seen})


def _needs(config: TeacherConfig) -> list[Need]:
    asked_warm = config.answers is not None and config.answers.temperature > 0
    warm: list[Need] = ["sampling"] if asked_warm else []
    match config.says:
        case "text":
            return ["text", *warm]
        case "top_logprobs":
            return ["text", *warm, "top_logprobs", "raw_logprobs"]
        case "prompt_logprobs":
            writes: list[Need] = [] if config.answers is None else ["text", *warm]
            return [*writes, "prompt_logprobs"]


def _agree(
    session: Session,
    config: TeacherConfig,
    teacher: EndpointTeacher,
    place: Path,
    token_BS: torch.Tensor,
) -> None:
    """Refuse a server whose scores are not those of the model on disk, or of the store."""
    reference, token_BS = _reference(session, config, token_BS)
    found = agreement.self_test(teacher.score, reference, token_BS)
    files.write_json(place / "agreement.json", asdict(found))
    found.require(config.name, config.agreement)
    session.say(f"{config.name}: agrees with {config.agrees_with}, KL {found.kl:.2g} nats a token")


def _reference(
    session: Session, config: TeacherConfig, token_BS: torch.Tensor
) -> tuple[agreement.Score, torch.Tensor]:
    """Return what a server is compared with, and the sequences: a store has its own."""
    assert config.agrees_with is not None
    path = Path(config.agrees_with)
    if (path / MANIFEST).is_file() and not (path / "config.json").is_file():
        token_BS, said = agreement.kept(Store.open(path), sequences=_SEQUENCES, tokens=_TOKENS)
        return (lambda token_BS: said), token_BS
    local = LocalTeacher(config.name, path, device=session.device, dtype=torch.float32)

    def score(token_BS: torch.Tensor) -> Signal:
        return Hidden(local.hidden(token_BS[:, :-1]).flatten(0, 1), local.head)

    return score, token_BS


def asked_of(config: TeacherConfig, teacher: EndpointTeacher, place: Path) -> Asked:
    """Return what was asked of an open teacher, its preflight included, for the bill."""
    return _asked(config.name, teacher.endpoint, place)


def asked_so_far(name: str, asked: EndpointConfig, place: Path, say: Say) -> Asked:
    """Return what was asked of the server whose files are in `place`; takes a turn.

    Args:
        name: whose server it is.
        asked: where it is.
        place: as `served` and `look` were given it.
        say: told where another process is asking.
    """
    with turn(place, name, say), Endpoint(asked, place / RESPONSES) as endpoint:
        return _asked(name, endpoint, place)


def _asked(name: str, endpoint: Endpoint, place: Path) -> Asked:
    before = files.read_json(place / _SEEN).get("spent")
    spent = endpoint.spent + (Spending(**before) if before else Spending())
    return Asked(
        teacher=name,
        read=spent.input_tokens,
        written=spent.output_tokens,
        input_tokens=endpoint.config.price_input,
        output_tokens=endpoint.config.price_output,
    )


def cut_short(endpoint: Endpoint) -> int:
    """Return how many answers of the log ended at their limit, as the server says."""
    places = enumerate(endpoint.log, 1)
    replies = (Reply(body=json.loads(e.body), line=line, entry=e) for line, e in places)
    return sum(reply.finish_reason == "length" for reply in replies)


def log_sha256(place: Path) -> str:
    """Return the digest of everything a served teacher answered."""
    path = place / RESPONSES
    return file_digest(path) if path.is_file() else digest([])
