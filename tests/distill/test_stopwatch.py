"""Seconds go to the stage they were spent in, and the device is waited for only where it may be."""

from types import SimpleNamespace

import pytest
import torch

from distill import stopwatch
from distill.stopwatch import Stopwatch

CPU = torch.device("cpu")


@pytest.fixture
def now(monkeypatch):
    """A clock that a test moves, and how often the device was waited for."""
    clock = SimpleNamespace(seconds=100.0, waits=[])
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: clock.seconds))
    monkeypatch.setattr(stopwatch.devices, "synchronize", clock.waits.append)
    return clock


def test_a_stage_counts_the_time_of_its_block_and_adds_up(now):
    watch = Stopwatch(CPU)
    for name, seconds in (("student", 3.0), ("loss", 1.0), ("student", 0.5)):
        with watch.stage(name):
            now.seconds += seconds
        now.seconds += 50  # between stages, nobody's
    assert watch.spent == {"student": 3.5, "loss": 1.0}


def test_time_measured_elsewhere_is_moved_from_one_stage_to_another(now):
    watch = Stopwatch(CPU)
    with watch.stage("data"):
        now.seconds += 4
    watch.add("generation", 3.0)
    watch.add("data", -3.0)
    assert watch.spent == {"data": 1.0, "generation": 3.0}


def test_each_end_of_a_stage_waits_for_the_device(now):
    with Stopwatch(CPU).stage("student"):
        assert now.waits == [CPU]
    assert now.waits == [CPU, CPU]


def test_a_watch_that_may_not_wait_never_does(now):
    watch = Stopwatch(CPU, waits=False)
    with watch.stage("student"):
        now.seconds += 1
    assert now.waits == []
    assert watch.spent == {"student": 1.0}


def test_two_watches_share_nothing(now):
    first, second = Stopwatch(CPU), Stopwatch(CPU)
    first.add("loss", 1.0)
    assert second.spent == {}
