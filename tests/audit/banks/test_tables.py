"""Tables are read as spreadsheets write them, and refused where a cell may have shifted."""

from pathlib import Path

import pytest

from audit.banks import tables
from audit.errors import InputError


def rows(tmp_path: Path, data: bytes | str) -> list[tables.Row]:
    path = tmp_path / "t.csv"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return tables.read(path, ("name",))


def refusal(tmp_path: Path, data: bytes | str) -> str:
    with pytest.raises(InputError) as caught:
        rows(tmp_path, data)
    return str(caught.value)


def test_a_row_knows_the_line_it_starts_on(tmp_path):
    found = rows(tmp_path, 'name,note\n\na,"x\ny"\r\nb,z\n')
    assert [(row.line, row.get("name"), row.get("note")) for row in found] == [
        (3, "a", "x\ny"),
        (5, "b", "z"),
    ]


def test_columns_and_cells_that_are_not_there_are_empty(tmp_path):
    (row,) = rows(tmp_path, "name,note\na\n")
    assert (row.get("note"), row.get("colour"), row.names("note")) == ("", "", ())


def test_quoted_commas_and_quotation_marks_stay(tmp_path):
    (row,) = rows(tmp_path, 'name\n"a, ""b"""\n')
    assert row.get("name") == 'a, "b"'


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "is empty"),
        ("\n \n,,\n", "is empty"),
        ("name;note\na;b\n", "line 1: no column 'name' among name;note; add it, and separate"),
        ("name,note,name\n", "line 1: two columns are called 'name'"),
        ("name\na,b\n", "line 2: 2 cells under 1 columns"),
        ('name\n"a\n', "line 2: not valid CSV"),
        ('name\n"a"b\n', "line 2: not valid CSV"),
        (f"name\n{'x' * 200_000}\n", "line 2: not valid CSV (field larger"),
        ("name\nb\0\n", "line 2: holds a NUL"),
        ("name\na\n".encode("utf-16"), "is not UTF-8 (byte 0)"),
        ("name\na\n".encode("utf-16-le"), "line 1: holds a NUL"),
        (b"name\n\xe9\n", "is not UTF-8 (byte 5)"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, data, said):
    sentence = refusal(tmp_path, data)
    assert said in sentence and str(tmp_path / "t.csv") in sentence and "\n" not in sentence


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        tables.read(tmp_path / "t.csv", ())
    with pytest.raises(InputError, match="cannot be read"):
        tables.read(tmp_path, ())
