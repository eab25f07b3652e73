"""A bank from another project's answers: files found, read model by model, written whole or not.

The bank is filled beside its place and gets its name when everything in it is written.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from audit import responses
from audit.bank import listed, read_labels
from audit.banks import alpaca_eval, arena_hard, lm_eval, wildbench
from audit.errors import InputError
from audit.files import comma_separated, write_text
from audit.responses import Response

COLUMNS = (
    "model",
    "vendor_or_family",
    "role",
    "group",
    "documented_teachers",
    "relation",
    "confidence",
    "source",
    "same_base_as",
    "outputs_published_by",
)


class Format(NamedTuple):
    """A project's way to keep answers.

    Attributes:
        belongs: tells whether a file is one of its files of answers, by name or first bytes.
        model: says whose answers a file holds.
        read: yields a file's answers, None for a row that holds none.
    """

    belongs: Callable[[Path], bool]
    model: Callable[[Path], str]
    read: Callable[[Path], Iterator[Response | None]]


FORMATS = {
    "alpaca-eval": Format(alpaca_eval.belongs, alpaca_eval.model, alpaca_eval.read),
    "arena-hard": Format(arena_hard.belongs, arena_hard.model, arena_hard.read),
    "wildbench": Format(wildbench.belongs, wildbench.model, wildbench.read),
    "lm-eval": Format(lm_eval.belongs, lm_eval.model, lm_eval.read),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """The user's own tables, which are checked and carried along; see `audit.bank`."""

    models: Path
    groups: Path | None = None
    pairs: Path | None = None


