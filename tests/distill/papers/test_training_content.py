"""The draft of a summary of training content repeats the manifest and claims no more."""

import pytest

from distill.papers.training_content import draft
from tests.fakes import records


def material(name, kind, note=""):
    return {"name": name, "kind": kind, "sha256": records.SHA, "note": note}


def test_it_says_that_it_is_a_draft_and_claims_no_conformity():
    text = draft(records.manifest())
    assert "a draft of two parts" in text
    assert "claims no conformity" in text and "C(2025) 8311 final" in text


def test_teachers_are_dependencies_with_what_was_stated_of_them():
    text = draft(records.full_manifest())
    assert (
        f"| teacher-a | local weights | not served | Apache-2.0 | owned | {records.SHA} |" in text
    )
    assert "| teacher-b | endpoint | example/teacher-b-2026-10 | not stated | conditional |" in text
    assert "were drawn from a seed" in text


def test_inherited_weights_are_a_dependency():
    manifest = records.manifest()
    manifest["student"]["inherited"] = {
        "teacher": "teacher-a", "cache": 0.5, "experts": None, "depth": 1,
    }  # fmt: skip
    text = draft(manifest)
    assert "inherits the weights of teacher-a" in text and "drawn from a seed" not in text


def test_text_that_models_wrote_is_told_apart_from_what_they_said_of_text():
    manifest = records.manifest()
    manifest["inputs"] += [
        material("answers, teacher-a", "answers a teacher wrote", "56 answers: 56 kept"),
        material("rollouts", "student's answers"),
        material("training signals, teacher-a", "teacher signals"),
    ]
    wrote, said = draft(manifest).split("numbers rather than content")
    assert (
        "| answers, teacher-a | text that a teacher wrote to prompts | 56 answers: 56 kept |"
        in wrote
    )
    assert "| rollouts | text that the student wrote while it was trained |" in wrote
    assert "| training signals, teacher-a |" in said and "training signals" not in wrote


def test_a_run_without_such_text_says_so_and_vouches_for_no_file():
    text = draft(records.manifest())
    assert "No text that a model wrote for this run was trained on." in text
    assert "is not known to this tool: help-topics.txt." in text


def test_a_control_depends_on_no_teacher():
    manifest = {**records.full_manifest(), "run": records.manifest("control")["run"]}
    text = draft(manifest)
    assert "No model taught it." in text and "teacher-b" not in text


@pytest.mark.parametrize("name", ["a | b\n# c", "<script>", "\u202e"])
def test_a_hostile_name_stays_inside_its_cell(name):
    manifest = records.full_manifest()
    manifest["teachers"][0]["name"] = name
    (line,) = [line for line in draft(manifest).splitlines() if "local weights" in line]
    assert line.replace("\\|", "").count("|") == 7
    assert "<script" not in line.replace("\\<", "") and "\u202e" not in line
