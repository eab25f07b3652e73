"""`distill`: train a student from a teacher, and the verbs around it. No logic lives here."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import options, run_records_app
from cli.store_app import store
from cli.terminal import show

if TYPE_CHECKING:
    from distill.config import RunConfig

_AFTER_INTERRUPT = "what was finished is saved, so the same command goes on from there."


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spiritsafe", prog_name="distill")
def main() -> None:
    """Distil your own teacher into an MLA/MoE student, with a record of what went in.

    \b
    distill run                   the embedded teacher and text, into runs/student
    distill init > run.yaml       a commented config to edit
    distill students              what `distill init --student NAME` knows
    distill plan run.yaml         how large the student is, what it caches, what training takes
    distill run run.yaml -s train.steps=500 --out runs/mine
    distill capture run.yaml --out signals/mine   the teachers' signals alone
    distill verify runs/mine      is a run, or a store, what its records say?
    distill sign runs/mine --key me.pem
    """  # noqa: D301 (click reads the escape)
    options.settle_libraries()


main.add_command(store)
main.add_command(run_records_app.report)
main.add_command(run_records_app.sign)
main.add_command(run_records_app.verify)

_set = click.option(
    "-s",
    "--set",
    "settings",
    multiple=True,
    metavar="KEY.PATH=VALUE",
    help="Override one setting; may be repeated.",
)


@main.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@_set
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/student"),
    show_default=True,
    help="Run directory; an interrupted run there is continued.",
)
@options.as_json
@options.quiet
@options.traceback
def run(
    config: Path | None,
    settings: tuple[str, ...],
    out: Path,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Capture the teacher's signal, train the student, evaluate it, write the record.

    Without CONFIG the shipped quick start is used: SmolLM2-135M-Instruct is the teacher, whose
    weights the student inherits; the text is Python's help topics and the teacher's own answers.
    """
    with options.sentences(verbose=verbose, after_interrupt=_AFTER_INTERRUPT):
        from distill.config import load

        _carry_out(load(config, settings), out, as_json=as_json, quiet=quiet)


@main.command()
@click.argument("student_run", type=click.Path(path_type=Path))
@click.option(
    "--seed",
    type=click.IntRange(min=0, max=2**53 - 1),
    required=True,
    help="Not the student's own.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run directory.")
@options.as_json
@options.quiet
@options.traceback
def control(
    student_run: Path, seed: int, out: Path, as_json: bool, quiet: bool, verbose: bool
) -> None:
    """Train a control for STUDENT_RUN: same architecture, text and steps, no teacher, other seed.

    An audit needs at least two of them.
    """
    with options.sentences(verbose=verbose, after_interrupt=_AFTER_INTERRUPT):
        from distill.run import control_of

        _carry_out(control_of(student_run, seed=seed), out, as_json=as_json, quiet=quiet)


def _carry_out(config: object, out: Path, *, as_json: bool, quiet: bool) -> None:
    from cli.progress import Progress
    from distill.config import RunConfig
    from distill.papers.bill import in_words
    from distill.run import run as carry_out

    assert isinstance(config, RunConfig)
    with Progress(quiet=quiet) as progress:
        outcome = carry_out(config, out, say=progress.say, progress=progress)
        seconds = outcome.evaluation["seconds"]
        split = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
        peak = outcome.evaluation["peak_memory_bytes"] / 2**30
        progress.say(f"time: {split}; peak memory {peak:.1f} GiB")
        progress.say(in_words(outcome.evaluation["bill"]))
    if as_json:
        click.echo(json.dumps({**outcome.evaluation, "out": str(out), "reused": outcome.reused}))
        return
    show(f"student: {out / 'student'}")
    show(f"page:    {outcome.page}")


