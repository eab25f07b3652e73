"""Digests depend on content and names, on nothing else."""

import hashlib
import json
import math
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.attest import LARGEST, canonical_bytes, digest, file_digest, parse, tree_digest


def test_canonical_bytes_are_sorted_compact_utf8():
    obj = {"b": [1, 2.5, None], "a": "caf\u00e9"}
    assert canonical_bytes(obj) == '{"a":"caf\u00e9","b":[1,2.5,null]}'.encode()


def test_key_order_does_not_change_the_digest_and_a_value_does():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_digest_is_the_sha256_of_the_canonical_bytes():
    assert digest([]) == hashlib.sha256(b"[]").hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_cannot_hold_is_refused(value):
    with pytest.raises(ValueError, match="JSON"):
        canonical_bytes({"score": value})


@pytest.mark.parametrize(
    "value",
    [2**53, -(2**53), 10**5000, "half \ud800 a pair", {"\udc80": 1}, {1: "a"}, b"bytes", {1, 2}],
    ids=lambda value: type(value).__name__,
)
def test_what_rfc_8785_cannot_carry_is_refused(value):
    with pytest.raises(ValueError, match="no canonical JSON"):
        canonical_bytes([value])


def test_nesting_without_end_is_refused_both_ways():
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(ValueError, match="too deeply"):
        canonical_bytes(nested)
    with pytest.raises(ValueError, match="too deeply"):
        parse(b"[" * 100_000 + b"]" * 100_000)


# The examples of RFC 8785, sections 3.2.2 and 3.2.3, and of its appendix B.


def test_the_example_of_the_standard_has_its_bytes():
    read = r"""{
      "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false]
    }"""
    literals = '"literals":[null,true,false]'
    numbers = '"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27]'
    string = '"string":"\u20ac' + r"""$\u000f\nA'B\"\\\\\"/"""
    assert canonical_bytes(parse(read.encode())) == f'{{{literals},{numbers},{string}"}}'.encode()


def test_keys_are_sorted_by_their_utf_16_units():
    ordered = ["\r", "1", "\x80", "\xf6", "\u20ac", "\U0001f600", "\ufb33"]
    assert list(json.loads(canonical_bytes(dict.fromkeys(sorted(ordered), 0)))) == ordered


@pytest.mark.parametrize(
    ("bits", "written"),
    [
        (0x0000000000000000, "0"),
        (0x8000000000000000, "0"),
        (0x0000000000000001, "5e-324"),
        (0x7FEFFFFFFFFFFFFF, "1.7976931348623157e+308"),
        (0x4340000000000000, "9007199254740992"),
        (0x4430000000000000, "295147905179352830000"),
        (0x44B52D02C7E14AF5, "9.999999999999997e+22"),
        (0x444B1AE4D6E2EF50, "1e+21"),
        (0x3EB0C6F7A0B5ED8D, "0.000001"),
        (0x3E7AD7F29ABCAF48, "1e-7"),
        (0x41B3DE4355555554, "333333333.33333325"),
        (0x43143FF3C1CB0959, "1424953923781206.2"),
    ],
)
def test_numbers_are_written_as_the_standard_lists_them(bits, written):
    (value,) = struct.unpack(">d", bits.to_bytes(8, "big"))
    assert canonical_bytes(value) == written.encode()


keys = st.text(alphabet="a\u00e9\ufb33\U0001f600")
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-LARGEST, LARGEST)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(keys, inner),
)


@settings(deadline=None)
@given(values)
def test_canonical_bytes_come_back_as_they_were_once_they_are_read(value):
    data = canonical_bytes(value)
    assert canonical_bytes(parse(data)) == data
    assert digest(value) == hashlib.sha256(data).hexdigest()


exact = st.recursive(
    st.none() | st.booleans() | st.integers(-LARGEST, LARGEST) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="ascii")), inner),
)


@settings(deadline=None)
@given(exact)
def test_without_fractions_and_odd_keys_plain_sorted_json_has_the_same_bytes(value):
    plain = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert canonical_bytes(value) == plain.encode()


@settings(deadline=None)
@given(values, st.sampled_from([(", ", ": "), (",", ":")]), st.booleans())
def test_other_spellings_of_a_value_have_the_same_canonical_bytes(value, separators, ascii_only):
    spelt = json.dumps(value, separators=separators, ensure_ascii=ascii_only)
    assert canonical_bytes(parse(spelt.encode())) == canonical_bytes(value)


@pytest.mark.parametrize("text", ["", "{", "NaN", '{"a": Infinity}', "\xff", "[1,]"])
def test_what_is_no_json_is_not_read(text):
    with pytest.raises(ValueError):
        parse(text.encode("latin-1"))


def test_a_number_of_any_length_is_read_at_once():
    assert parse(b"1" * 100_000) == math.inf
    assert (parse(b"9007199254740991"), parse(b"9007199254740992")) == (LARGEST, 2.0**53)
    assert isinstance(parse(b"9007199254740992"), float)


def test_file_digest_is_the_sha256_of_the_bytes(tmp_path: Path):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b"x" * 300_000)
    assert file_digest(path) == hashlib.sha256(b"x" * 300_000).hexdigest()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    (root / "sub").mkdir(parents=True)
    (root / "config.json").write_text("{}")
    (root / "sub" / "weights.bin").write_bytes(b"\x00\x01")
    (root / ".hidden").write_text("h")
    return root


def test_tree_digest_is_the_digest_of_sorted_names_and_file_digests(tree: Path):
    names = [".hidden", "config.json", "sub/weights.bin"]
    assert tree_digest(tree) == digest([[name, file_digest(tree / name)] for name in names])


def test_tree_digest_does_not_depend_on_where_the_tree_lies(tree: Path, tmp_path: Path):
    before = tree_digest(tree)
    assert tree_digest(tree.rename(tmp_path / "elsewhere")) == before


@pytest.mark.parametrize("name", [".hidden", "config.json", "sub/weights.bin"])
def test_tree_digest_changes_with_each_file(tree: Path, name: str):
    before = tree_digest(tree)
    (tree / name).write_text("changed")
    assert tree_digest(tree) != before


def test_tree_digest_changes_with_a_name(tree: Path):
    before = tree_digest(tree)
    (tree / "config.json").rename(tree / "other.json")
    assert tree_digest(tree) != before


def test_a_name_cannot_pose_as_another_entry(tmp_path: Path):
    plain, posing = tmp_path / "plain", tmp_path / "posing"
    plain.mkdir()
    posing.mkdir()
    (plain / "a").write_text("1")
    (plain / "b").write_text("2")
    (posing / f'a","{file_digest(plain / "a")}"],["b').write_text("2")
    assert tree_digest(plain) != tree_digest(posing)


def test_a_link_to_a_file_counts_as_the_file(tree: Path, tmp_path: Path):
    before = tree_digest(tree)
    (tree / "config.json").rename(tmp_path / "blob")
    (tree / "config.json").symlink_to(tmp_path / "blob")
    assert tree_digest(tree) == before


def test_what_cannot_be_hashed_is_an_error_and_not_left_out(tree: Path):
    (tree / "loop").symlink_to(tree, target_is_directory=True)
    with pytest.raises(ValueError, match="loop"):
        tree_digest(tree)
    (tree / "loop").unlink()
    os.mkfifo(tree / "pipe")
    with pytest.raises(ValueError, match="pipe"):
        tree_digest(tree)


def test_a_file_is_not_a_tree(tree: Path):
    with pytest.raises(NotADirectoryError):
        tree_digest(tree / "config.json")
