"""Audits of models that are stand-ins: what records and controls they need, and what is refused."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import audit.local
from audit.config import AuditConfig
from audit.evidence import Verdict, from_json
from tests.fakes.audits import answers_file, carry_out, refusal, words
from tests.fakes.files import bytes_of


def model_files(path: Path, *, vocabulary: str = "one") -> Path:
    """Write what an audit looks for before it loads a model, and nothing to load."""
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "tokenizer.json").write_text(json.dumps({"vocabulary": vocabulary}))
    (path / "weights").write_text(str(path))
    return path


def run_files(path: Path, *, vocabulary: str = "one", prompts: int = 24) -> Path:
    """Write the same in the form of a run directory, with held-out prompts."""
    model_files(path / "student", vocabulary=vocabulary)
    model_files(path / "checkpoints" / "step-000000", vocabulary=vocabulary)
    answers_file(path / "heldout.jsonl", [f"true {i}" for i in range(prompts)])
    return path


class StandIn:
    """A model that answers with its own name, and likes the teacher's text if it is a student."""

    asked: ClassVar[list[str]] = []

    def __init__(self, path: Path) -> None:
        self.name = path.parent.name if path.name == "student" else path.name
        self.trained = path.name == "student"

    def continuations(self, prompts: Sequence[str], *, tick: Any, **settings: Any) -> list[str]:
        self.asked.append(self.name)
        tick(len(prompts))
        return [f"{self.name} says {prompt}" for prompt in prompts]

    def mean_logprobs(self, prompts: Sequence[str], texts: Sequence[str], tick: Any) -> np.ndarray:
        random = np.random.default_rng(len(self.name + texts[0]))
        tick(len(prompts))
        liked = self.trained and self.name == "suspect" and "says" in texts[0]
        return random.normal(-3.0 + 2.0 * liked, 0.1, len(prompts))


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AuditConfig:
    """An audit of models that are not there."""
    monkeypatch.setattr(StandIn, "asked", [])
    monkeypatch.setattr(audit.local, "load", lambda path, device, exact: StandIn(path))
    return AuditConfig(
        suspect=str(run_files(tmp_path / "suspect")),
        teachers={"T": str(model_files(tmp_path / "teacher"))},
        controls={name: str(run_files(tmp_path / name)) for name in ("a", "bb", "ccc")},
    )


def test_without_records_of_training_nothing_is_supported(stand_ins, tmp_path):
    report = carry_out(stand_ins, tmp_path / "out").report
    assert report.findings[0].probes[0].verdict is Verdict.SUPPORTED
    assert report.findings[0].verdict is Verdict.INCONCLUSIVE
    assert all("no intact record" in line for line in report.controls.unmatched)
    assert len(report.controls.findings) == 3


def test_one_control_is_no_population(stand_ins, tmp_path):
    config = replace(stand_ins, controls={"a": stand_ins.controls["a"]})
    report = carry_out(config, tmp_path / "out").report
    assert report.findings[0].verdict is Verdict.INCONCLUSIVE
    assert report.findings[0].probes[0].would_need == "at least two controls"
    assert report.controls.findings == ()


def test_no_control_leaves_only_the_answers(stand_ins, tmp_path):
    report = carry_out(replace(stand_ins, controls={}), tmp_path / "out").report
    assert [item.reason for item in report.not_run] == ["no control was given"]
    assert report.findings[0].verdict is Verdict.INSUFFICIENT


def test_a_control_given_as_answers_leaves_only_the_answers(stand_ins, tmp_path):
    controls = {"a": answers_file(tmp_path / "a.jsonl", words(1))}
    report = carry_out(replace(stand_ins, controls=controls), tmp_path / "out").report
    assert "given as answers" in report.not_run[0].reason


def test_a_model_without_its_start_leaves_only_the_answers(stand_ins, tmp_path):
    shutil.rmtree(tmp_path / "suspect" / "checkpoints")
    report = carry_out(stand_ins, tmp_path / "out").report
    assert "starting checkpoint is not known" in report.not_run[0].reason
    given = replace(stand_ins, suspect_start=str(tmp_path / "a" / "checkpoints" / "step-000000"))
    assert carry_out(given, tmp_path / "out").report.not_run == ()


def declared(model: Path, teacher: str) -> None:
    stated = {"spiritsafe_inherited": {"teacher": teacher, "cache": 0.5}}
    (model / "config.json").write_text(json.dumps(stated), encoding="utf-8")


def test_of_a_suspect_that_says_it_inherits_weights_the_gain_is_not_asked(stand_ins, tmp_path):
    declared(tmp_path / "suspect" / "student", "A <b>teacher</b>")
    found = carry_out(stand_ins, tmp_path / "out")
    report = found.report
    assert report.suspect.inherits == "A <b>teacher</b>"
    (left,) = report.not_run
    assert left.reason.startswith("the config of suspect says that it began with the weights of A ")
    assert report.findings[0].verdict not in (Verdict.SUPPORTED, Verdict.NOT_SUPPORTED)
    page = found.page.read_text(encoding="utf-8")
    assert "inherits the weights of A &lt;b&gt;teacher&lt;/b&gt;" in page
    assert from_json(json.loads((tmp_path / "out" / "report.json").read_text())) == report


