"""A signature is of the statement's bytes, by one key, and every byte of its envelope counts."""

import base64
import json
import random
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from audit import envelope
from audit.attest import canonical_bytes
from audit.envelope import keygen, of_envelope, sign
from audit.errors import AuditError, InputError
from audit.statement import ENVELOPE, STATEMENT, statement, subjects, write


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    private, public, _ = keygen(tmp_path_factory.mktemp("keys") / "reviewer.pem")
    return private, public


@pytest.fixture
def place(tmp_path: Path) -> Path:
    root = tmp_path / "audit"
    root.mkdir()
    (root / "report.json").write_text("{}")
    write(root, statement(subjects(root), "https://example.org/claim/v1", {"claim": 1}))
    return root


def sentence(error: pytest.ExceptionInfo[AuditError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_new_key_is_for_its_owner_alone_and_is_never_overwritten(tmp_path: Path):
    private, public, keyid = keygen(tmp_path / "reviewer.pem")
    assert (private.name, public.name, len(keyid)) == ("reviewer.pem", "reviewer.pub.pem", 64)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    before = private.read_bytes()
    assert isinstance(load_pem_private_key(before, None), ed25519.Ed25519PrivateKey)
    public.unlink()
    with pytest.raises(InputError, match="never overwritten"):
        keygen(private)
    assert private.read_bytes() == before and not public.exists()
    private.rename(public)
    with pytest.raises(InputError, match="never overwritten"):
        keygen(private)
    assert public.read_bytes() == before and not private.exists()


def test_a_key_that_cannot_be_written_is_one_sentence(tmp_path: Path):
    with pytest.raises(AuditError, match="cannot write") as error:
        keygen(tmp_path / "missing" / "reviewer.pem")
    sentence(error)


def test_an_envelope_is_dsse_of_the_statements_bytes(place: Path, keys):
    keyid = sign(place, keys[0])
    data = (place / ENVELOPE).read_bytes()
    value = json.loads(data)
    assert canonical_bytes(value) == data
    assert base64.b64decode(value["payload"]) == (place / STATEMENT).read_bytes()
    assert value["payloadType"] == "application/vnd.in-toto+json"
    # The pre-authentication encoding of DSSE, protocol v1, and the signature of RFC 8032.
    payload = (place / STATEMENT).read_bytes()
    signed = b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(payload), payload)
    private = load_pem_private_key(keys[0].read_bytes(), None)
    assert isinstance(private, ed25519.Ed25519PrivateKey)
    (signature,) = value["signatures"]
    assert signature["keyid"] == keyid
    private.public_key().verify(base64.b64decode(signature["sig"]), signed)


def test_with_the_key_a_signature_is_intact_without_it_not_checked(place: Path, keys):
    keyid = sign(place, keys[0])
    assert of_envelope(place, keys[1]).ok is True
    unchecked = of_envelope(place, None)
    assert unchecked.ok is None
    assert unchecked.seen == f"not checked: it is signed by key {keyid}, and no --key was given"


def test_unsigned_is_said_and_is_a_fault_only_if_a_key_is_given(place: Path, keys):
    assert (of_envelope(place, None).ok, of_envelope(place, keys[1]).ok) == (None, False)
    assert of_envelope(place, None).seen == envelope.UNSIGNED


def test_another_key_is_named(place: Path, keys, tmp_path: Path):
    own = sign(place, keys[0])
    _, other, keyid = keygen(tmp_path / "other.pem")
    seen = of_envelope(place, other)
    assert (seen.ok, seen.seen) == (False, f"is signed by key {own}, not by the given {keyid}")


def test_an_envelope_of_another_statement_is_told(place: Path, keys):
    sign(place, keys[0])
    data = (place / STATEMENT).read_bytes()
    for changed in (data + b"\n", b""):
        (place / STATEMENT).write_bytes(changed)
        assert of_envelope(place, keys[1]).seen == "signs other bytes than those of statement.json"
        assert of_envelope(place, None).ok is False
    (place / STATEMENT).unlink()
    assert of_envelope(place, None).ok is False


def test_every_single_byte_of_an_envelope_counts(place: Path, keys):
    sign(place, keys[0])
    data = (place / ENVELOPE).read_bytes()
    random_ = random.Random(5)
    for offset in range(len(data)):
        other = random_.choice([byte for byte in range(256) if byte != data[offset]])
        (place / ENVELOPE).write_bytes(data[:offset] + bytes([other]) + data[offset + 1 :])
        assert of_envelope(place, keys[1]).ok is False, offset
    (place / ENVELOPE).write_bytes(data)
    assert of_envelope(place, keys[1]).ok is True


def test_the_spare_bits_of_base64_count(place: Path, keys):
    sign(place, keys[0])
    value = json.loads((place / ENVELOPE).read_bytes())
    signature = value["signatures"][0]["sig"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = signature[:-3] + alphabet[alphabet.index(signature[-3]) ^ 1] + "=="
    assert base64.b64decode(other) == base64.b64decode(signature) and other != signature
    value["signatures"][0]["sig"] = other
    (place / ENVELOPE).write_bytes(canonical_bytes(value))
    assert of_envelope(place, keys[1]).ok is False


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(payloadType="application/json"),
        lambda value: value.update(more=1),
        lambda value: value["signatures"].append(value["signatures"][0]),
        lambda value: value["signatures"][0].update(more=1),
        lambda value: value.update(signatures=[]),
        lambda value: value.update(signatures={}),
        lambda value: value.update(payload=None),
        lambda value: value["signatures"][0].update(sig="\u00e9"),
        lambda value: value["signatures"][0].update(sig=""),
        lambda value: value["signatures"][0].update(keyid=""),
    ],
)
def test_an_envelope_with_more_or_less_in_it_is_none(place: Path, keys, change):
    sign(place, keys[0])
    value = json.loads((place / ENVELOPE).read_bytes())
    change(value)
    (place / ENVELOPE).write_bytes(canonical_bytes(value))
    assert of_envelope(place, keys[1]).ok is False


