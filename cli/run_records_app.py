"""`distill report`, `distill sign`, `distill verify`: records of a run. No logic lives here."""

from pathlib import Path

import click

from cli import options, records
from cli.terminal import show


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="PAGE",
    help="Where the page goes; by default run.html of RUN, and - is stdout.",
)
@options.traceback
def report(run: Path, out: Path | None, verbose: bool) -> None:
    """Draw the page of RUN again from its records: byte for byte what `distill run` drew."""
    with options.sentences(verbose=verbose, after_interrupt="nothing was changed."):
        from distill.files import write_bytes
        from distill.papers import render

        page = render.papers(render.read(run))[render.PAGE]
        if out == Path("-"):
            click.echo(page, nl=False)
            return
        place = run / render.PAGE if out is None else out
        write_bytes(place, page)
        show(f"page: {place}")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@records.private_key
@click.option(
    "--weights-key",
    type=click.Path(path_type=Path),
    metavar="PRIVATE.pem",
    help="An EC key (P-256, P-384 or P-521); signs the weights by OpenSSF model signing, too.",
)
@options.traceback
def sign(run: Path, key: Path, weights_key: Path | None, verbose: bool) -> None:
    """Sign the statement of RUN over all its files, if all of it is intact.

    The signature is statement.sig.json, a DSSE envelope; that of the weights is student.sig.json,
    which `model_signing verify key` reads. Earlier ones are replaced.
    """
    with options.sentences(verbose=verbose, after_interrupt="nothing was signed."):
        from audit.statement import ENVELOPE
        from distill.papers.signing import sign as carry_out
        from distill.papers.weights_signature import FILE

        keyid = carry_out(run, key, weights_key)
        if weights_key is None:
            show("weights: signed with the statement alone; --weights-key signs them for others")
        else:
            show(f"{run / FILE}: signed by {weights_key}")
        show(f"{run / ENVELOPE}: signed by key {keyid}")


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@records.public_key
@click.option(
    "--weights-key",
    type=click.Path(path_type=Path),
    metavar="PUBLIC.pem",
    help="The EC key that should have signed the weights; needs the extra `sign`.",
)
@options.as_json
@options.traceback
def verify(
    path: Path, key: Path | None, weights_key: Path | None, as_json: bool, verbose: bool
) -> None:
    """Check PATH, a run, a store of signals or a directory of stores, against its records.

    Exits 1 when anything was changed, added, renamed or lost, or is not signed by --key. Signals
    may be elsewhere, and other runs that share them may have added to them.
    """
    with options.sentences(verbose=verbose, after_interrupt="nothing was changed."):
        from distill.papers.inspection import inspect

        records.tell(path, inspect(path, key=key, weights_key=weights_key), as_json=as_json)
