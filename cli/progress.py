"""Progress on stderr: bars with the time left on a terminal, now and then a line elsewhere."""

import sys
import time
from types import TracebackType

import click
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress:
    """What the packages report to: `progress(stage, done, total, note)`, and `progress.say`.

    On a terminal each stage has a bar, drawn by rich. Elsewhere (a log, CI) a line is printed at
    most every `interval` seconds, and at the end of each stage. Use it as a context, so that the
    terminal is left in order.
    """

    def __init__(self, *, quiet: bool, interval: float = 5.0) -> None:
        self.quiet = quiet
        self.interval = interval
        self.bars = _bars() if sys.stderr.isatty() and not quiet else None
        self.task: TaskID | None = None
        self.stage = ""
        self.began = 0.0
        self.first = 0
        self.printed = 0.0

    def __enter__(self) -> "Progress":
        if self.bars is not None:
            self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bars is not None:
            self.bars.stop()

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        """Report that `done` of `total` are finished in `stage`; `note` is the unit and more."""
        if self.quiet:
            return
        new = stage != self.stage
        if new:
            self.stage, self.began, self.first = stage, time.monotonic(), done
            self.printed, self.task = 0.0, None
        if new and done >= total:
            return  # nothing was left to do
        if self.bars is not None:
            self._draw(stage, done, total, note)
        else:
            self._print(stage, done, total, note)

    def say(self, sentence: str) -> None:
        """Print one sentence, clear of the bars."""
        if self.bars is not None:
            self.bars.console.print(sentence, markup=False, highlight=False, soft_wrap=True)
        elif not self.quiet:
            click.echo(sentence, err=True)

    def _draw(self, stage: str, done: int, total: int, note: str) -> None:
        assert self.bars is not None
        if self.task is None:
            self.task = self.bars.add_task(stage, total=total, completed=done, note=note)
        self.bars.update(self.task, completed=done, note=note)

    def _print(self, stage: str, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if done >= total or now - self.printed >= self.interval:
            left = self._time_left(now, done, total)
            click.echo(f"{stage}: {done:,} of {total:,} {note}{left}", err=True)
            self.printed = now

    def _time_left(self, now: float, done: int, total: int) -> str:
        made = done - self.first
        if made <= 0 or done >= total:
            return ""
        seconds = round((now - self.began) / made * (total - done))
        return f"; {seconds // 60}:{seconds % 60:02d} left"


def _bars() -> Bars:
    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} {task.fields[note]}", markup=False),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
