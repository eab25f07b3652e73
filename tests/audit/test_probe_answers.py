"""An audit of answers alone: what it says without a reference, keeps as it was, and makes again."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from audit.attest import canonical_bytes
from audit.config import AuditConfig
from audit.evidence import Verdict, from_json, json_schema
from audit.verify import inspect
from tests.fakes.audits import answers_file, carry_out, words


@pytest.fixture
def answers(tmp_path: Path) -> AuditConfig:
    """A suspect that copies its teacher word by word, and nobody to compare it with."""
    return AuditConfig(
        suspect=answers_file(tmp_path / "suspect.jsonl", words(0)),
        teachers={"T": answers_file(tmp_path / "teacher.jsonl", words(0))},
    )


def test_answers_alone_and_no_reference_are_insufficient(answers, tmp_path):
    report = carry_out(answers, tmp_path / "out").report
    (found,) = report.findings
    assert found.verdict is Verdict.INSUFFICIENT
    assert found.probes[0].would_need.startswith("19 reference models")
    (skipped,) = report.not_run
    assert skipped.probe == "logprob_shift"
    assert "it needs weights" in skipped.reason
    assert report.suspect.kind == "responses file"
    data = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(data, json_schema())


def test_a_copy_of_the_answers_is_never_supported(answers, tmp_path):
    references = {f"r{i}": answers_file(tmp_path / f"r{i}.jsonl", words(i + 1)) for i in range(25)}
    config = replace(answers, reference_models=references)
    (found,) = carry_out(config, tmp_path / "out").report.findings
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.p_value == pytest.approx(1 / 26)
    assert found.rank == 1


def test_answers_are_matched_by_id_whatever_their_order_and_coverage(answers, tmp_path):
    said = words(0)
    backwards = list(range(len(said)))[::-1][:21]
    teacher = answers_file(tmp_path / "t2.jsonl", [said[i] for i in backwards], backwards)
    config = replace(
        answers,
        teachers={"T": teacher},
        reference_models={"r": answers_file(tmp_path / "r.jsonl", words(1))},
    )
    (found,) = carry_out(config, tmp_path / "out").report.findings
    result = found.probes[0]
    assert result.n_prompts == 21
    assert {row.id for row in result.prompts} == {f"p{i}" for i in backwards}
    assert found.rank == 1 and found.score > 0.3


def test_each_teacher_is_a_question_of_its_own(answers, tmp_path):
    teachers = {**answers.teachers, "U": answers_file(tmp_path / "u.jsonl", words(9))}
    report = carry_out(replace(answers, teachers=teachers), tmp_path / "out").report
    assert [found.teacher for found in report.findings] == ["T", "U"]


def test_hostile_answers_are_kept_as_they_are_but_for_halves_of_a_pair(answers, tmp_path):
    said = ["\ud800 \u2028 \u0085 \x00 </script> {{ 7 * 7 }}" + text for text in words(0)]
    config = replace(
        answers,
        suspect=answers_file(tmp_path / "hostile.jsonl", said),
        reference_models={"r": answers_file(tmp_path / "r.jsonl", words(1))},
    )
    outcome = carry_out(config, tmp_path / "out")
    data = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert from_json(data) == outcome.report
    exhibits = data["findings"][0]["probes"][0]["exhibits"]
    shown = {text.replace("\ud800", "\u27e8U+D800\u27e9") for text in said}
    assert {exhibit["answers"]["suspect"] for exhibit in exhibits} <= shown
    assert "<script" not in outcome.page.read_text(encoding="utf-8")


def test_a_damaged_report_is_made_again(answers, tmp_path):
    out = tmp_path / "out"
    first = carry_out(answers, out).report
    (out / "report.json").write_text('{"settings": {"key": "' + first.settings["key"] + '"}}')
    again = carry_out(answers, out)
    assert not again.reused
    assert replace(again.report, created=first.created) == first


def test_changed_answers_are_another_audit(answers, tmp_path):
    out = tmp_path / "out"
    first = carry_out(answers, out).report
    answers_file(Path(answers.teachers["T"]), words(5))
    again = carry_out(answers, out)
    assert not again.reused
    assert again.report.settings["key"] != first.settings["key"]


def test_a_signature_stays_while_nothing_changes_and_goes_with_what_it_signed(answers, tmp_path):
    out = tmp_path / "out"
    carry_out(answers, out)
    (out / "statement.sig.json").write_text("{}")
    assert carry_out(answers, out).reused and (out / "statement.sig.json").exists()
    assert not carry_out(replace(answers, seed=1), out).reused
    assert not (out / "statement.sig.json").exists()
    assert inspect(out).ok


def test_what_is_written_as_json_is_its_canonical_bytes(answers, tmp_path):
    carry_out(answers, tmp_path / "out")
    for path in (tmp_path / "out").glob("*.json"):
        assert path.read_bytes() == canonical_bytes(json.loads(path.read_bytes()))


BLOCKED = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "safetensors", "tokenizers"):
            raise ImportError(f"{name} was imported")

sys.meta_path.insert(0, NoTorch())
from cli.audit_app import main
main()
"""


@pytest.mark.slow
def test_an_audit_of_answers_never_imports_torch(answers, tmp_path):
    done = subprocess.run(
        [
            sys.executable, "-c", BLOCKED, "probe", "--suspect", answers.suspect,
            "--teacher", f"T={answers.teachers['T']}", "--out", str(tmp_path / "out"),
        ],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "suspect / T: INSUFFICIENT" in done.stdout
    assert (tmp_path / "out" / "report.html").is_file()
