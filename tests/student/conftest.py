"""The models of these tests are tiny, so they run on one thread."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def single(one_thread: None) -> None:
    """Ask for the shared fixture, whatever the test."""
