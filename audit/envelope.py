"""`statement.sig.json`: an ed25519 signature over the bytes of `statement.json`.

It is a DSSE envelope (secure-systems-lab/dsse, protocol v1) that carries those bytes as its
payload, so that one file can be handed on. Keys are PEM files. What signs and checks is
securesystemslib; it is imported only here, when it is needed (extra `sign`).
"""

import base64
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.errors import AuditError, InputError
from audit.files import write_json
from audit.inspection import GONE, Row, load_own
from audit.statement import ENVELOPE, STATEMENT

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

UNSIGNED = "unsigned: the digests guard against accident, not against intent"
PAYLOAD_TYPE = "application/vnd.in-toto+json"


def keygen(name: Path) -> tuple[Path, Path, str]:
    """Write a new pair of keys, and return the files of the private and the public key, and its id.

    Args:
        name: both files' name; `.pem` is added to the private key's, which only its owner can
            read, and `.pub.pem` to the public one's.

    Raises:
        InputError: one of the files is there already.
        AuditError: they cannot be written, or `sign` is not installed.
    """
    _require_library()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import CryptoSigner

    stem = name.name.removesuffix(".pem")
    path, public = name.with_name(f"{stem}.pem"), name.with_name(f"{stem}.pub.pem")
    if public.exists():
        raise InputError(f"{public} is there already; a key is never overwritten, so name another.")
    made = Ed25519PrivateKey.generate()
    signer = CryptoSigner(made)
    pem = made.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _write_new(path, signer.private_bytes, mode=0o600)
    _write_new(public, pem, mode=0o644)
    return path, public, signer.public_key.keyid


def _write_new(path: Path, data: bytes, *, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
    except FileExistsError as error:
        raise InputError(
            f"{path} is there already; a key is never overwritten, so name another."
        ) from error
    except OSError as error:
        raise AuditError(f"cannot write {path}: {error.strerror or error}.") from error


def sign(directory: Path, key: Path) -> str:
    """Sign the statement of `directory`, and return the id of the key; an older signature goes.

    Whether the files are those that the statement names is for the caller to look at first.

    Raises:
        InputError: `key` holds no ed25519 private key, or there is no statement.
        AuditError: the disk refuses, or `sign` is not installed.
    """
    _require_library()
    from securesystemslib.dsse import Envelope

    signer = _signer(key)
    try:
        payload = (directory / STATEMENT).read_bytes()
    except OSError as error:
        raise InputError(f"{directory / STATEMENT}: {error.strerror}; nothing to sign.") from error
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(signer)
    write_json(directory / ENVELOPE, envelope.to_dict())
    return signer.public_key.keyid


def of_envelope(directory: Path, key: Path | None) -> Row:
    """Return the row of the envelope: whether it is there, of this statement, and by this key.

    Raises:
        InputError: `key` holds no ed25519 public key.
        AuditError: a key is given and `sign` is not installed.
    """
    ok, seen = _seen(directory, None if key is None else _public(key))
    return Row(what=ENVELOPE, ok=ok, seen=seen)


def _seen(directory: Path, public: "SSlibKey | None") -> tuple[bool | None, str]:
    envelope, problem = load_own(directory, ENVELOPE)
    if problem == GONE:
        return (None, UNSIGNED) if public is None else (False, "is not there")
    if problem:
        return False, problem
    opened = _opened(envelope)
    if opened is None:
        return False, "is no DSSE envelope of a statement with one signature"
    return _judged(*opened, _bytes(directory / STATEMENT), public)


def _judged(
    payload: bytes,
    keyid: str,
    signature: bytes,
    statement: bytes | None,
    public: "SSlibKey | None",
) -> tuple[bool | None, str]:
    if payload != statement:
        return False, f"signs other bytes than those of {STATEMENT}"
    if public is None:
        return None, f"not checked: it is signed by key {keyid}, and no --key was given"
    if keyid != public.keyid:
        return False, f"is signed by key {keyid}, not by the given {public.keyid}"
    if not _is_by(public, payload, signature):
        return False, f"holds a signature that key {keyid} did not make of it"
    return True, f"is signed by key {keyid}"


def _opened(envelope: Any) -> tuple[bytes, str, bytes] | None:
    """Return payload, key id and signature, or None where `envelope` is not one of ours.

    Every byte has to count, so unknown fields and base64 with bits to spare are refused.
    """
    match envelope:
        case {
            "payload": str(payload),
            "payloadType": str(kind),
            "signatures": [{"keyid": str(keyid), "sig": str(signature), **more}],
            **rest,
        } if kind == PAYLOAD_TYPE and not more and not rest:
            said, sealed = _decoded(payload), _decoded(signature)
            return None if said is None or sealed is None else (said, keyid, sealed)
    return None


def _decoded(text: str) -> bytes | None:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return data if base64.b64encode(data).decode() == text else None


def _is_by(public: "SSlibKey", payload: bytes, signature: bytes) -> bool:
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import Signature

    signatures = {public.keyid: Signature(public.keyid, signature.hex())}
    try:
        Envelope(payload, PAYLOAD_TYPE, signatures).verify([public], 1)
    except VerificationError:
        return False
    return True


def _signer(path: Path) -> "CryptoSigner":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    try:
        found = load_pem_private_key(_pem(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(
            f"{path} holds no private key in PEM without a password; `audit keygen` makes one."
        ) from error
    if not isinstance(found, Ed25519PrivateKey):
        raise InputError(f"{path} is no ed25519 key; `audit keygen` makes one.")
    return CryptoSigner(found)


def _public(path: Path) -> "SSlibKey":
    _require_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    try:
        found = load_pem_public_key(_pem(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(
            f"{path} holds no public key in PEM; give the .pub file that `audit keygen` made."
        ) from error
    if not isinstance(found, Ed25519PublicKey):
        raise InputError(f"{path} is no ed25519 key, and none other signs here.")
    return SSlibKey.from_crypto(found)


def _pem(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; name the file of a key.") from error


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() and not path.is_symlink() else None
    except OSError:
        return None


def _require_library() -> None:
    for name in ("cryptography", "securesystemslib"):
        if importlib.util.find_spec(name) is None:
            raise AuditError(
                f"{name} is not installed, which signatures need; run: pip install "
                "'spiritsafe[sign]'"
            )
