"""Fixtures that several packages' tests share."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.fakes.runs import Runs


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """One thread of torch: on a busy machine, threads of tiny products wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> "Runs":
    """A finished student with three controls; copy what a test changes."""
    from tests.fakes.runs import tiny_runs

    return tiny_runs(tmp_path_factory.mktemp("runs"))
