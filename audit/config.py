"""The configuration of an audit: `audit.yaml` and the command line, resolved and kept beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from audit import strict_yaml
from audit.attest import LARGEST
from audit.errors import ConfigError, InputError

Positive = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
class AuditConfig:
    """One audit. Paths are responses files, model directories, or run directories of `distill`.

    Attributes:
        suspect: whose answers or weights are asked about.
        teachers: by name, whose outputs it may have learnt from; with a bank several files of one
            name are one group, whose members are not told apart.
        controls: by name, models trained the same way without the teacher.
        reference_models: by name, other models, whose answers are compared.
        suspect_start: the suspect's checkpoint before training; a run directory has its own.
        prompts: held-out prompts with true continuations; a run directory has its own.
        bank: a directory of answers of documented models; the suspect is ranked among them.
        suspect_family: of the bank, if the suspect is of one; it is left out of the references.
        suspect_date: the day by which the suspect's answers were public, YYYY-MM-DD.
        related: models of the bank whose families are left out, too.
        alpha: level of a finding, after correction for the number of questions.
        min_prompts: with fewer no probe says anything.
        min_shift: nats a token by which a suspect must outgain every control, at the lower end of
            its 95 % interval. The default is about twice the largest difference seen between
            control runs of the preset `quick-scratch` while the probe was made
            (docs/first_light.md).
        max_tokens: of a continuation the audit asks for.
        temperature: of those continuations; 1 is the model's own distribution.
    """

    suspect: str
    teachers: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    controls: dict[str, str] = field(default_factory=dict)
    reference_models: dict[str, str] = field(default_factory=dict)
    suspect_start: str | None = None
    prompts: str | None = None
    bank: str | None = None
    suspect_family: str | None = None
    suspect_date: str | None = None
    related: tuple[str, ...] = ()
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    min_prompts: Positive = 20
    min_shift: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.2
    max_tokens: Positive = 48
    temperature: Annotated[float, Field(gt=0)] = 1.0
    seed: Annotated[int, Field(ge=0, le=LARGEST)] = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.teachers and self.bank is None:
            raise ValueError(
                "no teacher is named; give --teacher NAME=PATH at least once, or --bank DIR"
            )
        if self.bank is not None and (self.controls or self.suspect_start or self.prompts):
            raise ValueError(
                "a bank is compared with answers alone; leave out controls, suspect_start and "
                "prompts, or leave out the bank"
            )
        if self.bank is None and (self.suspect_family or self.suspect_date or self.related):
            raise ValueError("suspect_family, suspect_date and related need a bank")
        for name, paths in self.teacher_paths().items():
            if len(paths) != 1 and self.bank is None:
                raise ValueError(
                    f"teacher {name!r} has {len(paths)} files; one name for several needs a bank, "
                    "so give each a name of its own"
                )
        _require_day(self.suspect_date)
        names = [*self.teachers, *self.controls, *self.reference_models, "suspect"]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the name {twice[0]!r} is given twice; every model needs its own")

    def teacher_paths(self) -> dict[str, tuple[str, ...]]:
        """Return the files or directories of each teacher, mostly one."""
        return {
            name: (paths,) if isinstance(paths, str) else paths
            for name, paths in self.teachers.items()
        }


def _require_day(text: str | None) -> None:
    """Refuse what is no day."""
    try:
        date.fromisoformat(text or "2000-01-01")
    except ValueError as error:
        raise ValueError(f"suspect_date is {text!r}; write it as YYYY-MM-DD") from error


def load(path: Path | None, given: Mapping[str, Any], overrides: Sequence[str] = ()) -> AuditConfig:
    """Return the config in `path`, with what the command line names put over it.

    Args:
        path: an audit.yaml, or None.
        given: by field of `AuditConfig`, what options said; teachers and their kin as mappings.
        overrides: `key.path=value`.

    Raises:
        ConfigError: a key or value is wrong, or no suspect or teacher is named.
        InputError: the file cannot be read.
    """
    text = "{}" if path is None else _read(path)
    source = "the command line" if path is None else path.name
    if path is None and "suspect" not in given:
        raise ConfigError("no suspect is named; give --suspect PATH, or --config FILE.")
    return strict_yaml.load(AuditConfig, text, source=source, given=given, overrides=overrides)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; check the name.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); convert it.") from error
