"""Sign a finished run: first its weights, for other tools, then its statement over every file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audit import inspection, signing, statement
from audit.attest import file_digest
from audit.errors import InputError
from audit.statement import ENVELOPE, OWN, STATEMENT
from distill.papers import weights_signature
from distill.papers.inspection import inspect


def sign(out: Path, key: Path, weights_key: Path | None = None) -> str:
    """Sign the run in `out` if it is intact, and return the id of the statement's key.

    Args:
        out: of a finished run; earlier signatures there are replaced.
        key: an ed25519 private key in PEM, for the statement.
        weights_key: an EC private key in PEM, for the weights; None leaves them as they are.

    Raises:
        InputError: something was changed, a key cannot be used, or there is no statement.
        AuditError: the disk refuses, or the extra `sign` is not installed.
        StorageError: the disk refuses.
    """
    if not (out / STATEMENT).is_file():
        raise InputError(f"{out} has no {STATEMENT}, which is what is signed; name a finished run.")
    if weights_key is not None:
        _require_intact(out)
        weights_signature.sign(out, weights_key)
        _name(out, weights_signature.FILE)
    return signing.sign(out, key, inspect)


def _require_intact(out: Path) -> None:
    replaced = (ENVELOPE, weights_signature.FILE)
    rows = inspect(out).rows
    bad = [row for row in rows if row.ok is False and row.what not in replaced]
    if bad:
        raise InputError(f"{out} is not signed: {bad[0].what} {bad[0].seen}; sign what is intact.")


def _name(out: Path, name: str) -> None:
    """Have the statement name one more file, and leave what it says of all others."""
    value: Mapping[str, Any] = inspection.load(out / STATEMENT)[0]
    subjects = {one["name"]: one for one in value["subject"]}
    subjects[name] = statement.resource(name, file_digest(out / name))
    claim = {key: said for key, said in value["predicate"].items() if key != OWN}
    named = [subjects[key] for key in sorted(subjects)]
    statement.write(out, statement.statement(named, value["predicateType"], claim))
