"""Progress: lines where nobody watches, bars on a terminal, silence when asked."""

import os
import pty
import re
import subprocess
import sys

import pytest

from cli.progress import Pace, Progress


def at_times(monkeypatch, *times: float) -> None:
    clock = iter(times)
    monkeypatch.setattr("cli.progress.time.monotonic", lambda: next(clock))


def test_elsewhere_a_stage_prints_its_first_and_its_last_line(capsys, monkeypatch):
    at_times(monkeypatch, 1.0, 2.0, 3.0, 4.0, 5.0)  # of a machine that has just been started
    with Progress(quiet=False, interval=3600.0) as progress:
        for done in range(5):
            progress("capture", done, 4, "tokens")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["capture: 0 of 4 tokens", "capture: 4 of 4 tokens"]


def test_the_time_left_is_that_of_the_pace_in_this_call(capsys, monkeypatch):
    at_times(monkeypatch, 100.0, 110.0)
    with Progress(quiet=False) as progress:
        progress("training", 50, 100, "steps; loss 2.5")
        progress("training", 60, 100, "steps; loss 2.4")
    assert capsys.readouterr().err.splitlines() == [
        "training: 50 of 100 steps; loss 2.5",
        "training: 60 of 100 steps, 0:40 left; loss 2.4",
    ]


def test_another_stage_has_its_own_pace(capsys, monkeypatch):
    at_times(monkeypatch, 0.0, 10.0, 20.0, 30.0)
    with Progress(quiet=False) as progress:
        for stage in ("capture", "training"):
            progress(stage, 0, 100, "steps")
            progress(stage, 10, 100, "steps")
    assert capsys.readouterr().err.splitlines()[-1] == "training: 10 of 100 steps, 1:30 left"


def test_hours_are_told_as_hours(capsys, monkeypatch):
    at_times(monkeypatch, 0.0, 60.0)
    with Progress(quiet=False) as progress:
        progress("training", 0, 100, "steps")
        progress("training", 1, 100, "steps")
    assert capsys.readouterr().err.splitlines()[-1] == "training: 1 of 100 steps, 1:39:00 left"


def test_answers_that_were_on_disk_do_not_shorten_the_time_left_for_long():
    pace = Pace()
    pace.seconds_left(0.0, 0, 1000)
    assert pace.seconds_left(0.5, 500, 1000) == 0.5  # read from disk
    for second in range(1, 60):
        left = pace.seconds_left(0.5 + second, 500 + second, 1000)
    assert left == pytest.approx(1000 - 559)


def test_steps_slower_than_the_window_still_have_a_pace():
    pace = Pace()
    lefts = [pace.seconds_left(100.0 * step, step, 10) for step in range(4)]
    assert lefts == [None, 900.0, 800.0, 700.0]


def test_quick_reports_do_not_pile_up():
    pace = Pace()
    for report in range(10_000):
        pace.seconds_left(report / 100, report, 20_000)
    assert len(pace.seen) < 40
    assert pace.seconds_left(100.0, 10_000, 20_000) == pytest.approx(100.0)


def test_nothing_is_left_of_what_is_done_and_nothing_is_known_before_something_is():
    pace = Pace()
    assert pace.seconds_left(0.0, 3, 10) is None
    assert pace.seconds_left(5.0, 3, 10) is None
    assert pace.seconds_left(9.0, 10, 10) is None


def test_a_stage_that_was_done_before_says_nothing(capsys):
    with Progress(quiet=False) as progress:
        progress("capture", 7, 7, "tokens")
    assert capsys.readouterr().err == ""


def test_quiet_is_quiet(capsys):
    with Progress(quiet=True) as progress:
        progress("capture", 1, 7, "tokens")
        progress.say("a sentence")
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_on_a_terminal_there_is_a_bar_and_sentences_stay_plain():
    shown = on_a_terminal(
        "    for done in range(5): progress('capture', done, 4, 'tokens [x]')\n"
        "    progress.say('brackets [bold] stay')\n",
        columns=100,
    )
    assert "capture" in shown
    assert "\u2501" in shown  # a piece of rich's bar
    assert "4 of 4 tokens [x]" in shown
    assert "brackets [bold] stay" in shown


@pytest.mark.slow
def test_a_narrow_terminal_cuts_the_note_and_keeps_the_time_left():
    shown = on_a_terminal(
        "    import time\n"
        "    for done in (1, 2):\n"
        "        progress('training', done, 90, 'steps; ' + 'much more to tell, ' * 9)\n"
        "        time.sleep(0.05)\n",
        columns=60,
    )
    assert re.search(r"training .*2 of 90 steps, \d:\d\d left; much more", shown)
    assert "to tell, much more to tell, much" not in shown


def on_a_terminal(body: str, *, columns: int) -> str:
    """Return what a progress of `body` shows on a terminal of this width."""
    code = f"from cli.progress import Progress\nwith Progress(quiet=False) as progress:\n{body}"
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=child, env={**os.environ, "COLUMNS": str(columns)}
    )
    os.close(child)
    shown = b""
    while chunk := _read(parent):
        shown += chunk
    os.close(parent)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux's way to say that the other end was closed
        return b""
