"""The statement of a run is in-toto's, its predicate SLSA's, and it names every file."""

import json
from dataclasses import replace

import pytest
import yaml
from in_toto_attestation.v1.statement import Statement

from audit.attest import canonical_bytes, file_digest
from audit.statement import OWN, STATEMENT, TREE
from distill.papers import bom, provenance
from distill.papers.provenance import PREDICATE
from distill.run import run
from tests.fakes.runs import quiet, still
from tests.fakes.sessions import carried_out, small_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    made = small_config(tmp_path_factory.mktemp("provenance"))
    return replace(made, train=replace(made.train, steps=2))


@pytest.fixture(scope="module")
def out(config, tmp_path_factory):
    return carried_out(config, tmp_path_factory.mktemp("provenance") / "run").out


@pytest.fixture(scope="module")
def stated(out):
    return json.loads((out / STATEMENT).read_text(encoding="utf-8"))


def test_in_totos_own_reader_takes_it(stated):
    from google.protobuf import json_format
    from in_toto_attestation.v1 import statement_pb2

    made = json_format.ParseDict(stated, statement_pb2.Statement())
    Statement.copy_from_pb(made).validate()
    assert made.predicate_type == PREDICATE


def test_every_file_is_a_subject_but_the_statement_itself(out, stated):
    files = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    named = {one["name"]: one["digest"]["sha256"] for one in stated["subject"]}
    assert set(files) - set(named) == {STATEMENT}
    assert all(named[name] == file_digest(files[name]) for name in named)
    assert "signals/tiny/samples.json" in named and "student/model.safetensors" in named


def test_the_config_is_what_was_asked_for_and_the_inputs_are_what_it_depends_on(out, stated):
    definition = stated["predicate"]["buildDefinition"]
    text = (out / "config.yaml").read_text(encoding="utf-8")
    assert definition["externalParameters"]["config"] == json.loads(
        canonical_bytes(yaml.safe_load(text))
    )
    manifest = json.loads((out / "manifest.json").read_text())
    found = {one["name"]: one for one in definition["resolvedDependencies"]}
    assert set(found) == {row["name"] for row in manifest["inputs"]}
    assert TREE in found["tiny"]["digest"]
    assert found["tiny"]["annotations"]["teacher"]["owned"] is True
    assert "sha256" in found["tokenizer.json"]["digest"]
    assert "spiritsafe_chain_sha256" in found["training signals, tiny"]["digest"]
    device = definition["internalParameters"]["device"]
    assert device == manifest["device"] and device["kernel"]


def test_it_says_when_who_and_that_the_builder_is_not_isolated(out, stated):
    details = stated["predicate"]["runDetails"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert details["metadata"]["startedOn"] <= details["metadata"]["finishedOn"]
    assert details["metadata"]["finishedOn"] == manifest["created"]
    serial = json.loads((out / bom.FILE).read_text())["serialNumber"]
    assert details["metadata"]["invocationId"] == serial
    assert details["builder"]["version"]["spiritsafe"] == manifest["code"]["version"]
    assert stated["predicate"]["spiritsafe_slsa_level"].startswith("Build L0")
    names = [one["name"] for one in details["byproducts"]]
    assert names == ["eval.json", "metrics.jsonl"]
    assert OWN in stated["predicate"]


def test_a_finished_run_that_was_killed_before_its_statement_gets_it_by_the_same_command(
    config, out
):
    before = (out / STATEMENT).read_bytes()
    (out / STATEMENT).unlink()
    run(config, out, say=quiet, progress=still)
    assert (out / STATEMENT).read_bytes() == before
    written = (out / STATEMENT).stat().st_mtime_ns
    run(config, out, say=quiet, progress=still)
    assert (out / STATEMENT).stat().st_mtime_ns == written


def test_a_run_that_goes_on_has_no_statement_until_it_is_finished(config, out, monkeypatch):
    (out / "manifest.json").unlink()

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(provenance, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config, out, say=quiet, progress=still)
    assert not (out / STATEMENT).exists()
    run(config, out, say=quiet, progress=still)
    assert (out / STATEMENT).is_file()
