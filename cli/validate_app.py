"""`audit validate`: how often the audit is right, wrong and silent on a bank. No logic here."""

import json
import time
from pathlib import Path

import click

from cli import options
from cli.terminal import show


@click.command()
@click.option(
    "--bank",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="A bank: models.csv, groups.csv, pairs.csv and one subfolder of answers.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/validation"),
    show_default=True,
    help="Gets verdicts.csv, findings.jsonl, metrics.json and validation.html.",
)
@options.alpha
@options.min_prompts
@click.option("--no-cache", is_flag=True, help="Keep no index of the bank in the user's cache.")
@options.as_json
@options.quiet
@options.traceback
def validate(
    bank: Path,
    out: Path,
    alpha: float,
    min_prompts: int,
    no_cache: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Judge every model of a bank in turn, and count how often that is right."""
    with options.sentences(verbose=verbose, after_interrupt="the bank's index is kept."):
        from audit.lineup.index import cache_directory
        from audit.lineup.ruling import Rules
        from audit.validate import validate as carry_out
        from audit.validation.listing import summary
        from cli.progress import Progress

        began = time.perf_counter()
        with Progress(quiet=quiet) as progress:
            found = carry_out(
                bank,
                out,
                rules=Rules(alpha=alpha),
                least_prompts=min_prompts,
                cache=None if no_cache else cache_directory(),
                say=progress.say,
                progress=progress,
            )
            progress.say(f"time: validation {time.perf_counter() - began:.0f} s")
        if as_json:
            click.echo(json.dumps(found.metrics))
            return
        for line in summary(found.metrics):
            show(line)
        show(f"page: {out / 'validation.html'}")
