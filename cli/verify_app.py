"""`audit report`, `audit sign`, `audit verify`: records of an audit. No logic lives here."""

from pathlib import Path

import click

from cli import options, records
from cli.terminal import show


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="PAGE",
    help="Where the page goes; by default beside FILE, and - is stdout.",
)
@options.traceback
def report(file: Path, out: Path | None, verbose: bool) -> None:
    """Draw the page of FILE, a report.json, again: byte for byte what `audit probe` drew."""
    with options.sentences(verbose=verbose, after_interrupt="nothing was changed."):
        from audit.filed import drawn
        from audit.files import write_text

        page = drawn(file)
        if out == Path("-"):
            click.echo(page.encode(), nl=False)
            return
        place = file.with_suffix(".html") if out is None else out
        write_text(place, page)
        show(f"page: {place}")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@records.private_key
@options.traceback
def sign(directory: Path, key: Path, verbose: bool) -> None:
    """Sign the statement of an audit or a validation, if all of it is intact.

    The signature is statement.sig.json, a DSSE envelope; an earlier one is replaced.
    """
    with options.sentences(verbose=verbose, after_interrupt="nothing was signed."):
        from audit.verify import inspect

        records.signed(directory, key, inspect)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@records.public_key
@options.as_json
@options.traceback
def verify(path: Path, key: Path | None, as_json: bool, verbose: bool) -> None:
    """Check PATH, an audit, a validation, or one file of it, against its statement.

    Exits 1 when anything was changed, added, renamed or lost, or is not signed by --key.
    """
    with options.sentences(verbose=verbose, after_interrupt="nothing was changed."):
        from audit.verify import inspect

        records.tell(path, inspect(path, key), as_json=as_json)
