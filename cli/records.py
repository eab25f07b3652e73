"""What `audit` and `distill` share of records: how rows are shown, and how keys are named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import options
from cli.terminal import show

if TYPE_CHECKING:
    from audit.inspection import Inspection

public_key = click.option(
    "--key",
    type=click.Path(path_type=Path),
    metavar="PUBLIC.pem",
    help="The ed25519 key that should have signed; needs the extra `sign`.",
)
private_key = click.option(
    "--key",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PRIVATE.pem",
    help="An ed25519 key without a password; `audit keygen` makes one.",
)


def tell(path: Path, found: "Inspection", *, as_json: bool) -> None:
    """Print every row and one line about all of them; exit 1 unless all is intact."""
    if as_json:
        rows = [{"what": row.what, "ok": row.ok, "seen": row.seen} for row in found.rows]
        click.echo(json.dumps({"path": str(path), "ok": found.ok, "checks": rows}))
    else:
        said = {True: "ok", False: "CHANGED", None: "-"}
        for row in found.rows:
            show(f"{said[row.ok]:<8} {row.what}: {row.seen}")
        show(found.summary())
    if not found.ok:
        raise SystemExit(1)


def signed(path: Path, key: Path, inspect: "Callable[[Path], Inspection]") -> None:
    """Sign the statement in the directory `path`, and print who did."""
    from audit.signing import sign
    from audit.statement import ENVELOPE

    show(f"{path / ENVELOPE}: signed by key {sign(path, key, inspect)}")


@click.command()
@click.argument("name", type=click.Path(path_type=Path))
@options.traceback
def keygen(name: Path, verbose: bool) -> None:
    """Make a pair of ed25519 keys: NAME.pem to sign with, NAME.pub.pem to hand on."""
    with options.sentences(verbose=verbose, after_interrupt="look for half a pair."):
        from audit.envelope import keygen as carry_out

        private, public, keyid = carry_out(name)
        show(f"private: {private}")
        show(f"public:  {public}")
        show(f"key id:  {keyid}")
