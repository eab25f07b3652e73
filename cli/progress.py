"""Progress on stderr: a bar with ETA on a terminal, a line every few seconds elsewhere."""

import sys
import time

import click


class Progress:
    """Callable the packages report to: `progress(stage, done, total, note)`.

    On a terminal one line is redrawn; elsewhere (a log, CI) a line is printed at most every
    `interval` seconds, and at the end of each stage.
    """

    def __init__(self, *, quiet: bool, interval: float = 5.0) -> None:
        self.quiet = quiet
        self.interval = interval
        self.live = sys.stderr.isatty()
        self.stage = ""
        self.began = 0.0
        self.first = 0
        self.printed = 0.0

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        """Report that `done` of `total` are finished in `stage`; `note` is the unit and more."""
        now = time.monotonic()
        if stage != self.stage:
            self.stage, self.began, self.first, self.printed = stage, now, done, 0.0
            if done >= total:
                return  # nothing was left to do
        if self.quiet:
            return
        finished = done >= total
        line = f"{stage}: {done:,} of {total:,} {note}{self._eta(now, done, total)}"
        if self.live:
            click.echo(f"\r\x1b[2K{_bar(done, total)} {line}"[: _width()], nl=finished, err=True)
        elif finished or now - self.printed >= self.interval:
            click.echo(line, err=True)
            self.printed = now

    def say(self, sentence: str) -> None:
        """Print one sentence, clear of the bar."""
        if not self.quiet:
            click.echo(f"\r\x1b[2K{sentence}" if self.live else sentence, err=True)

    def _eta(self, now: float, done: int, total: int) -> str:
        made = done - self.first
        if made <= 0 or done >= total:
            return ""
        left = round((now - self.began) / made * (total - done))
        return f"; {left // 60}:{left % 60:02d} left"


def _bar(done: int, total: int, width: int = 20) -> str:
    full = width * done // max(total, 1)
    return "[" + "#" * full + "." * (width - full) + "]"


def _width() -> int:
    import shutil

    return shutil.get_terminal_size().columns + len("\r\x1b[2K") - 1
