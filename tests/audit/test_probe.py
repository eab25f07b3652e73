"""A whole audit of real, tiny models: it finds the student's teacher, and no control's.

Nothing of it may depend on the day or be done twice. `test_probe_answers` has audits without
models, `test_probe_models` those of stand-ins.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import audit.local
from audit.attest import digest, file_digest, tree_digest
from audit.config import AuditConfig
from audit.errors import AuditError
from audit.evidence import Report, Verdict, from_json, json_schema
from audit.population import holm
from audit.probe import Outcome
from audit.report.render import render
from audit.responses import read
from tests.fakes.audits import Listener, carry_out
from tests.fakes.files import bytes_of
from tests.fakes.runs import Runs


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
