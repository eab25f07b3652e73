"""`audit plan`: how many prompts an audit needs, and what they cost. No logic here."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from cli import options
from cli.terminal import show


@click.command()
@click.option(
    "--bank",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A bank whose known students say how much is found; by default the shipped one.",
)
@click.option(
    "--power",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.8,
    show_default=True,
    help="Share of known students that are to be found.",
)
@click.option(
    "--relation", default="single", show_default=True, help="Of which documented relation."
)
@click.option("--budget", type=click.FloatRange(min=0), help="Money; needs both prices.")
@click.option("--input-price", type=click.FloatRange(min=0), help="Of a million tokens in.")
@click.option("--output-price", type=click.FloatRange(min=0), help="Of a million tokens out.")
@click.option(
    "--answer-tokens",
    type=click.IntRange(min=1),
    default=400,
    show_default=True,
    help="Of an answer, on average.",
)
@click.option(
    "--models",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="That are asked: the suspect, and teachers that the bank lacks.",
)
@click.option(
    "--language",
    type=click.Choice(["en", "zh"]),
    help="Of the shipped prompts; by default all. Not with --bank.",
)
@options.alpha
@options.min_prompts
@click.option(
    "--seed",
    type=click.IntRange(min=0, max=2**53 - 1),
    default=0,
    show_default=True,
    help="Of the order in which a bank's prompts are taken.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the prompts to ask there, as many as both the power and the budget allow.",
)
@options.as_json
@options.quiet
@options.traceback
def plan(
    bank: Path | None,
    power: float,
    relation: str,
    budget: float | None,
    input_price: float | None,
    output_price: float | None,
    answer_tokens: int,
    models: int,
    language: str | None,
    alpha: float,
    min_prompts: int,
    seed: int,
    out: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Say how many prompts a power needs and how many a budget buys.

    With --bank the prompts are the bank's own, which a suspect has to answer to be compared with
    it. Without, they are the 360 shipped ones, and the power is that of the shipped bank of small
    models, whose prompts are others: a first guess until you have a bank.
    """
    if (input_price is None) != (output_price is None):
        raise click.UsageError("--input-price and --output-price go together.")
    if budget is not None and input_price is None:
        raise click.UsageError("--budget needs --input-price and --output-price.")
    if bank is not None and language is not None:
        raise click.UsageError("--language is of the shipped prompts; leave it out with --bank.")
    with options.sentences(verbose=verbose, after_interrupt="the bank's index is kept."):
        from audit.lineup.index import cache_directory
        from audit.plan import Asked
        from audit.plan import plan as carry_out
        from audit.planning.asking import Prices
        from cli.progress import Progress

        prices = None
        if input_price is not None and output_price is not None:
            prices = Prices(
                input_price=input_price,
                output_price=output_price,
                answer_tokens=answer_tokens,
                models=models,
            )
        with Progress(quiet=quiet) as progress:
            found = carry_out(
                Asked(
                    bank=bank,
                    power=power,
                    relation=relation,
                    language=language,
                    prices=prices,
                    budget=budget,
                    alpha=alpha,
                    least_prompts=min_prompts,
                    seed=seed,
                ),
                cache=cache_directory(),
                out=out,
                progress=progress,
            )
        if as_json:
            click.echo(json.dumps(asdict(found)))
            return
        for line in found.lines:
            show(line)
