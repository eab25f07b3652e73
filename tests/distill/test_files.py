"""JSON on disk is canonical, and older spacing is still read; a lock is held in turn."""

import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from audit.attest import LARGEST, canonical_bytes, parse
from distill import files
from distill.errors import StorageError


def test_json_is_written_as_its_canonical_bytes_and_read_back_as_it_was_made_portable(tmp_path):
    value = {"b": (1, 2.0, 0.1), "a": {"nested": [None, True, "\u6559\u5e08"]}, "big": 2.6e13}
    files.write_json(tmp_path / "a.json", value)
    data = (tmp_path / "a.json").read_bytes()
    assert data == canonical_bytes(parse(data)) and not data.endswith(b"\n")
    assert files.read_json(tmp_path / "a.json") == files.portable(value)


@pytest.mark.parametrize(
    ("value", "made"),
    [
        (math.inf, None),
        (math.nan, None),
        (2.0, 2),
        (-0.0, 0),
        (10**21, 1e21),
        (LARGEST, LARGEST),
        (LARGEST + 1, float(LARGEST + 1)),
        (True, True),
        ("\ud800", "\u27e8U+D800\u27e9"),
        ((1, (2,)), [1, [2]]),
    ],
)
def test_what_canonical_json_cannot_hold_is_told_as_well_as_it_can_be(value, made):
    found = files.portable({"it": value})["it"]
    assert found == made and type(found) is type(made)
    data = canonical_bytes({"it": found})
    assert canonical_bytes(files.portable(parse(data))) == data


def test_a_file_with_other_spacing_is_read(tmp_path):
    (tmp_path / "old.json").write_text(json.dumps({"b": 1, "a": [1.5]}, indent=1) + "\n")
    assert files.read_json(tmp_path / "old.json") == {"a": [1.5], "b": 1}
    assert files.read_json(tmp_path / "none.json") == {}


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b"[]", b"3", b'{"a": NaN}', b"[" * 9999])
def test_a_damaged_file_is_one_sentence(tmp_path, damage):
    (tmp_path / "it.json").write_bytes(damage)
    with pytest.raises(StorageError, match=r"it\.json is damaged.*delete it and run again"):
        files.read_json(tmp_path / "it.json")


def test_who_comes_second_is_told_and_waits(tmp_path):
    lock, order, waits = tmp_path / "new" / ".lock", [], threading.Event()

    def second():
        with files.turn(lock, waits.set):
            order.append("second")

    with ThreadPoolExecutor(1) as other:
        with files.turn(lock, pytest.fail):
            later = other.submit(second)
            assert waits.wait(timeout=60)
            order.append("first")
        later.result(timeout=60)
    assert order == ["first", "second"]
