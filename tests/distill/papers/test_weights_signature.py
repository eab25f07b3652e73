"""Weights are signed as other tools check them, and no byte of the signature can change unseen."""

import importlib.util
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from audit.errors import AuditError
from distill.errors import InputError
from distill.papers import weights_signature
from distill.papers.weights_signature import FILE, of_weights, sign
from tests.fakes.keys import pair


@pytest.fixture
def out(tmp_path):
    place = tmp_path / "run" / "student"
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(b"weights")
    (place / "config.json").write_text("{}")
    return place.parent


def test_what_is_signed_is_intact_by_the_public_key_and_by_the_librarys_own_reader(out, tmp_path):
    from model_signing import verifying

    private, public = pair(tmp_path)
    sign(out, private)
    (row,) = of_weights(out, public)
    assert row.ok and row.what == FILE
    verifying.Config().use_elliptic_key_verifier(public_key=public).verify(
        out / "student", out / FILE
    )
    assert {path.name for path in out.iterdir()} == {"student", FILE}


def test_changed_added_and_lost_weights_are_found(out, tmp_path):
    private, public = pair(tmp_path)
    sign(out, private)
    (out / "student" / "extra.bin").write_bytes(b"")
    (row,) = of_weights(out, public)
    assert row.ok is False and "extra.bin" in row.seen
    (out / "student" / "extra.bin").unlink()
    (out / "student" / "model.safetensors").write_bytes(b"weighty")
    assert [row.ok for row in of_weights(out, public)] == [False]
    (out / "student" / "model.safetensors").unlink()
    assert [row.ok for row in of_weights(out, public)] == [False]


def test_another_key_did_not_sign_them(out, tmp_path):
    sign(out, pair(tmp_path)[0])
    (row,) = of_weights(out, pair(tmp_path, "other")[1])
    assert row.ok is False and "no signature of the weights" in row.seen


def test_a_bundle_that_was_damaged_or_written_otherwise_is_a_row(out, tmp_path):
    private, public = pair(tmp_path)
    sign(out, private)
    value = json.loads((out / FILE).read_text())
    for damage in (json.dumps(value, indent=1), "{", "{}", "[]", "null", '{"mediaType":1}'):
        (out / FILE).write_text(damage)
        assert [row.ok for row in of_weights(out, public)] == [False]


def test_without_a_key_it_is_said_that_nothing_was_checked(out, tmp_path):
    assert list(of_weights(out, None)) == []
    private, public = pair(tmp_path)
    (row,) = of_weights(out, public)
    assert row.ok is False and row.seen == "is gone"
    sign(out, private)
    (row,) = of_weights(out, None)
    assert row.ok is None and "no --weights-key was given" in row.seen


@pytest.mark.parametrize("made", [ed25519.Ed25519PrivateKey.generate(), b"", b"no key"])
def test_a_key_that_is_none_of_its_curves_is_one_sentence(out, tmp_path, made):
    key = tmp_path / "key.pem"
    if isinstance(made, bytes):
        key.write_bytes(made)
    else:
        pair(tmp_path, made=made)
    with pytest.raises(InputError, match="is no private EC key without a password"):
        sign(out, key)
    with pytest.raises(InputError, match=r"gone\.pem is no file"):
        sign(out, tmp_path / "gone.pem")
    assert not (out / FILE).exists()
    (out / FILE).write_text("{}")
    with pytest.raises(InputError, match="is no public EC key"):
        list(of_weights(out, key))


def test_a_key_over_another_curve_is_refused(out, tmp_path):
    private, _ = pair(tmp_path, made=ec.generate_private_key(ec.SECP256K1()))
    with pytest.raises(InputError, match="secp256k1"):
        sign(out, private)


@pytest.mark.parametrize("missing", ["model_signing", "OpenSSL"])
def test_where_the_package_is_not_installed_that_is_one_sentence(
    out, tmp_path, monkeypatch, missing
):
    private, _ = pair(tmp_path)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        weights_signature.importlib.util,
        "find_spec",
        lambda name: None if name == missing else real(name),
    )
    with pytest.raises(AuditError, match=r"not installed .*pip install 'spiritsafe\[sign\]'"):
        sign(out, private)
