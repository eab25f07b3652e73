"""`student.sig.json`: a signature of the student's weights that other tools can check.

It is a bundle of the OpenSSF Model Signing specification over the files of `student/`, made with a
key and without a network by the package `model-signing` (extra `sign`), which takes keys over the
curves P-256, P-384 and P-521 alone. So it has a key of its own beside that of the statement. The
bundle is kept as canonical JSON, so that no byte of it can change unseen.
"""

import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from audit import inspection
from audit.attest import canonical_bytes, parse
from audit.errors import AuditError
from audit.inspection import Row
from distill import files
from distill.errors import InputError

FILE = "student.sig.json"
STUDENT = "student"
_PACKAGES = ("model_signing", "OpenSSL")  # the first imports the second without asking for it
_MAKE = "`openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem` makes one"


def is_installed() -> bool:
    """Tell whether what signs weights is there."""
    return all(importlib.util.find_spec(name) is not None for name in _PACKAGES)


def sign(out: Path, key: Path) -> None:
    """Sign the weights of the run in `out` with the private EC key in the file `key`.

    Raises:
        InputError: the key cannot be used.
        AuditError: `model-signing` is not installed.
        StorageError: the disk refused.
    """
    _require()
    from model_signing import signing

    _readable(key)
    try:
        with _quiet_place() as made:
            signer = signing.Config().use_elliptic_key_signer(private_key=key, password=None)
            signer.sign(out / STUDENT, made)
            bundle = parse(made.read_bytes())
    except (ValueError, TypeError, AttributeError) as error:  # its own, and those of cryptography
        raise InputError(
            f"{key} is no private EC key without a password ({error}); {_MAKE}."
        ) from error
    files.write_bytes(out / FILE, canonical_bytes(bundle))


def of_weights(out: Path, key: Path | None) -> Iterator[Row]:
    """Yield the row of the signature, where there is one or `key`, a public one, is given.

    Raises:
        InputError: the key cannot be used.
        AuditError: a key is given and `model-signing` is not installed.
    """
    there = (out / FILE).exists()
    if key is not None:
        yield _checked(out, key) if there else Row(what=FILE, ok=False, seen=inspection.GONE)
    elif there:
        seen = "is a signature of the weights: not checked, as no --weights-key was given"
        yield Row(what=FILE, ok=None, seen=seen)


def _checked(out: Path, key: Path) -> Row:
    _require()
    from model_signing import verifying

    _readable(key)
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{key} is no public EC key ({error}); give that of the signer."
        ) from error
    value, problem = inspection.load(out / FILE)
    if problem or value is None:
        return Row(what=FILE, ok=False, seen=problem)
    try:
        verifier.verify(out / STUDENT, out / FILE)
    except Exception as error:  # whatever damage does to a reader of bundles
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Row(what=FILE, ok=False, seen=f"is no signature of the weights by {key}: {said}")
    return Row(what=FILE, ok=True, seen=f"the weights are signed by the key in {key}")


@contextmanager
def _quiet_place() -> Iterator[Path]:
    """Yield a path outside the run, where the library writes its bundle as it likes."""
    with tempfile.TemporaryDirectory() as work:
        yield Path(work) / FILE


def _readable(key: Path) -> None:
    if not key.is_file():
        raise InputError(f"{key} is no file; name the file of an EC key in PEM.")


def _require() -> None:
    if not is_installed():
        raise AuditError(
            "model-signing, which signs weights, is not installed with pyopenssl, which it needs; "
            "run: pip install 'spiritsafe[sign]'"
        )
