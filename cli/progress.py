"""Progress on stderr: bars with the time left on a terminal, now and then a line elsewhere."""

import math
import sys
import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from audit.report.reveal import reveal_line
from cli.terminal import show

# What the time left is judged by, in seconds: the start of a stage is seldom like the rest of it.
_WINDOW = 30.0
_APART = 1.0


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
        self.pace = Pace()
        self.printed = -math.inf

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
        """Report that `done` of `total` are finished in `stage`.

        `note` is the unit and, after a semicolon, what else there is to tell: the first report of
        a stage says how much an earlier call has left done.
        """
        if self.quiet:
            return
        new = stage != self.stage
        if new:
            self.stage, self.pace, self.printed, self.task = stage, Pace(), -math.inf, None
        if new and done >= total:
            return  # nothing was left to do
        now = time.monotonic()
        said = _in_words(done, total, note, self.pace.seconds_left(now, done, total))
        if self.bars is not None:
            self._draw(stage, done, total, said)
        elif done >= total or now - self.printed >= self.interval:
            show(f"{stage}: {said}", err=True)
            self.printed = now

    def say(self, sentence: str) -> None:
        """Print one sentence, clear of the bars."""
        if self.bars is not None:
            said = reveal_line(sentence)
            self.bars.console.print(said, markup=False, highlight=False, soft_wrap=True)
        elif not self.quiet:
            show(sentence, err=True)

    def _draw(self, stage: str, done: int, total: int, said: str) -> None:
        assert self.bars is not None
        if self.task is None:
            self.task = self.bars.add_task(
                stage, total=total, completed=done, said=reveal_line(said)
            )
        self.bars.update(self.task, completed=done, said=reveal_line(said))


class Pace:
    """How fast a stage gets on, by its last half minute in this call.

    What was done before the first report counts for nothing: an earlier call did that.
    """

    def __init__(self) -> None:
        self.seen: deque[tuple[float, int]] = deque()

    def seconds_left(self, now: float, done: int, total: int) -> float | None:
        """Return how long the rest takes at this pace; None where there is none yet."""
        seen = self.seen
        if len(seen) > 1 and now - seen[-2][0] < _APART:
            seen.pop()  # so that quick reports do not fill the memory
        seen.append((now, done))
        # The last report from before the window stays, so that slow steps have a pace too.
        while len(seen) > 1 and now - seen[1][0] >= _WINDOW:
            seen.popleft()
        began, first = seen[0]
        if done <= first or done >= total:
            return None
        return (now - began) / (done - first) * (total - done)


def _in_words(done: int, total: int, note: str, left: float | None) -> str:
    """Return what is done, the time left, and the rest of the note, which a bar may cut off."""
    unit, semicolon, rest = note.partition(";")
    remaining = "" if left is None else f", {_clock(left)} left"
    return f"{done:,} of {total:,} {unit}{remaining}{semicolon}{rest}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Said(ProgressColumn):
    """The words beside a bar, cut off at the terminal's edge before anything else is."""

    def render(self, task: Task) -> Text:
        """Return the words as one line."""
        return Text(task.fields["said"], no_wrap=True, overflow="ellipsis")


def _bars() -> Bars:
    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        _Said(),
        console=Console(stderr=True),
    )