class Tally(NamedTuple):
    """What became of one model's rows."""

    answers: int
    repeated: int
    unwritten: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What became of an import.

    Attributes:
        repeated: rows left out because the model answered the same prompt in another row.
        unwritten: rows left out because they hold scores in place of an answer.
        unlisted: models left out because the given tables do not list them.
        silent: models left out because their files hold no answer.
        labelled: whether tables were given.
    """

    path: Path
    format: str
    models: int
    answers: int
    repeated: int
    unwritten: int
    unlisted: tuple[str, ...]
    silent: tuple[str, ...]
    labelled: bool


def import_bank(
    source: Path, out: Path, *, format_name: str | None = None, tables: Tables | None = None
) -> Imported:
    """Write the answers under `source`, a directory or one file, into a new bank `out`.

    Without tables every model is a family of its own in the role "vendor", and no more is known.

    Args:
        source: what to read; hidden files and folders are passed over.
        out: a directory that is not there or empty.
        format_name: one of FORMATS; by default what the files look like.
        tables: only the models they list are imported, and each of those has to have answers.

    Raises:
        InputError: `source` holds no answers of a known format, or those of several, or a bad row;
            `out` is not empty; the tables contradict themselves or list a model without answers.
    """
    _refuse_filled(out)
    lines = {} if tables is None else _lines(tables)
    files = _files(source)
    format_name = format_name or _guess(source, files)
    found = _by_model(source, files, format_name)
    kept = {name: found[name] for name in found if tables is None or name in lines}
    with _whole(out) as partial:
        tallies = {
            name: _write(partial / "responses" / f"{name}.jsonl", paths, FORMATS[format_name])
            for name, paths in kept.items()
        }
        written = [name for name, tally in tallies.items() if tally.answers]
        if tables is not None:
            _refuse_lacking(source, written, tables.models, lines)
        if not written:
            raise InputError(f"{source} holds no written answer; nothing was imported.")
        _write_tables(partial, written, tables)
    return Imported(
        path=out,
        format=format_name,
        models=len(written),
        answers=sum(tally.answers for tally in tallies.values()),
        repeated=sum(tally.repeated for tally in tallies.values()),
        unwritten=sum(tally.unwritten for tally in tallies.values()),
        unlisted=tuple(name for name in found if name not in kept),
        silent=tuple(name for name in kept if name not in written),
        labelled=tables is not None,
    )


def remarks(imported: Imported) -> list[str]:
    """Return what a user should know of an import, a sentence each."""
    said = []
    if not imported.labelled:
        said.append(
            f"{imported.path / 'models.csv'} takes every model for a family of its own: fill in "
            "families, roles and groups before any finding rests on this bank."
        )
    if imported.repeated:
        said.append(
            f"{imported.repeated:,} rows answer a prompt that the same model answers in another "
            "row; one of each was kept."
        )
    if imported.unwritten:
        said.append(f"{imported.unwritten:,} rows hold scores in place of an answer; left out.")
    if imported.unlisted:
        said.append(f"{listed(imported.unlisted)}: not in the given tables; left out.")
    if imported.silent:
        said.append(f"{listed(imported.silent)}: no answer in the files; left out.")
    return said


def _refuse_filled(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there and not empty; name a new directory for the bank.")


def _lines(tables: Tables) -> Mapping[str, int]:
    """Return the lines of the models that the given tables list, after checking the tables."""
    return read_labels(tables.models, tables.groups, tables.pairs).lines


def _files(source: Path) -> list[Path]:
    """Return the files under `source` that may hold answers, the last by name first.

    Names that end in a time put the latest run first, and the first answer to a prompt is kept.
    """
    if not source.exists():
        raise InputError(f"{source} does not exist; name a directory with answers.")
    if source.is_file():
        return [source]
    found = []
    for folder, folders, names in os.walk(source):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    endings = (".json", ".jsonl", ".jsonl.gz")
    return sorted((path for path in found if path.name.endswith(endings)), reverse=True)


def _guess(source: Path, files: Sequence[Path]) -> str:
    """Return the one format that any of the files is in."""
    found = [name for name, known in FORMATS.items() if any(map(known.belongs, files))]
    if not found:
        raise InputError(
            f"{source} holds no answers in a known place; say --format {' or '.join(FORMATS)}, "
            "and every .json and .jsonl file there is read as that."
        )
    if len(found) > 1:
        raise InputError(
            f"{source} holds answers of {' and '.join(found)}; say which with --format."
        )
    return found[0]


def _by_model(source: Path, files: Sequence[Path], format_name: str) -> dict[str, list[Path]]:
    """Return the files of each model, by name; every file if none is where the format has it."""
    known = FORMATS[format_name]
    found: dict[str, list[Path]] = {}
    for path in [path for path in files if known.belongs(path)] or files:
        found.setdefault(_model_name(path, known), []).append(path)
    if not found:
        raise InputError(f"{source} holds no .json or .jsonl file; name the one that does.")
    return dict(sorted(found.items()))


def _model_name(path: Path, known: Format) -> str:
    name = known.model(path)
    if not name.isprintable() or name != " ".join(name.split()):
        shown = str(path).encode("unicode_escape").decode()
        raise InputError(f"{shown}: the model's name is not plain text; rename it and try again.")
    return name


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """Give a directory to fill, which becomes `out` at the end, and is removed at a failure."""
    final = out.absolute()
    partial = final.with_name(f"{final.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(path: Path, sources: Sequence[Path], known: Format) -> Tally:
    """Write one model's answers to `path`, unless there are none."""
    answers: dict[str, Response] = {}
    repeated = unwritten = 0
    for source in sources:
        for row in known.read(source):
            if row is None:
                unwritten += 1
            elif row.id in answers:
                repeated += 1
            else:
                answers[row.id] = row
    if answers:
        responses.write(path, answers.values())
    return Tally(answers=len(answers), repeated=repeated, unwritten=unwritten)


def _refuse_lacking(
    source: Path, written: Sequence[str], models: Path, lines: Mapping[str, int]
) -> None:
    lacking = [name for name in lines if name not in written]
    if lacking:
        raise InputError(
            f"{models}, line {lines[lacking[0]]}: {source} has no answers of {listed(lacking)}; "
            "take the line out or name where the answers are."
        )


def _write_tables(folder: Path, names: Sequence[str], tables: Tables | None) -> None:
    given: Mapping[str, Path | None] = {}
    if tables is not None:
        given = {"groups.csv": tables.groups, "pairs.csv": tables.pairs}
        shutil.copyfile(tables.models, folder / "models.csv")
    else:
        rows = [[name, name, "vendor", *[""] * (len(COLUMNS) - 3)] for name in names]
        write_text(folder / "models.csv", comma_separated([COLUMNS, *rows]))
    for name, path in given.items():
        if path is not None:
            shutil.copyfile(path, folder / name)
