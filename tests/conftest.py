"""Fixtures that several packages' tests share."""

import pytest

from tests.fakes.runs import Runs, tiny_runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A finished student with three controls; copy what a test changes."""
    return tiny_runs(tmp_path_factory.mktemp("runs"))
