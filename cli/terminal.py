"""What is printed for a person to read: lines of which a terminal obeys nothing.

Names of models and files, and what a server says, come from outside. A terminal would obey their
control characters, hide what is invisible, and take a line break for the start of another message.
"""

import click

from audit.report.reveal import reveal_line


def show(text: str, *, err: bool = False) -> None:
    """Print `text` as one line, its hidden characters shown by their code points.

    Args:
        text: what is said.
        err: whether on stderr.
    """
    click.echo(reveal_line(text), err=err)
