"""A bank: answers of many models to the same prompts, and what documents say of each model.

A directory with `models.csv`, `groups.csv` (groups of teachers), `pairs.csv` (where truth is known)
and one subfolder, whatever its name, with `<model>.jsonl` or `<model>.jsonl.gz` for every model.
Files may differ in order and coverage; answers are matched by id. A bank is never written to.
"""

import calendar
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from audit import responses
from audit.attest import digest, file_digest
from audit.banks import rows, tables
from audit.banks.tables import Row
from audit.errors import InputError
from audit.responses import Response

ROLES = ("teacher", "vendor", "student", "control")
TRUTHS = ("positive", "negative", "unknown", "self")

_DATE = re.compile(r"([0-9]{4})(?:-([0-9]{2}))?(?:-([0-9]{2}))?")
_LISTED = 3  # names a sentence mentions before it counts the rest


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model of the bank, as `models.csv` has it; a text is empty where the table says nothing.

    Attributes:
        family: `vendor_or_family`; models of one family are not independent.
        role: teacher, vendor, student or control.
        group: the group of teachers it is a member of, if any.
        teachers: groups its documents name as teachers; they need not be in the bank.
        relation: single, mixed, derivative, edited, none, undisclosed; or another word.
        same_base_as: its base or parent weights.
        published: the day by which its answers were public, so the model existed by then. Of a
            month or a year given alone, the last day: "existed by" must hold for certain.
    """

    name: str
    family: str
    role: str
    group: str | None
    teachers: tuple[str, ...]
    relation: str
    confidence: str
    source: str
    same_base_as: str | None
    published: date | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A group of teachers, which are not told apart.

    Attributes:
        launch: the day before which nobody could learn from it. Of a month or a year given alone,
            the first day: "not before" must hold for certain.
        members: names of models, in the order of `groups.csv`.
    """

    name: str
    vendor: str
    launch: date | None
    members: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What is known of a (suspect, group): positive, negative, unknown or self; and from what."""

    truth: str
    basis: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """The three tables of a bank, checked against one another; `lines` says where models stand."""

    models: tuple[Model, ...]
    groups: tuple[Group, ...]
    truths: Mapping[tuple[str, str], Truth]
    lines: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bank:
    """A bank on disk; its tables are read, its answers are read when asked for.

    Attributes:
        models: in the order of `models.csv`.
        groups: in the order of `groups.csv`.
        truths: by (suspect, group); empty without a `pairs.csv`.
        files: the answers of each model.
    """

    path: Path
    models: tuple[Model, ...]
    groups: tuple[Group, ...]
    truths: Mapping[tuple[str, str], Truth]
    files: Mapping[str, Path]

    def model(self, name: str) -> Model:
        """Return the model called `name`; a KeyError if there is none."""
        found = next((model for model in self.models if model.name == name), None)
        if found is None:
            raise KeyError(name)
        return found

    def group(self, name: str) -> Group:
        """Return the group called `name`; a KeyError if there is none."""
        found = next((group for group in self.groups if group.name == name), None)
        if found is None:
            raise KeyError(name)
        return found

    def answers(self, name: str) -> dict[str, Response]:
        """Return a model's answers by id, in the order of its file; they may be empty texts.

        Raises:
            InputError: as `responses.read`, except that a file without a row has no answers.
        """
        path = self.files[name]
        if not any(line.strip() for line in rows.lines(path)):
            return {}
        return {row.id: row for row in responses.read(path)}

    def sha256(self) -> str:
        """Return one digest of the tables and of every model's answers, to key what is cached."""
        named = [self.path / table for table in ("models.csv", "groups.csv", "pairs.csv")]
        paths = [path for path in named if path.is_file()] + list(self.files.values())
        return digest(sorted([p.relative_to(self.path).as_posix(), file_digest(p)] for p in paths))


def load(path: Path) -> Bank:
    """Return the bank in the directory `path`, its tables checked and its answers found.

    Raises:
        InputError: `path` is no bank, a table contradicts itself or another, or a model has no
            answers; one sentence with file, line and what to do.
    """
    if not path.is_dir():
        raise InputError(f"{path} is not a directory; name the one that holds models.csv.")
    if not (path / "models.csv").is_file():
        raise InputError(
            f"{path} has no models.csv, which says what is known of each model; `audit bank "
            "import` writes one."
        )
    labels = read_labels(
        path / "models.csv", _if_there(path / "groups.csv"), _if_there(path / "pairs.csv")
    )
    found = answer_files(path)
    lacking = [model.name for model in labels.models if model.name not in found]
    if lacking:
        raise InputError(
            f"{path / 'models.csv'}, line {labels.lines[lacking[0]]}: no answers of "
            f"{listed(lacking)}; add {lacking[0]}.jsonl or .jsonl.gz to the subfolder of answers, "
            "or take the line out."
        )
    files = {model.name: found[model.name] for model in labels.models}
    return Bank(
        path=path, models=labels.models, groups=labels.groups, truths=labels.truths, files=files
    )


def listed(names: Sequence[str]) -> str:
    """Return names for a sentence, the first few in full."""
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + rest


