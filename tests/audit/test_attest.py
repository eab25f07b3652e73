"""Digests depend on content and names, on nothing else."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from audit.attest import canonical_bytes, digest, file_digest, tree_digest


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


def test_a_lone_surrogate_survives_a_round_trip():
    obj = {"answer": "\ud800 and \\ud800"}
    assert json.loads(canonical_bytes(obj)) == obj


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
