"""Where a step's time goes: teacher, student, loss, generation, data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from student import device as devices


class Stopwatch:
    """Seconds by stage.

    To know where a stage of a step ends, the host has to wait for the device; `waits` says whether
    it may.
    """

    def __init__(self, device: torch.device, *, waits: bool = True) -> None:
        self.device = device
        self.waits = waits
        self.spent: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block for `name`."""
        began = self._now()
        yield
        self.add(name, self._now() - began)

    @contextmanager
    def apart(self, name: str, inside: str) -> Iterator[None]:
        """Count the time of the block for `name`, and not for the stage that it is `inside` of."""
        began = self._now()
        yield
        seconds = self._now() - began
        self.add(name, seconds)
        self.add(inside, -seconds)

    def add(self, name: str, seconds: float) -> None:
        """Count seconds measured elsewhere for `name`."""
        self.spent[name] = self.spent.get(name, 0.0) + seconds

    def _now(self) -> float:
        if self.waits:
            devices.synchronize(self.device)
        return time.perf_counter()
