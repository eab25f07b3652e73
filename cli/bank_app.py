"""`audit bank`: answers of many models, imported from other projects' files and counted."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from cli import options
from cli.terminal import show

# Named here as well as in audit.banks.importing, which --help must not wait for; a test compares.
FORMATS = ("alpaca-eval", "arena-hard", "wildbench", "lm-eval")


@click.group()
def bank() -> None:
    """Build and check banks: answers of many models, and what is known of each.

    \b
    audit bank import clone/of/arena-hard-auto/data/arena-hard-v2.0 banks/arena
    audit bank describe banks/arena
    """  # noqa: D301 (click reads the escape)


@bank.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--format", "format_name", type=click.Choice(FORMATS), help="By default what the files show."
)
@click.option(
    "--labels", type=click.Path(path_type=Path), help="A models.csv; only its models are imported."
)
@click.option("--groups", type=click.Path(path_type=Path), help="A groups.csv, with --labels.")
@click.option("--pairs", type=click.Path(path_type=Path), help="A pairs.csv, with --labels.")
@options.as_json
@options.traceback
def import_(
    source: Path,
    out: Path,
    format_name: str | None,
    labels: Path | None,
    groups: Path | None,
    pairs: Path | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Read the answers under SOURCE, a clone or one file, into the new bank OUT.

    \b
    alpaca-eval  */model_outputs.json
    arena-hard   model_answer/*.jsonl, versions 0.1 and 2.0
    wildbench    *.json with session_id and output
    lm-eval      MODEL/samples_*.jsonl, of tasks that have answers written

    Without --labels every model is written down as a family of its own; fill in models.csv before
    any finding rests on the bank.
    """  # noqa: D301 (click reads the escape)
    if labels is None and (groups or pairs):
        raise click.UsageError("--groups and --pairs need --labels, whose models they name.")
    with options.sentences(verbose=verbose, after_interrupt="nothing was written."):
        from audit.banks.importing import Tables, import_bank, remarks

        tables = None if labels is None else Tables(models=labels, groups=groups, pairs=pairs)
        done = import_bank(source, out, format_name=format_name, tables=tables)
        for remark in remarks(done):
            show(remark, err=True)
        if as_json:
            click.echo(json.dumps({**asdict(done), "path": str(done.path)}))
        else:
            show(f"{done.path}: {done.models:,} models, {done.answers:,} answers")


@bank.command()
@click.argument("path", metavar="BANK", type=click.Path(path_type=Path))
@options.as_json
@options.traceback
def describe(path: Path, as_json: bool, verbose: bool) -> None:
    """Check the bank BANK and count what it holds.

    repeated: answers that are letter for letter the answer to an earlier prompt. refused: answers
    that begin like a refusal, by a few rules in English and Chinese. cut off: `finish_reason` is
    "length"; where a file does not say, a code block is left open, or an answer longer than the
    model's median ends in a word or a comma. words: the mean, a Chinese character being one.
    """
    with options.sentences(verbose=verbose, after_interrupt="nothing was changed."):
        from audit.bank import load
        from audit.banks.describe import describe as count
        from audit.banks.describe import to_json
        from audit.banks.listing import text

        described = count(load(path))
        click.echo(json.dumps(to_json(described)) if as_json else text(described))
