"""A whole audit: real tiny models once, and stand-ins for the paths that need no network.

The real one must find the student's teacher and no control's; nothing of it may depend on the day
or be done twice.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import audit.local
from audit.attest import canonical_bytes, digest, file_digest, tree_digest
from audit.config import AuditConfig
from audit.errors import AuditError, InputError
from audit.evidence import Report, Verdict, from_json, json_schema
from audit.population import holm
from audit.probe import Outcome, probe
from audit.report.render import render
from audit.responses import read
from audit.verify import inspect
from tests.fakes.runs import Runs


class Listener:
    """What an audit said, and the stages of its progress."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.stages: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        assert 0 <= done <= total
        if stage not in self.stages:
            self.stages.append(stage)


def carry_out(config: AuditConfig, out: Path, listener: Listener | None = None) -> Outcome:
    heard = listener or Listener()
    return probe(config, out, command="audit probe", say=heard.say, progress=heard.progress)


def refusal(config: AuditConfig, out: Path, kind: type[AuditError] = InputError) -> str:
    with pytest.raises(kind) as caught:
        carry_out(config, out)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def bytes_of(directory: Path) -> dict[str, tuple[bytes, int]]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


# A real audit of real, tiny models.


def config_of(runs: Runs) -> AuditConfig:
    return AuditConfig(
        suspect=str(runs.student),
        teachers={"tiny": str(runs.teacher)},
        controls={name: str(path) for name, path in runs.controls.items()},
        max_tokens=8,
        device="cpu",
    )


@dataclass(frozen=True)
class Finished:
    config: AuditConfig
    outcome: Outcome
    listener: Listener

    @property
    def out(self) -> Path:
        return self.outcome.out

    @property
    def report(self) -> Report:
        return self.outcome.report


