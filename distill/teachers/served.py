"""A served teacher in a run: seen before it is relied on, compared with itself where that can be.

What is asked of it lies in the run's signals: the preflight's table, the agreement with the same
model on disk, and the log of every answer, so that nothing is asked twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from audit import preflight
from audit.attest import digest, file_digest
from audit.endpoint import Endpoint
from audit.preflight import Need
from audit.spending import Spending
from distill import files
from distill.config import TeacherConfig
from distill.prices import Asked
from distill.session import Session
from distill.signals import Hidden, Signal
from distill.teachers import agreement
from distill.teachers.endpoint import EndpointTeacher
from distill.teachers.local import LocalTeacher

RESPONSES = "responses.jsonl"
_SEEN = "preflight.json"

# Tokens of the passages on which a teacher is compared with itself: a request each.
_SEQUENCES, _TOKENS = 2, 33


@contextmanager
def served(
    session: Session,
    config: TeacherConfig,
    tokenizer: Any,
    place: Path,
    token_BS: torch.Tensor | None = None,
) -> Iterator[EndpointTeacher]:
    """Open a served teacher, after it was found to give what the run needs of it.

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
    place.mkdir(parents=True, exist_ok=True)
    if token_BS is not None:
        token_BS = token_BS[:_SEQUENCES, :_TOKENS]
    _look(session, config, place, token_BS)
    with Endpoint(config.endpoint, place / RESPONSES) as endpoint:
        teacher = EndpointTeacher(config.name, endpoint, tokenizer, top=config.top)
        if config.agrees_with is not None and token_BS is not None:
            _agree(session, config, teacher, place, token_BS)
        yield teacher


def _look(
    session: Session, config: TeacherConfig, place: Path, token_BS: torch.Tensor | None
) -> None:
    """Require what the run needs of the server; the table is kept and made once."""
    assert config.endpoint is not None
    path, key = place / _SEEN, digest([asdict(config.endpoint), config.says])
    if files.read_json(path).get("key") == key:
        return
    session.say(f"{config.name}: some 25 small questions, to see what its server gives")
    log = place / "preflight.jsonl"
    log.unlink(missing_ok=True)  # an old answer would stand for a server that has changed
    with Endpoint(config.endpoint, log) as endpoint:
        ids = None if token_BS is None else token_BS[0].tolist()
        found = preflight.run(endpoint, tokens=ids, top=config.top)
        seen = {**asdict(found), "spent": asdict(endpoint.spent)}
    files.write_json(path, {"key": None, **seen})  # to be read where it is refused
    found.require(_needs(config))
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
            return ["prompt_logprobs"]


def _agree(
    session: Session,
    config: TeacherConfig,
    teacher: EndpointTeacher,
    place: Path,
    token_BS: torch.Tensor,
) -> None:
    """Refuse a server whose scores are not those of the model on disk that it should serve."""
    assert config.agrees_with is not None
    local = LocalTeacher(
        config.name, Path(config.agrees_with), device=session.device, dtype=torch.float32
    )

    def reference(token_BS: torch.Tensor) -> Signal:
        return Hidden(local.hidden(token_BS[:, :-1]).flatten(0, 1), local.head)

    found = agreement.self_test(teacher.score, reference, token_BS)
    files.write_json(place / "agreement.json", asdict(found))
    found.require(config.name, config.agreement)
    session.say(f"{config.name}: agrees with {config.agrees_with}, KL {found.kl:.2g} nats a token")


def asked_of(config: TeacherConfig, teacher: EndpointTeacher, place: Path) -> Asked:
    """Return what was asked of a served teacher, its preflight included, for the bill."""
    assert config.endpoint is not None
    before = files.read_json(place / _SEEN).get("spent")
    spent = teacher.endpoint.spent + (Spending(**before) if before else Spending())
    return Asked(
        teacher=config.name,
        read=spent.input_tokens,
        written=spent.output_tokens,
        input_tokens=config.endpoint.price_input,
        output_tokens=config.endpoint.price_output,
    )


def log_sha256(place: Path) -> str:
    """Return the digest of everything a served teacher answered."""
    path = place / RESPONSES
    return file_digest(path) if path.is_file() else digest([])
