"""A scored answer's token is learnt where the token before it stands, from what was said of it."""

import numpy as np
import pytest
import torch

from distill.lessons.scored import Scored, learnt, windows
from distill.signals import Sparse

PAD, TAG = 1, -2
BOS = 0


def row(number: int, prompt: int, answer: int, width: int = 3) -> Scored:
    """Return an answer whose tokens and signal are like nothing else in the test."""
    tokens = (BOS, *range(1000 * number + 2, 1000 * number + 1 + prompt + answer))
    generator = torch.Generator().manual_seed(number)
    ids_NH = torch.randint(0, 10_000, (answer, width), generator=generator)
    p_NH = torch.rand(answer, width, generator=generator) / width
    none_NR = torch.zeros(answer, 0, dtype=torch.int64)
    unknown_N = torch.full((answer,), torch.nan)
    signal = Sparse(ids_NH, p_NH, none_NR, 1 - p_NH.sum(-1), unknown_N)
    return Scored(tokens=tokens, first=prompt, signal=signal)


def random_rows(seed: int) -> list[Scored]:
    draw = np.random.default_rng(seed)
    return [
        row(number, int(draw.integers(1, 9)), int(draw.integers(1, 9)), int(draw.integers(1, 4)))
        for number in range(int(draw.integers(1, 12)))
    ]


def heads(signal: Sparse) -> list[tuple[list[tuple[int, float]], float]]:
    """Return what is said at each row: tokens that have a probability, and the rest's."""
    rows = zip(
        signal.head_ids_NH.tolist(),
        signal.head_p_NH.tolist(),
        signal.tail_mass_N.tolist(),
        strict=True,
    )
    return [
        ([(i, p) for i, p in zip(ids, ps, strict=True) if p > 0], rest) for ids, ps, rest in rows
    ]


@pytest.mark.parametrize("seed", range(12))
def test_every_answers_token_is_learnt_once_from_its_own_row(seed):
    rows, length = random_rows(seed), 11
    made, signal = windows(rows, length, pad=PAD, tag=TAG)
    said = heads(signal)
    learnt = {
        int(made.tokens[window, place + 1]): said[window * length + place]
        for window, place in zip(*np.nonzero(made.weights), strict=True)
    }
    wanted = {}
    for one in rows:
        kept = one.tokens[: length + 1]
        wanted |= dict(zip(kept[one.first :], heads(one.signal), strict=False))
    assert learnt == wanted
    assert made.weights.sum() == len(wanted)
    # Before the token that is learnt stand all before it in its row, from the last start on.
    for window, place in zip(*np.nonzero(made.weights), strict=True):
        begins = np.flatnonzero(made.starts[window, : place + 1])[-1]
        context = made.tokens[window, begins : place + 2].tolist()
        assert context in [list(one.tokens[: len(context)]) for one in rows]


@pytest.mark.parametrize("seed", range(4))
def test_where_nothing_is_learnt_nothing_is_said(seed):
    made, signal = windows(random_rows(seed), 11, pad=PAD, tag=TAG)
    idle_N = torch.from_numpy(made.weights.reshape(-1) == 0)
    assert idle_N.any()
    assert not signal.head_p_NH[idle_N].any() and not signal.tail_mass_N[idle_N].any()
    assert signal.tail_ids_NR.shape == (made.weights.size, 0)
    assert signal.entropy_N.isnan().all()


def test_rows_stand_end_to_end_and_none_is_cut_by_a_window():
    rows = [row(0, 3, 2), row(1, 2, 3), row(2, 4, 1), row(3, 2, 2), row(4, 5, 3)]
    made, _ = windows(rows, 9, pad=PAD, tag=TAG)
    tokens = [one.tokens for one in rows]
    assert made.tokens.tolist() == [
        [*tokens[0], *tokens[1]],
        [*tokens[2], *tokens[3], PAD],
        [*tokens[4], PAD, PAD],
    ]
    begins = [np.flatnonzero(row_S).tolist() for row_S in made.starts]
    assert begins == [[0, 5], [0, 5], [0]]
    assert made.lengths() == (5, 4, 5, 4, 9)
    assert [np.unique(row_S).tolist() for row_S in made.document] == [[0, 1], [2, 3], [4]]
    assert made.tag.tolist() == [TAG] * 3
    assert not made.sizes.any()  # bytes of held-out text alone are counted


def test_of_a_row_longer_than_a_window_the_beginning_is_learnt():
    made, signal = windows([row(0, 3, 20), row(1, 1, 1)], 8, pad=PAD, tag=TAG)
    long = row(0, 3, 20)
    assert made.tokens[0].tolist() == list(long.tokens[:9])
    assert np.flatnonzero(made.weights[0]).tolist() == [2, 3, 4, 5, 6, 7]
    assert torch.equal(signal.head_ids_NH[2:8], long.signal.head_ids_NH[:6])
    assert np.flatnonzero(made.weights[1]).tolist() == [0]


def test_a_prompt_that_fills_a_window_leaves_nothing_to_learn():
    assert [learnt(row(0, prompt, 2), 8) for prompt in (6, 7, 8, 9, 12)] == [2, 2, 1, 0, 0]
    made, _ = windows([row(0, 9, 2), row(1, 12, 2)], 8, pad=PAD, tag=TAG)
    assert made.weights.shape == (2, 8) and not made.weights.any()


def test_a_row_as_long_as_the_room_that_is_left_takes_it():
    made, _ = windows([row(0, 2, 2), row(1, 2, 3), row(2, 1, 1)], 8, pad=PAD, tag=TAG)
    assert len(made.tokens) == 2
    assert made.tokens[0, -1] == row(1, 2, 3).tokens[-1]
    assert made.weights[0, -1] == 1


def test_fewer_likely_tokens_than_in_another_row_leave_places_empty():
    narrow, wide = row(0, 1, 2, width=1), row(1, 1, 2, width=4)
    _, signal = windows([narrow, wide], 8, pad=PAD, tag=TAG)
    assert signal.head_ids_NH.shape[1] == 4
    assert torch.equal(signal.head_p_NH[:2, :1], narrow.signal.head_p_NH)
    assert not signal.head_p_NH[:2, 1:].any()