@pytest.fixture(scope="module")
def finished(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    out, listener = tmp_path_factory.mktemp("audit") / "out", Listener()
    config = config_of(runs)
    return Finished(config=config, outcome=carry_out(config, out, listener), listener=listener)


@pytest.mark.slow
def test_an_audit_leaves_its_config_its_answers_and_its_report(finished):
    names = {path.relative_to(finished.out).as_posix() for path in finished.out.rglob("*.*")}
    answers = {name for name in names if name.startswith("responses/")}
    assert names - answers == {"audit.yaml", "report.json", "report.html", "statement.json"}
    assert sorted(name.split("/")[1].split(".")[0] for name in answers) == [
        "control-1", "control-2", "control-3", "suspect", "tiny",
    ]  # fmt: skip
    kept = yaml.safe_load((finished.out / "audit.yaml").read_text())
    assert kept["controls"] == finished.config.controls
    assert not finished.outcome.reused
    assert finished.outcome.page == finished.out / "report.html"


@pytest.mark.slow
def test_the_report_on_disk_fits_its_schema_and_is_the_page_beside_it(finished):
    data = json.loads((finished.out / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(data, json_schema())
    assert from_json(data) == finished.report
    assert (finished.out / "report.html").read_text(encoding="utf-8") == render(finished.report)


@pytest.mark.slow
def test_the_student_is_found_and_no_control_is(finished):
    (found,) = finished.report.findings
    assert (found.suspect, found.teacher) == ("suspect", "tiny")
    assert found.verdict is Verdict.SUPPORTED
    assert [probe.probe for probe in found.probes] == ["logprob_shift", "contrast"]
    controls = finished.report.controls.findings
    assert [control.suspect for control in controls] == ["control-1", "control-2", "control-3"]
    assert Verdict.SUPPORTED not in {control.verdict for control in controls}
    assert found.score > 5 * max(control.score for control in controls)


@pytest.mark.slow
def test_a_control_is_compared_with_the_other_controls_and_never_with_the_suspect(finished):
    for finding in finished.report.controls.findings:
        for result in finding.probes:
            names = {member.name for member in result.population}
            assert names == {"control-1", "control-2", "control-3"}
            assert result.population[0].name == finding.suspect
            assert result.population[0].role == "suspect"


@pytest.mark.slow
def test_suspect_and_controls_are_corrected_as_one_family(finished):
    every = [*finished.report.findings, *finished.report.controls.findings]
    assert [f.p_adjusted for f in every] == holm([f.p_value for f in every])


@pytest.mark.slow
def test_the_controls_of_distill_match_their_student(finished):
    assert finished.report.controls.unmatched == ()
    assert all("same architecture" in line for line in finished.report.controls.matched)


@pytest.mark.slow
def test_everything_that_was_read_is_pinned(finished, runs):
    pinned = {(row.name, row.kind): row.sha256 for row in finished.report.materials}
    start = runs.student / "checkpoints" / "step-000000"
    assert pinned["suspect", "suspect: weights"] == tree_digest(runs.student / "student")
    assert pinned["suspect", "suspect: starting checkpoint"] == tree_digest(start)
    assert pinned["tiny", "teacher: weights"] == tree_digest(runs.teacher)
    held = runs.student / "heldout.jsonl"
    assert pinned["heldout.jsonl", "held-out prompts"] == file_digest(held)
    assert len(pinned) == 2 + 1 + 3 * 2 + 1


@pytest.mark.slow
def test_a_second_call_changes_no_byte(finished):
    before, listener = bytes_of(finished.out), Listener()
    again = carry_out(finished.config, finished.out, listener)
    assert again.reused
    assert again.report == finished.report
    assert bytes_of(finished.out) == before
    assert listener.said == [f"{finished.out} is finished already; nothing to do"]
    assert listener.stages == []


@pytest.mark.slow
def test_without_its_report_an_audit_is_written_again_from_the_kept_answers(finished, tmp_path):
    out = shutil.copytree(finished.out, tmp_path / "out")
    (out / "report.json").unlink()
    before, listener = bytes_of(out / "responses"), Listener()
    again = carry_out(finished.config, out, listener)
    assert not again.reused
    assert listener.stages == ["scoring continuations"]
    assert bytes_of(out / "responses") == before
    assert replace(again.report, created=finished.report.created) == finished.report


@pytest.mark.slow
def test_a_control_trained_otherwise_holds_a_supported_finding_back(finished, runs, tmp_path):
    out = shutil.copytree(finished.out, tmp_path / "out")
    other = shutil.copytree(runs.controls["control-1"], tmp_path / "other")
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["train"]["steps"] += 1
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["config_sha256"] = digest(yaml.safe_dump(config))
    (other / "manifest.json").write_text(json.dumps(manifest))
    controls = {**finished.config.controls, "control-1": str(other)}
    report = carry_out(replace(finished.config, controls=controls), out).report
    assert report.controls.unmatched == ("control-1: differs in number of steps",)
    (found,) = report.findings
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "do not match" in found.reason
    assert found.relation == "not decided"
    assert found.probes[0].verdict is Verdict.SUPPORTED


@pytest.mark.slow
def test_weights_that_lack_a_tensor_are_refused(runs, tmp_path):
    model = shutil.copytree(runs.student / "student", tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    gone = sorted(name for name in tensors if "q_b_proj" in name)[0]
    del tensors[gone]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AuditError, match=r"its files hold no .*q_b_proj"):
        audit.local.load(model, "cpu", exact=True)


@pytest.mark.slow
def test_damaged_weights_are_refused_in_one_sentence(runs, tmp_path):
    model = shutil.copytree(runs.student / "student", tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(AuditError, match="cannot load the model in") as caught:
        audit.local.load(model, "cpu", exact=True)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_score_is_the_mean_log_probability_of_the_continuation_alone(runs):
    model = audit.local.load(runs.student / "student", "cpu", exact=True)
    first = read(runs.student / "heldout.jsonl")[0]
    before = model.tokenizer(first.prompt, add_special_tokens=False)["input_ids"]
    after = model.tokenizer(first.response, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logp = model.model(torch.tensor([before + after])).logits[0].double().log_softmax(-1)
    expected = [
        float(logp[len(before) + i - 1, token]) for i, token in enumerate(after)
    ]  # each token is foretold one place before it stands
    (score,) = model.mean_logprobs([first.prompt], [first.response], lambda count: None)
    assert score == pytest.approx(np.mean(expected), abs=1e-5)


@pytest.mark.slow
def test_padding_and_batching_do_not_change_a_score(runs):
    model = audit.local.load(runs.student / "student", "cpu", exact=True)
    rows = read(runs.student / "heldout.jsonl")[:5]
    asked, answered = [r.prompt for r in rows], [r.response * (i + 1) for i, r in enumerate(rows)]
    together = model.mean_logprobs(asked, answered, lambda count: None)
    alone = [
        model.mean_logprobs([a], [b], lambda count: None)[0]
        for a, b in zip(asked, answered, strict=True)
    ]
    assert together == pytest.approx(alone, abs=1e-5)
    assert (together < 0).all()


# Answers alone, and stand-ins for models.


def answers_file(path: Path, said: Sequence[str], ids: Sequence[int] | None = None) -> str:
    places = range(len(said)) if ids is None else ids
    rows = [
        {"id": f"p{i}", "prompt": f"prompt {i}", "response": text, "document": f"d{i // 4}"}
        for i, text in zip(places, said, strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def words(seed: int, count: int = 24) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(f"w{n}" for n in random.integers(0, 50, 10)) for _ in range(count)]


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
