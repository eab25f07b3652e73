"""The manifest: teachers with their terms, the loss by its terms, and what goes back on disk."""

import json

import pytest
import torch

from distill import files, materials
from distill.config import RunConfig, TeacherConfig
from distill.errors import StorageError
from distill.loss.objective import CrossEntropy, Divergence, Router
from distill.papers import record
from distill.terms import Terms
from student.config import V4Config
from tests.fakes.records import SHA

TERMS = Terms(
    owner="The Example Works",
    url="https://example.org/terms",
    retrieved="2026-11-20",
    sha256=SHA,
    permits_training="conditional",
    obligations=("Name the teacher.",),
)
STATED = TeacherConfig(
    name="t", path="somewhere", licence="MIT", terms=TERMS, tags=("code",), weight=0.5
)


def made(**changes):
    config = RunConfig(
        teachers=(STATED,),
        loss=(
            Divergence(kind="forward_kl", weight=0.5),
            Divergence(kind="forward_kl", weight=0.2, temperature=2.0),
            CrossEntropy(weight=0.3),
            Router(kind="balance", weight=1e-4),
        ),
        **changes,
    )
    return record.manifest(
        config=config,
        config_text="seed: 0\n",
        device=torch.device("cpu"),
        inputs=[materials.material("a", "text", SHA)],
        outputs=[],
        teachers=[record.teacher(STATED, sha256=SHA, tokens=7)],
        tokens=640,
        sizes={"parameters": 5, "active_parameters": 3},
    )


def test_a_teachers_row_copies_what_was_stated():
    row = record.teacher(STATED, sha256=SHA, tokens=7)
    assert (row["name"], row["licence"], row["owned"]) == ("t", "MIT", False)
    assert (row["weight"], row["tags"], row["tokens"]) == (0.5, ["code"], 7)
    assert row["kind"] == "weights on disk" and row["sha256"] == SHA
    assert row["terms"]["owner"] == "The Example Works"
    assert row["terms"]["permits_training"] == "conditional"
    assert row["obligations"] == ["Name the teacher."]


def test_an_owned_teacher_needs_no_terms_in_its_row():
    row = record.teacher(
        TeacherConfig(name="t", path="somewhere", owned=True), sha256=SHA, tokens=0
    )
    assert row["owned"] is True and row["terms"] is None and row["obligations"] == []


def test_the_manifest_lists_the_terms_of_the_loss_by_name():
    losses = made()["losses"]
    assert [row["name"] for row in losses] == [
        "forward_kl", "forward_kl_2", "cross_entropy", "balance",
    ]  # fmt: skip
    assert losses[1]["weight"] == 0.2 and losses[1]["temperature"] == 2.0


def test_the_manifest_says_whether_a_teacher_was_used_and_what_was_built():
    manifest = made()
    assert manifest["run"]["role"] == "student"
    assert manifest["run"]["tokens"] == 640 and manifest["run"]["parameters"] == 5
    network = {"family": "mla", "model_type": "deepseek_v3", "inherited": None}
    assert manifest["student"] == network
    assert made(student=V4Config())["student"]["model_type"] == "deepseek_v4"


def test_the_manifest_is_the_same_after_a_trip_through_its_file(tmp_path):
    manifest = made()
    files.write_json(tmp_path / "manifest.json", manifest)
    assert files.read_json(tmp_path / "manifest.json") == json.loads(json.dumps(manifest))


def test_an_output_that_changed_is_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text("one")
    manifest = {"outputs": materials.outputs(tmp_path, ["a", "b"])}
    assert materials.changed(tmp_path, manifest) == []
    (tmp_path / "b").write_text("two")
    assert materials.changed(tmp_path, manifest) == ["b"]
    (tmp_path / "a").unlink()
    assert materials.changed(tmp_path, manifest) == ["a", "b"]


def test_a_damaged_file_is_named_and_a_missing_one_is_empty(tmp_path):
    assert files.read_json(tmp_path / "none.json") == {}
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(StorageError, match=r"bad\.json is damaged"):
        files.read_json(tmp_path / "bad.json")
