"""What tests of a bank's index share: small views, who was told of progress, what is equal."""

from pathlib import Path

import numpy as np

from audit.bank import Bank
from audit.lineup import index
from audit.lineup.index import Index
from audit.lineup.reading import View

VIEWS = (
    View(name="3 words", first=3),
    View(name="letters", first=3, letters=True),
    View(name="plain, longer ones", first=5, plain=True, least=5),
)


class Steps(list):
    """What was told of progress; empty if nothing was computed."""

    def __call__(self, done: int, steps: int) -> None:
        self.append((done, steps))


def of(bank: Bank, cache: Path | None, views: tuple[View, ...] = VIEWS) -> tuple[Index, Steps]:
    steps = Steps()
    return index.of(bank, views, cache=cache, tell=steps), steps


def same(one: Index, other: Index) -> None:
    """Fail unless two indices are equal in everything."""
    for name in ("prompts", "models", "teachers", "families", "views"):
        assert getattr(one, name) == getattr(other, name)
    for view in one.views:
        a, b = one.products[view.name], other.products[view.name]
        for name in ("teacher_PNT", "family_PNF", "there_PN", "teachers", "family_N"):
            x, y = getattr(a, name), getattr(b, name)
            np.testing.assert_array_equal(x, y)
            assert x.dtype == y.dtype
        none_F = np.zeros(len(one.families), dtype=bool)
        np.testing.assert_array_equal(a.centred(none_F), b.centred(none_F))
        np.testing.assert_array_equal(one.reader.idf[view.name], other.reader.idf[view.name])
        x, y = one.vectors[view.name], other.vectors[view.name]
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert (x != y).nnz == 0
