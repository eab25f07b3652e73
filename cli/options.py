"""What both commands share: the options every verb takes, and errors turned into exit codes.

Exit codes: 0 done; 1 failed; 2 usage, config or input; 3 a finding at or above --fail-on;
4 insufficient evidence; 130 interrupted with state saved.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from audit.evidence import Finding

INTERRUPTED = 130

quiet = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and results.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
traceback = click.option(
    "-v", "--verbose", is_flag=True, help="Show the traceback of a failure, for a bug report."
)
# What a finding from a bank needs, where it is not said in an audit.yaml.
alpha = click.option(
    "--alpha",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Level of a finding, after correction for the number of groups.",
)
min_prompts = click.option(
    "--min-prompts",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Prompts that two models must both answer to be compared.",
)


def settle_libraries() -> None:
    """Keep other libraries' bars and advice out of the output, and keep them off the network.

    Said through the environment, so that nothing heavy is imported for it; what a user set stays.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")


def name_and_path(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """Split each NAME=PATH; a callback of click."""
    pairs = []
    for value in values:
        name, equals, path = value.partition("=")
        if not (name and equals and path):
            raise click.BadParameter(f"{value!r}: write it as NAME=PATH.")
        pairs.append((name, path))
    return tuple(pairs)


def by_name(pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Return NAME=PATH pairs as a mapping.

    Raises:
        click.BadParameter: a name was given twice.
    """
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise click.BadParameter(
                f"the name {name!r} is given twice; every model needs its own."
            )
    return dict(pairs)


def grouped(pairs: tuple[tuple[str, str], ...]) -> dict[str, str | list[str]]:
    """Return NAME=PATH pairs as a mapping in which a name may have several paths."""
    paths: dict[str, list[str]] = {}
    for name, path in pairs:
        paths.setdefault(name, []).append(path)
    return {name: of[0] if len(of) == 1 else of for name, of in paths.items()}


def finding_line(finding: "Finding") -> str:
    """Return a finding as one line of plain text."""
    adjusted = "" if finding.p_adjusted is None else f", adjusted p {finding.p_adjusted:.2g}"
    return f"{finding.suspect} / {finding.teacher}: {finding.verdict}{adjusted}; {finding.reason}"


@contextmanager
def sentences(*, verbose: bool, after_interrupt: str) -> Iterator[None]:
    """Turn what can go wrong into one sentence on stderr and the right exit code."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\ninterrupted; {after_interrupt}", err=True)
        raise SystemExit(INTERRUPTED) from None
    except (click.ClickException, SystemExit):
        raise
    except Exception as error:
        if verbose:
            raise
        from audit.report.reveal import reveal_line

        sentence, code = _explain(error)
        click.echo(f"error: {reveal_line(sentence)}", err=True)
        raise SystemExit(code) from None


def _explain(error: Exception) -> tuple[str, int]:
    """Return what to print for `error` and the exit code."""
    # Every package's own errors carry their exit code; each is imported only if already loaded.
    if isinstance(error, ModuleNotFoundError):
        extra = "pip install 'spiritsafe[distill]'"
        return f"{error.name} is not installed; run: {extra}", 1
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; what was finished is kept.", 1
    if isinstance(error, RuntimeError) and "TORCH_DEVICE_BACKEND_AUTOLOAD" in str(error):
        return (
            "torch_npu is installed but CANN is not loaded; source set_env.sh, or set "
            "TORCH_DEVICE_BACKEND_AUTOLOAD=0 to run without it.",
            1,
        )
    code = _own_exit_code(error)
    if code is not None:
        return str(error), code
    kind = type(error).__name__
    return f"unexpected {kind}: {str(error).splitlines()[0] if str(error) else ''} (-v shows it)", 1


def _own_exit_code(error: Exception) -> int | None:
    from audit.errors import AuditError
    from distill.errors import DistillError
    from student.errors import StudentError

    own = isinstance(error, AuditError | DistillError | StudentError)
    return error.exit_code if own else None  # type: ignore[attr-defined,unused-ignore]
