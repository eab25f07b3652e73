"""The commands of a test run on one thread, as those it starts in other processes do."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def single(one_thread: None) -> None:
    """Ask for the shared fixture, whatever the test."""
