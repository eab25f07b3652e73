"""Sign what is intact: an inspection first, then the signature."""

from collections.abc import Callable
from pathlib import Path

from audit import envelope
from audit.errors import InputError
from audit.inspection import Inspection
from audit.statement import ENVELOPE


def sign(directory: Path, key: Path, inspect: Callable[[Path], Inspection]) -> str:
    """Sign the statement of `directory` if all that it names is as it says; return the key's id.

    An earlier signature is replaced.

    Args:
        directory: of a finished audit, validation or run.
        key: an ed25519 private key in PEM.
        inspect: looks at the directory without a key.

    Raises:
        InputError: something was changed, the key cannot be used, or there is nothing to sign.
        AuditError: the disk refuses, or the extra `sign` is not installed.
    """
    found = inspect(directory)
    # A signature of other bytes is what is about to be replaced.
    bad = [row for row in found.rows if row.ok is False and row.what != ENVELOPE]
    if bad:
        raise InputError(
            f"{directory} is not signed: {bad[0].what} {bad[0].seen}; sign what is intact."
        )
    return envelope.sign(directory, key)
