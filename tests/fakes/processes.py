"""Real processes that start at once, forked from a server that has imported torch already."""

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

_PRELOADED = ["tests.fakes.stores", "tests.fakes.capturers", "tests.fakes.askers"]


def processes(work: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> list[int | None]:
    """Run `work` once for each tuple of arguments, all at the same time; return exit codes.

    `work` must be importable: a function of a module under tests/fakes.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    started = [context.Process(target=work, args=given) for given in arguments]
    for process in started:
        process.start()
    for process in started:
        process.join()
    return [process.exitcode for process in started]
