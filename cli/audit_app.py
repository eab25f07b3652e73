"""`audit`: ask where a model's answers came from. No logic lives here."""

import json
import shlex
import sys
import time
from pathlib import Path

import click

from cli import bank_app, options, plan_app, records, validate_app, verify_app
from cli.terminal import show

_EXIT_FINDING = 3
_EXIT_INSUFFICIENT = 4


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spiritsafe", prog_name="audit")
def main() -> None:
    """Audit whether a model's outputs were lifted from given teachers.

    \b
    audit probe --suspect runs/student --teacher T=DIR --control A=runs/a --control B=runs/b
    audit probe --suspect answers.jsonl --teacher T=t.jsonl --reference-model R=r.jsonl
    audit probe --suspect answers.jsonl --bank DIR
    audit validate --bank DIR
    audit plan --bank DIR --power 0.8
    audit verify runs/audit
    """  # noqa: D301 (click reads the escape)
    options.settle_libraries()


main.add_command(bank_app.bank)
main.add_command(plan_app.plan)
main.add_command(validate_app.validate)
main.add_command(verify_app.report)
main.add_command(verify_app.verify)
main.add_command(verify_app.sign)
main.add_command(records.keygen)


@main.command()
@click.option(
    "--suspect",
    metavar="PATH",
    help="A run directory, a model directory, or answers (.jsonl, .jsonl.gz).",
)
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    metavar="NAME=PATH",
    callback=options.name_and_path,
    help="A model directory or answers; may be repeated. With --bank one name may have several.",
)
@click.option(
    "--control",
    "controls",
    multiple=True,
    metavar="NAME=PATH",
    callback=options.name_and_path,
    help="A model trained like the suspect without the teacher (`distill control`); repeat it.",
)
@click.option(
    "--reference-model",
    "references",
    multiple=True,
    metavar="NAME=PATH",
    callback=options.name_and_path,
    help="Another model or its answers, for comparison; may be repeated.",
)
@click.option(
    "--suspect-start",
    metavar="DIR",
    help="The suspect's checkpoint before training; a run directory has its own.",
)
@click.option(
    "--prompts",
    metavar="FILE",
    help="Held-out prompts with true continuations; a run directory has its own.",
)
@click.option(
    "--bank",
    metavar="DIR",
    help="Answers of documented models to the same prompts; the suspect is ranked among them.",
)
@click.option("--suspect-family", metavar="NAME", help="Family of the bank that the suspect is of.")
@click.option(
    "--suspect-date",
    metavar="YYYY-MM-DD",
    help="Day by which the suspect's answers were public; rules out groups launched later.",
)
@click.option(
    "--related",
    multiple=True,
    metavar="MODEL",
    help="Model of the bank that the suspect is known to be related to; may be repeated.",
)
@click.option("--config", type=click.Path(path_type=Path), help="An audit.yaml.")
@click.option(
    "-s", "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override one setting."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/audit"),
    show_default=True,
    help="Audit directory; an interrupted audit there is continued.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["supported", "inconclusive"]),
    help="Exit 3 if a finding is at least this.",
)
@options.as_json
@options.quiet
@options.traceback
def probe(
    suspect: str | None,
    teachers: tuple[tuple[str, str], ...],
    controls: tuple[tuple[str, str], ...],
    references: tuple[tuple[str, str], ...],
    suspect_start: str | None,
    prompts: str | None,
    bank: str | None,
    suspect_family: str | None,
    suspect_date: str | None,
    related: tuple[str, ...],
    config: Path | None,
    settings: tuple[str, ...],
    out: Path,
    fail_on: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Run the probes the materials allow, and write report.json and report.html."""
    given = {
        "suspect": suspect,
        "teachers": options.grouped(teachers),
        "controls": options.by_name(controls),
        "reference_models": options.by_name(references),
        "suspect_start": suspect_start,
        "prompts": prompts,
        "bank": bank,
        "suspect_family": suspect_family,
        "suspect_date": suspect_date,
        "related": list(related),
    }
    with options.sentences(verbose=verbose, after_interrupt="what was collected is saved."):
        from audit.config import load
        from audit.evidence import to_json
        from audit.probe import probe as carry_out
        from cli.progress import Progress

        resolved = load(config, {k: v for k, v in given.items() if v}, settings)
        command = shlex.join(["audit", *sys.argv[1:]])
        began = time.perf_counter()
        with Progress(quiet=quiet) as progress:
            outcome = carry_out(resolved, out, command=command, say=progress.say, progress=progress)
            if not outcome.reused:
                progress.say(f"time: audit {time.perf_counter() - began:.0f} s")
        report = outcome.report
        if as_json:
            click.echo(json.dumps(to_json(report)))
        else:
            if report.suspect.inherits is not None:
                whose = report.suspect.inherits
                show(f"suspect: its config says that it inherits the weights of {whose}")
            for finding in (*report.findings, *report.controls.findings):
                show(options.finding_line(finding))
            show(f"page: {outcome.page}")
        raise SystemExit(_exit_code([str(f.verdict) for f in report.findings], fail_on))


def _exit_code(verdicts: list[str], fail_on: str | None) -> int:
    alarming = {None: [], "supported": ["SUPPORTED"]}.get(fail_on, ["SUPPORTED", "INCONCLUSIVE"])
    if any(verdict in alarming for verdict in verdicts):
        return _EXIT_FINDING
    if all(verdict == "INSUFFICIENT" for verdict in verdicts):
        return _EXIT_INSUFFICIENT
    return 0