def test_but_it_is_asked_where_the_auditor_names_the_start(stand_ins, tmp_path):
    declared(tmp_path / "suspect" / "student", "T")
    start = str(tmp_path / "a" / "checkpoints" / "step-000000")
    report = carry_out(replace(stand_ins, suspect_start=start), tmp_path / "out").report
    assert (report.suspect.inherits, report.not_run) == ("T", ())
    assert report.findings[0].probes[0].probe == "logprob_shift"


@pytest.mark.parametrize("text", ["[]", "{", '{"spiritsafe_inherited": 3}'])
def test_a_config_that_says_nothing_of_it_is_taken_to_say_nothing(tmp_path, text):
    model = model_files(tmp_path / "model")
    (model / "config.json").write_text(text, encoding="utf-8")
    assert audit.local.find("m", model).inherits() is None


def test_nor_where_a_control_says_so(stand_ins, tmp_path):
    declared(tmp_path / "bb" / "student", "T")
    report = carry_out(stand_ins, tmp_path / "out").report
    assert report.suspect.inherits is None
    assert report.not_run[0].reason.startswith("the config of bb says")


def test_an_interrupted_audit_goes_on_with_the_next_model(stand_ins, tmp_path, monkeypatch):
    out = tmp_path / "out"
    real = StandIn.continuations

    def interrupted(self: StandIn, prompts: Sequence[str], **settings: Any) -> list[str]:
        if self.name == "a":
            raise KeyboardInterrupt
        return real(self, prompts, **settings)

    monkeypatch.setattr(StandIn, "continuations", interrupted)
    with pytest.raises(KeyboardInterrupt):
        carry_out(stand_ins, out)
    assert not (out / "report.json").exists()
    kept = bytes_of(out / "responses")
    assert len(kept) == 2
    monkeypatch.setattr(StandIn, "continuations", real)
    carry_out(stand_ins, out)
    assert StandIn.asked == ["suspect", "teacher", "a", "bb", "ccc"]
    assert kept.items() <= bytes_of(out / "responses").items()


def test_a_changed_starting_checkpoint_is_another_audit(stand_ins, tmp_path):
    out = tmp_path / "out"
    carry_out(stand_ins, out)
    (tmp_path / "a" / "checkpoints" / "step-000000" / "weights").write_text("another")
    assert not carry_out(stand_ins, out).reused


def test_a_control_with_another_vocabulary_is_refused(stand_ins, tmp_path):
    other = run_files(tmp_path / "other", vocabulary="two")
    config = replace(stand_ins, controls={**stand_ins.controls, "other": str(other)})
    said = refusal(config, tmp_path / "out")
    assert "suspect and other have different vocabularies" in said


def test_one_model_under_two_names_is_refused(stand_ins, tmp_path):
    controls = {**stand_ins.controls, "again": stand_ins.controls["a"]}
    said = refusal(replace(stand_ins, controls=controls), tmp_path / "out")
    assert said.startswith("a and again are the same model")
    assert not (tmp_path / "out").exists()


def test_an_empty_prompt_for_a_model_is_refused_by_its_id(stand_ins, tmp_path):
    held = tmp_path / "suspect" / "heldout.jsonl"
    held.write_text('{"id": "blank", "prompt": "", "response": "r"}\n' + held.read_text())
    assert "prompt 'blank' is empty" in refusal(stand_ins, tmp_path / "out")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"suspect": "none.jsonl"}, "suspect: none.jsonl does not exist"),
        ({"teachers": {"T": "nowhere"}}, "T: nowhere does not exist"),
        ({"teachers": {"T": "notes.txt"}}, "neither a .jsonl file of answers nor a directory"),
        ({"teachers": {"T": "empty"}}, "empty is no model"),
        ({"suspect": "unfinished"}, "unfinished is an unfinished run directory"),
        ({"prompts": "none.jsonl"}, "none.jsonl does not exist"),
        ({"suspect": "model"}, "is a model without prompts; give --prompts"),
        ({"teachers": {"T": "strangers.jsonl"}}, "answers none of the 24 prompts"),
    ],
)
def test_what_cannot_be_used_is_refused(stand_ins, tmp_path, monkeypatch, spoil, said):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("notes")
    Path("empty").mkdir()
    Path("unfinished").mkdir()
    Path("unfinished/config.yaml").write_text("seed: 0")
    model_files(Path("model"))
    answers_file(Path("strangers.jsonl"), ["x"], [99])
    assert said in refusal(replace(stand_ins, **spoil), tmp_path / "out")


def test_a_model_without_a_tokenizer_is_refused(stand_ins, tmp_path):
    (tmp_path / "a" / "student" / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in refusal(stand_ins, tmp_path / "out")