def answer_files(path: Path) -> dict[str, Path]:
    """Return the answers files under a bank's one subfolder of answers, by model, sorted.

    Raises:
        InputError: two subfolders hold answers, or two files are of one model.
    """
    folders: dict[Path, dict[str, Path]] = {}
    for folder in sorted(path.iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            folders[folder] = _answers_in(folder)
    holding = [folder for folder, files in folders.items() if files]
    if len(holding) > 1:
        raise InputError(
            f"{path}: both {holding[0].name} and {holding[1].name} hold answers; a bank has one "
            "such subfolder, so move the other out."
        )
    return folders[holding[0]] if holding else {}


def _answers_in(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        # "._name" is what macOS writes beside a file on a foreign disk.
        if not responses.is_responses_file(file) or file.name.startswith("._"):
            continue
        name = file.name.removesuffix(".gz").removesuffix(".jsonl")
        if name in files:
            raise InputError(f"{file} is there packed and unpacked; keep one of the two.")
        files[name] = file
    return files


def read_labels(models: Path, groups: Path | None, pairs: Path | None) -> Labels:
    """Return the tables of a bank, each checked and against one another.

    Raises:
        InputError: one sentence with file, line and what to do.
    """
    by_name = _models(models)
    by_group = {} if groups is None else _groups(groups, by_name)
    for model, row in by_name.values():
        if model.group is not None and model.group not in by_group:
            where = "there is no groups.csv" if groups is None else f"it is not in {groups}"
            raise row.error(
                f"{model.name} is in the group {model.group!r}, but {where}; add the group or "
                "leave the cell empty."
            )
        if model.group is not None and model.name not in by_group[model.group].members:
            raise row.error(
                f"{model.name} is in the group {model.group!r}, whose line in {groups} does not "
                "list it; make the two agree."
            )
    truths = {} if pairs is None else _truths(pairs, set(by_name), set(by_group))
    return Labels(
        models=tuple(model for model, _ in by_name.values()),
        groups=tuple(by_group.values()),
        truths=truths,
        lines={name: row.line for name, (_, row) in by_name.items()},
    )


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _models(path: Path) -> dict[str, tuple[Model, Row]]:
    found: dict[str, tuple[Model, Row]] = {}
    for row in tables.read(path, ("model", "vendor_or_family", "role")):
        model = _model(row)
        if model.name in found:
            first = found[model.name][1].line
            raise row.error(f"{model.name} was on line {first} already; keep one line a model.")
        found[model.name] = (model, row)
    if not found:
        raise InputError(f"{path} lists no model; add a line for each.")
    return found


def _model(row: Row) -> Model:
    if not row.need("model").isprintable():
        raise row.error(f"model is {row.get('model')!r}; write a name that prints on one line.")
    return Model(
        name=row.get("model"),
        family=row.need("vendor_or_family"),
        role=_one_of(row, "role", ROLES),
        group=row.get("group") or None,
        teachers=row.names("documented_teachers"),
        relation=row.get("relation"),
        confidence=row.get("confidence"),
        source=row.get("source"),
        same_base_as=row.get("same_base_as") or None,
        published=_date(row, "outputs_published_by", last=True),
    )


def _groups(path: Path, models: Mapping[str, tuple[Model, Row]]) -> dict[str, Group]:
    found: dict[str, Group] = {}
    for row in tables.read(path, ("group", "models")):
        group = Group(
            name=row.need("group"),
            vendor=row.get("vendor"),
            launch=_date(row, "public_launch", last=False),
            members=row.names("models") if row.need("models") else (),
        )
        if group.name in found:
            raise row.error(f"the group {group.name!r} is there already; keep one line a group.")
        for member in group.members:
            if member not in models:
                raise row.error(f"{member} is not in models.csv; add it there or take it out here.")
            other = models[member][0].group
            if other != group.name:
                its = (
                    f"its group in models.csv is {other!r}"
                    if other
                    else "in models.csv it has no group"
                )
                raise row.error(f"{member} is listed, but {its}; make the two agree.")
        found[group.name] = group
    return found


def _truths(path: Path, models: set[str], groups: set[str]) -> dict[tuple[str, str], Truth]:
    found: dict[tuple[str, str], Truth] = {}
    for row in tables.read(path, ("suspect", "group", "truth")):
        pair = (row.need("suspect"), row.need("group"))
        if pair[0] not in models:
            raise row.error(f"the suspect {pair[0]} is not in models.csv; add it or drop the line.")
        if pair[1] not in groups:
            raise row.error(f"the group {pair[1]} is not in groups.csv; add it or drop the line.")
        if pair in found:
            raise row.error(f"{pair[0]} and {pair[1]} are there already; keep one line a pair.")
        found[pair] = Truth(truth=_one_of(row, "truth", TRUTHS), basis=row.get("basis"))
    return found


def _one_of(row: Row, column: str, known: Sequence[str]) -> str:
    if row.need(column) not in known:
        raise row.error(f"{column} is {row.get(column)!r}; write one of {', '.join(known)}.")
    return row.get(column)


def _date(row: Row, column: str, *, last: bool) -> date | None:
    """Return a cell's date; of a month or a year alone, its first or `last` day."""
    text = row.get(column)
    if not text:
        return None
    parts = _DATE.fullmatch(text)
    try:
        if parts is None:
            raise ValueError
        year, month, day = (None if part is None else int(part) for part in parts.groups())
        return _day(year or 0, month, day, last=last)
    except ValueError:
        raise row.error(
            f"{column} is {text!r}, which is no date; write YYYY-MM-DD, YYYY-MM or YYYY."
        ) from None


def _day(year: int, month: int | None, day: int | None, *, last: bool) -> date:
    if day is not None:
        return date(year, month or 0, day)
    if not last:
        return date(year, month or 1, 1)
    month = month or 12
    return date(year, month, calendar.monthrange(year, month)[1])
