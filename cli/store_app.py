"""`distill store`: signals to and from other tools' files."""

from pathlib import Path

import click

from cli import options
from cli.terminal import show


@click.group()
def store() -> None:
    """Export and import stores of teachers' signals.

    \b
    distill store export signals/mine/teacher/train out.parquet
    distill store import out.parquet signals/copy
    """  # noqa: D301 (click reads the escape)


@store.command("export")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@options.traceback
def export(source: Path, target: Path, verbose: bool) -> None:
    """Write the store SOURCE to TARGET: one .parquet file, or a `datasets` directory."""
    with options.sentences(verbose=verbose, after_interrupt="nothing was changed."):
        from distill.store import exchange
        from distill.store.store import Store

        write = exchange.to_parquet if target.suffix == ".parquet" else exchange.to_datasets
        write(Store.open(source), target)
        click.echo(target)


@store.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--vocab-size",
    type=click.IntRange(min=1),
    help="For another tool's rows of input_ids, topk_ids and topk_logprobs.",
)
@options.traceback
def import_(source: Path, target: Path, vocab_size: int | None, verbose: bool) -> None:
    """Read SOURCE, which `export` or another tool wrote, into the store TARGET."""
    with options.sentences(verbose=verbose, after_interrupt="nothing was changed."):
        from distill.store import exchange, top_k

        if vocab_size is not None:
            made = top_k.from_top_k(source, target, vocab_size=vocab_size)
        elif source.suffix == ".parquet":
            made = exchange.from_parquet(source, target)
        else:
            made = exchange.from_datasets(source, target)
        show(f"{made.path}: {made.tokens:,} tokens, {made.size_bytes():,} bytes")
