"""The shape of `manifest.json`, which is checked when a run is looked at.

A run of `spiritsafe.run/2` was made before runs had statements and canonical bytes; it is read all
the same, and checked as far as it goes.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

CURRENT, OLDER = "spiritsafe.run/3", "spiritsafe.run/2"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_CLOSED = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, kw_only=True, slots=True, config=_CLOSED)
class Material:
    """Something that went in or came out, pinned by digest."""

    name: str
    kind: str
    sha256: Sha256
    note: str


@dataclass(frozen=True, kw_only=True, slots=True, config=_CLOSED)
class Teacher:
    """Who taught, under which terms; `sha256` is empty where a run was told nothing by it."""

    name: str
    kind: str
    model: str
    sha256: Sha256 | Literal[""]
    licence: str
    owned: bool
    terms: dict[str, Any] | None
    obligations: list[str]
    weight: float
    tags: list[str]
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True, config=_CLOSED)
class Network:
    """What was built, and what of a teacher it began with."""

    family: str
    model_type: str
    inherited: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True, slots=True, config=_CLOSED)
class Code:
    """The sources that made the run."""

    version: str
    sha256: Sha256


@dataclass(frozen=True, kw_only=True, slots=True, config=_CLOSED)
class Manifest:
    """The whole of it; `papers.record.manifest` says what each part is."""

    schema: Literal["spiritsafe.run/3", "spiritsafe.run/2"]
    tool: str
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    run: dict[str, int | float | str]
    student: Network
    losses: list[dict[str, Any]]
    teachers: list[Teacher]
    vocabularies: list[dict[str, Any]]
    inputs: list[Material]
    outputs: list[Material]
    device: dict[str, str | int]
    packages: dict[str, str]
    code: Code
    config_sha256: Sha256


def problem(manifest: bytes) -> str:
    """Return what keeps the bytes of a manifest from being one, in a phrase; empty for nothing."""
    try:
        TypeAdapter(Manifest).validate_json(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        return f"does not have the shape of a manifest: {where}: {first['msg']}"
    return ""
