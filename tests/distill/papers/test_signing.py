"""A run is signed when it is intact, and what is signed shows every later change."""

import json
import shutil
from dataclasses import replace

import pytest

from audit.envelope import keygen
from audit.errors import InputError
from audit.statement import ENVELOPE, STATEMENT
from distill.errors import InputError as DistillInputError
from distill.papers.inspection import inspect
from distill.papers.signing import sign
from distill.papers.weights_signature import FILE
from tests.fakes.keys import pair
from tests.fakes.sessions import carried_out, small_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = tmp_path_factory.mktemp("signing")
    config = small_config(place)
    return carried_out(replace(config, train=replace(config.train, steps=2)), place / "run").out


@pytest.fixture
def out(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def keys(tmp_path):
    private, public, _ = keygen(tmp_path / "me.pem")
    return private, public


def test_a_signed_run_is_intact_by_its_keys(out, tmp_path, keys):
    weights = pair(tmp_path)
    keyid = sign(out, keys[0], weights[0])
    found = inspect(out, key=keys[1], weights_key=weights[1])
    assert found.ok and None not in [row.ok for row in found.rows]
    said = {row.what: row.seen for row in found.rows}
    assert said[ENVELOPE] == f"is signed by key {keyid}"
    assert said[FILE].startswith("the weights are signed")
    assert inspect(out).ok  # without keys all else is looked at


def test_without_a_key_for_the_weights_the_statement_is_signed_alone(out, keys):
    before = (out / STATEMENT).read_bytes()
    sign(out, keys[0])
    assert (out / STATEMENT).read_bytes() == before
    assert not (out / FILE).exists()
    assert inspect(out, key=keys[1]).ok


def test_signing_again_with_other_keys_replaces_both(out, tmp_path, keys):
    other, other_public, _ = keygen(tmp_path / "other.pem")
    weights, other_weights = pair(tmp_path), pair(tmp_path, "second")
    sign(out, keys[0], weights[0])
    sign(out, other, other_weights[0])
    assert inspect(out, key=other_public, weights_key=other_weights[1]).ok
    assert not inspect(out, key=keys[1]).ok
    assert not inspect(out, weights_key=weights[1]).ok
    names = [one["name"] for one in json.loads((out / STATEMENT).read_text())["subject"]]
    assert names == sorted(set(names)) and FILE in names


def test_what_was_changed_is_not_signed(out, tmp_path, keys):
    (out / "student" / "config.json").write_text("{}")
    for weights in (None, pair(tmp_path)[0]):
        with pytest.raises(InputError, match=r"student/config\.json was changed.* sign what is"):
            sign(out, keys[0], weights)
    assert not (out / ENVELOPE).exists() and not (out / FILE).exists()


def test_a_run_without_a_statement_has_nothing_to_sign(out, keys):
    (out / STATEMENT).unlink()
    with pytest.raises(InputError, match=r"has no statement\.json"):
        sign(out, keys[0])


def test_a_signed_run_that_was_changed_and_stated_anew_is_not_what_was_signed(out, keys):
    from distill.papers import provenance

    sign(out, keys[0])
    envelope = (out / ENVELOPE).read_bytes()
    (out / "heldout.jsonl").write_text("{}\n")
    provenance.write(out)
    (out / ENVELOPE).write_bytes(envelope)
    bad = {row.what: row.seen for row in inspect(out, key=keys[1]).rows if row.ok is False}
    assert bad[ENVELOPE] == "signs other bytes than those of statement.json"


def test_a_store_has_no_signature_to_ask_for(out, keys):
    with pytest.raises(DistillInputError, match="is no run; only the statement of a run is signed"):
        inspect(out / "signals/tiny/train", key=keys[1])
