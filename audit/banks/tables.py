"""CSV tables as people keep them: UTF-8 with or without a mark, any line ends, blank lines between.

Columns nobody asks for are ignored and cells are stripped of surrounding space. What a spreadsheet
breaks is refused with the line it starts on, for a shifted cell would relabel a model in silence.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from audit.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of a table: `cells` by column name, and where it stands, for errors."""

    path: Path
    line: int
    cells: dict[str, str]

    def get(self, column: str) -> str:
        """Return a cell's text, empty where the table has no such column."""
        return self.cells.get(column, "")

    def need(self, column: str) -> str:
        """Return a cell's text, or refuse an empty one."""
        if not self.get(column):
            raise self.error(f"{column} is empty; fill it in.")
        return self.get(column)

    def names(self, column: str) -> tuple[str, ...]:
        """Return the names in a cell, which are separated by `;`, each once."""
        parts = (part.strip() for part in self.get(column).split(";"))
        return tuple(dict.fromkeys(part for part in parts if part))

    def error(self, what: str) -> InputError:
        """Return the error that says `what` of this line."""
        return InputError(f"{self.path}, line {self.line}: {what}")


def read(path: Path, required: Sequence[str]) -> list[Row]:
    """Return the rows of the table at `path`, in order.

    Raises:
        InputError: the file is missing, not UTF-8 or no CSV; a required column is not there or one
            is there twice; a row is longer or shorter than the header.
    """
    lines = _records(path, _text(path))
    try:
        _, header = next(lines)
    except StopIteration:
        raise InputError(f"{path} is empty; it needs a header and a row a line.") from None
    _check_header(path, header, required)
    return [_row(path, line, header, cells) for line, cells in lines]


def _text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; check the name.") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 (byte {error.start}); save it as CSV UTF-8."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{path}, line {line}: holds a NUL; save it as CSV UTF-8.")
    return text


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield every record that is not blank with the line it starts on; a quoted cell may break."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield start, stripped
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}, line {start}: not valid CSV ({error}); put a cell that holds a comma or a "
            "quotation mark in quotation marks, and double those inside."
        ) from error


def _check_header(path: Path, header: Sequence[str], required: Sequence[str]) -> None:
    for column in required:
        if column not in header:
            raise InputError(
                f"{path}, line 1: no column {column!r} among {', '.join(header)}; add it, and "
                "separate columns by commas."
            )
    for column in header:
        if column and header.count(column) > 1:
            raise InputError(f"{path}, line 1: two columns are called {column!r}; keep one.")


def _row(path: Path, line: int, header: Sequence[str], cells: Sequence[str]) -> Row:
    # Some programs leave out empty cells at the end; they cannot shift anything.
    row = Row(path=path, line=line, cells=dict(zip(header, cells, strict=False)))
    if any(cells[len(header) :]):
        raise row.error(
            f"{len(cells)} cells under {len(header)} columns; put a cell that holds a comma in "
            "quotation marks."
        )
    return row
