"""Progress: lines where nobody watches, bars on a terminal, silence when asked."""

import os
import pty
import subprocess
import sys

import pytest

from cli.progress import Progress


def test_elsewhere_a_stage_prints_its_first_and_its_last_line(capsys):
    with Progress(quiet=False, interval=3600.0) as progress:
        for done in range(5):
            progress("capture", done, 4, "tokens")
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(";")[0] for line in err.splitlines()] == [
        "capture: 0 of 4 tokens",
        "capture: 4 of 4 tokens",
    ]


def test_the_time_left_is_that_of_the_pace_in_this_call(capsys, monkeypatch):
    clock = iter([100.0, 100.0, 110.0])
    monkeypatch.setattr("cli.progress.time.monotonic", lambda: next(clock))
    with Progress(quiet=False) as progress:
        progress("training", 50, 100, "steps")
        progress("training", 60, 100, "steps")
    assert capsys.readouterr().err.splitlines()[-1] == "training: 60 of 100 steps; 0:40 left"


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
    code = (
        "from cli.progress import Progress\n"
        "with Progress(quiet=False) as progress:\n"
        "    for done in range(5): progress('capture', done, 4, 'tokens [x]')\n"
        "    progress.say('brackets [bold] stay')\n"
    )
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=child, env={**os.environ, "COLUMNS": "100"}
    )
    os.close(child)
    shown = b""
    while chunk := _read(parent):
        shown += chunk
    os.close(parent)
    assert process.wait() == 0
    assert b"capture" in shown
    assert "\u2501".encode() in shown  # a piece of rich's bar
    assert b"4 of 4 tokens [x]" in shown
    assert b"brackets [bold] stay" in shown


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux's way to say that the other end was closed
        return b""