@main.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@_set
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Where the signals are kept; give it to runs as signal.path.",
)
@options.as_json
@options.quiet
@options.traceback
def capture(
    config: Path | None,
    settings: tuple[str, ...],
    out: Path,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Ask the teachers of CONFIG for their signals and keep them, without training.

    Started by torchrun, the processes share the work; a later call makes what one of them left.
    """
    with options.sentences(verbose=verbose, after_interrupt=_AFTER_INTERRUPT):
        from cli.progress import Progress
        from distill.config import load
        from distill.run import capture as take

        asked = load(config, [*settings, f"signal.path={json.dumps(str(out))}"])
        with Progress(quiet=quiet) as progress:
            stores = take(asked, say=progress.say, progress=progress)
        rows = [
            {
                "path": str(store.path),
                "mode": store.key.mode,
                "tokens": store.tokens,
                "bytes": store.size_bytes(),
                "sha256": store.sha256(),
            }
            for store in stores
        ]
        if as_json:
            click.echo(json.dumps({"stores": rows}))
            return
        for row in rows:
            show(f"{row['path']}: {row['tokens']:,} tokens, {row['bytes']:,} bytes")


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@_set
@options.traceback
def check(config: Path, settings: tuple[str, ...], verbose: bool) -> None:
    """Validate CONFIG and print it resolved, every key explicit; say what the student will cost.

    What it costs and keeps is said on stderr, where its teacher is on disk.
    """
    with options.sentences(verbose=verbose, after_interrupt="nothing was changed."):
        from audit import strict_yaml
        from distill.config import load

        resolved = load(config, settings)
        costs = _costs(resolved)
        click.echo(strict_yaml.dump(resolved), nl=False)
        show(f"{config} is valid.", err=True)
        for line in costs:
            show(line, err=True)


def _costs(config: "RunConfig") -> list[str]:
    """Return what `distill plan` says, where no teacher has to be made for it."""
    try:
        from distill.planning import at_hand
    except ModuleNotFoundError as error:  # configs are checked without torch, too
        return [f"`distill plan` says what the student costs and keeps; it needs {error.name}."]
    found = at_hand(config)
    if found is None:
        return ["`distill plan` says what the student costs and keeps; its teacher is not here."]
    return found.lines


@main.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@_set
@options.as_json
@options.traceback
def plan(config: Path | None, settings: tuple[str, ...], as_json: bool, verbose: bool) -> None:
    """Say how large the student of CONFIG is, what it caches, and what training it takes."""
    with options.sentences(verbose=verbose, after_interrupt="nothing was changed."):
        from distill.config import load
        from distill.planning import outlook

        found = outlook(load(config, settings), lambda said: show(said, err=True))
        if as_json:
            click.echo(json.dumps(asdict(found)))
            return
        for line in found.lines:
            show(line)


@main.command()
@click.option(
    "--student",
    "name",
    metavar="NAME",
    default="quickstart",
    show_default=True,
    help="A student of the catalogue, which `distill students` lists, or `quickstart`.",
)
@options.traceback
def init(name: str, verbose: bool) -> None:
    """Print a commented config to edit: the quick start, or a run with the student called NAME.

    The quick start's student begins with its teacher's weights; those of the catalogue are drawn.
    `quick-scratch` has every key with its default.
    """
    with options.sentences(verbose=verbose, after_interrupt="nothing was changed."):
        from distill import starter

        click.echo(starter.run_file(name), nl=False)
        warning = starter.too_large(name)
        if warning:
            show(f"note: {warning}", err=True)


@main.command()
@options.as_json
@options.traceback
def students(as_json: bool, verbose: bool) -> None:
    """List the students that `distill init --student` knows, and how large they are."""
    with options.sentences(verbose=verbose, after_interrupt="nothing was changed."):
        from distill import starter

        if as_json:
            rows = [asdict(size) for size in starter.sizes()]
            vocabulary = starter.RELEASED_VOCABULARY
            click.echo(json.dumps({"vocabulary": vocabulary, "students": rows}))
            return
        click.echo(starter.table(), nl=False)


@main.command()
@options.quiet
@options.traceback
def teacher(quiet: bool, verbose: bool) -> None:
    """Print the directory of the embedded teacher, converting its weights on first use."""
    with options.sentences(verbose=verbose, after_interrupt="nothing was lost."):
        from cli.progress import Progress
        from distill.teachers import embedded

        with Progress(quiet=quiet) as progress:
            place = embedded.ensure(progress.say)
        click.echo(place)