@pytest.mark.parametrize("data", [b"", b"{", b"null", b"[]", b"\xff", b"[" * 99_999, b"9" * 9_999])
def test_garbage_in_place_of_an_envelope_is_a_row(place: Path, keys, data):
    (place / ENVELOPE).write_bytes(data)
    for key in (None, keys[1]):
        assert of_envelope(place, key).ok is False


def test_what_is_no_ed25519_key_is_refused_in_a_sentence(place: Path, keys, tmp_path: Path):
    curve = ec.generate_private_key(ec.SECP256R1())
    own = ed25519.Ed25519PrivateKey.generate()
    secret = BestAvailableEncryption(b"secret")
    pem = (Encoding.PEM, PrivateFormat.PKCS8)
    for name, data in {
        "curve": curve.private_bytes(*pem, NoEncryption()),
        "secret": own.private_bytes(*pem, secret),
        "garbage": b"\x00",
        "public": keys[1].read_bytes(),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError) as error:
            sign(place, tmp_path / name)
        assert name in sentence(error)
    for wrong in (keys[0], tmp_path / "missing", tmp_path):
        with pytest.raises(InputError) as error:
            of_envelope(place, wrong)
        assert str(wrong) in sentence(error)
    assert not (place / ENVELOPE).exists()


def test_without_a_statement_there_is_nothing_to_sign(tmp_path: Path, keys):
    with pytest.raises(InputError, match="nothing to sign"):
        sign(tmp_path, keys[0])


def test_without_the_extra_one_sentence_says_what_to_install(place: Path, keys, monkeypatch):
    monkeypatch.setattr(envelope.importlib.util, "find_spec", lambda name: None)
    for call in (
        lambda: sign(place, keys[0]),
        lambda: keygen(place / "k.pem"),
        lambda: of_envelope(place, keys[1]),
    ):
        with pytest.raises(AuditError, match=r"pip install 'spiritsafe\[sign\]'") as error:
            call()
        sentence(error)
    assert of_envelope(place, None).seen == envelope.UNSIGNED
