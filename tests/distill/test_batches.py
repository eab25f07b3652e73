"""A batch is a function of seed and step, and every position that counts is in one part of it."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.batches import Part, PickedRows, Reading, Route, Voice, WindowRows
from distill.lessons.lesson import Said, routes
from distill.rollout.scoring import Share
from distill.signals import Dense, Hidden, Mixture
from tests.fakes.lessons import Heard, random_windows
from tests.fakes.losses import drawn, hidden_teacher

CPU = torch.device("cpu")
VOCAB, LENGTH, COUNT = 61, 16, 10
WINDOWS = random_windows(COUNT, LENGTH, VOCAB)
ALL = np.arange(COUNT)
NOWHERE = np.full(COUNT, -1)


def source(number: int) -> Heard:
    """Return a source that says, at each row, its own number and the row's."""
    rows = torch.arange(COUNT * LENGTH)
    return Heard(Dense(torch.stack([torch.full_like(rows, number), rows], dim=1).float()))


SOURCES = [source(number) for number in range(3)]
EVERY = WindowRows(ALL * LENGTH)


def only(*windows: int) -> WindowRows:
    """Return the rows of a source that was asked about these windows, in this order."""
    first = NOWHERE.copy()
    first[list(windows)] = np.arange(len(windows)) * LENGTH
    return WindowRows(first)


def single(number: int, rows) -> Route:
    return Route(voices=((1.0, SOURCES[number], rows),))


def counted(chosen) -> list[int]:
    return np.flatnonzero(WINDOWS.weights[chosen].reshape(-1)).tolist()


# Which windows a step reads.


def stream(count: int, **more) -> list[int]:
    """Return the windows of the first `count` steps."""
    reading = Reading(WINDOWS, **{"size": 4, **more})
    return [n for step in range(1, count + 1) for n in reading.chosen(step).tolist()]


def test_a_batch_is_a_function_of_seed_and_step():
    first, second = (Reading(WINDOWS, size=4, seed=3) for _ in range(2))
    later = second.batch(7)
    for step in (7, 2):
        batch = first.batch(step)
        again = later if step == 7 else second.batch(step)
        assert torch.equal(batch.token_N, again.token_N)
        assert torch.equal(batch.parts[0].at_M, again.parts[0].at_M)
    assert stream(5, seed=0) != stream(5, seed=1)


def test_every_window_comes_once_an_epoch_and_epochs_differ():
    # Ten windows in batches of four: an epoch ends in the middle of a batch.
    numbers = stream(10)
    epochs = [numbers[start : start + COUNT] for start in range(0, len(numbers), COUNT)]
    assert len(epochs) == 4
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_size_of_a_batch_does_not_change_the_order_of_the_text():
    assert stream(10, size=4)[:40] == stream(40, size=1) == stream(2, size=20)


def test_a_batch_larger_than_the_text_repeats_it():
    numbers = stream(1, size=25)
    assert sorted(numbers[:10]) == sorted(numbers[10:20]) == list(range(10))
    assert len(set(numbers[20:])) == 5


@pytest.mark.parametrize("size", [0, 1, 3])
def test_of_a_batch_its_first_windows_can_be_had(size):
    reading = Reading(WINDOWS, [single(0, EVERY)], size=4, seed=1)
    whole, some = reading.batch(5), reading.batch(5, size)
    assert torch.equal(some.token_N, whole.token_N[: size * LENGTH])
    assert len(some.lengths) == size
    found = sum(len(part.at_M) for part in some.parts)
    assert found == int((whole.parts[0].at_M < size * LENGTH).sum())


# What a batch holds.


def test_a_batch_holds_inputs_next_tokens_and_what_counts():
    reading = Reading(WINDOWS, size=4, seed=0)
    chosen = reading.chosen(2)
    batch = reading.batch(2)
    assert batch.token_N.tolist() == WINDOWS.tokens[chosen, :-1].reshape(-1).tolist()
    assert batch.label_N.tolist() == WINDOWS.tokens[chosen, 1:].reshape(-1).tolist()
    assert [part.at_M.tolist() for part in batch.parts] == [counted(chosen)]
    assert 0 < len(counted(chosen)) < len(batch.label_N)
    for found in (batch.token_N, batch.label_N, batch.parts[0].at_M):
        assert (found.dtype, found.device) == (torch.int64, CPU)


def test_nothing_a_window_says_can_be_changed_through_a_batch():
    before = WINDOWS.tokens.copy()
    batch = Reading(WINDOWS, size=4).batch(1)
    batch.token_N.zero_()
    batch.label_N.zero_()
    assert (WINDOWS.tokens == before).all()


def test_documents_begin_where_the_windows_say_that_the_context_does():
    chosen = np.array([4, 0, 3])
    assert Reading(WINDOWS).of(chosen).lengths == (16, 16, 16)
    starts = WINDOWS.starts.copy()
    starts[3, [5, 9]] = True
    starts[4, 15] = True
    apart = replace(WINDOWS, starts=starts)
    assert Reading(apart).of(chosen).lengths == (15, 1, 16, 5, 4, 7)


def test_a_window_in_which_nothing_counts_gives_no_part():
    weights = WINDOWS.weights.copy()
    weights[2] = 0
    windows = replace(WINDOWS, weights=weights)
    batch = Reading(windows, [single(0, EVERY)]).of(np.array([2]))
    assert batch.parts == ()
    assert len(batch.token_N) == LENGTH


# Which rows of a source are whose.


def test_rows_of_whole_windows_follow_one_another():
    window_N, inner_N = np.array([6, 6, 2, 1]), np.array([0, 5, 15, 3])
    assert only(2, 6).of(window_N, inner_N).tolist() == [16, 21, 15, -1]


def test_rows_of_picked_positions_are_their_places_among_them():
    rows = PickedRows(np.array([3, 16, 17, 40]), LENGTH)
    window_N, inner_N = np.array([0, 1, 1, 2, 2, 0, 9]), np.array([3, 0, 1, 8, 9, 2, 15])
    assert rows.of(window_N, inner_N).tolist() == [0, 1, 2, 3, -1, -1, -1]


def test_of_no_picked_positions_no_row_is_had():
    rows = PickedRows(np.zeros(0, dtype=np.int64), LENGTH)
    assert rows.of(np.array([0, 1]), np.array([0, 5])).tolist() == [-1, -1]


# Who speaks of which position.


@dataclass(frozen=True)
class Table:
    """Rows by a table of windows and positions, -1 where there is none."""

    row_WS: np.ndarray

    def of(self, window_N, inner_N):
        return self.row_WS[window_N, inner_N]


@st.composite
def tables(draw) -> Table:
    seed, share = draw(st.integers(0, 99)), draw(st.sampled_from([0.0, 0.2, 0.7, 1.0]))
    rng = np.random.default_rng(seed)
    rows = rng.permutation(COUNT * LENGTH).reshape(COUNT, LENGTH)
    return Table(np.where(rng.random((COUNT, LENGTH)) < share, rows, -1))


@st.composite
def routed(draw) -> list[Route]:
    found = []
    for _ in range(draw(st.integers(0, 4))):
        who = draw(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True))
        voices = tuple((1 / len(who), SOURCES[number], draw(tables())) for number in who)
        found.append(Route(voices=voices))
    return found


@settings(max_examples=60, deadline=None)
@given(
    found=routed(), chosen=st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=5, unique=True)
)
def test_parts_are_disjoint_in_order_and_cover_what_counts(found, chosen):
    batch = Reading(WINDOWS, found).of(np.array(chosen))
    places = [part.at_M.tolist() for part in batch.parts]
    assert all(place for place in places)
    assert all(a < b for place in places for a, b in pairwise(place))
    assert sorted(place for part in places for place in part) == counted(chosen)


@settings(max_examples=60, deadline=None)
@given(
    found=routed(), chosen=st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=5, unique=True)
)
def test_each_position_has_the_first_route_all_of_whose_voices_speak_of_it(found, chosen):
    batch = Reading(WINDOWS, found).of(np.array(chosen))
    heard = {
        place: [(voice.weight, voice.source, int(voice.row_M[m])) for voice in part.voices]
        for part in batch.parts
        for m, place in enumerate(part.at_M.tolist())
    }
    for place in counted(chosen):
        window, inner = chosen[place // LENGTH], place % LENGTH
        expected = []
        for route in reversed(found):
            said = [(w, s, int(rows.row_WS[window, inner])) for w, s, rows in route.voices]
            if all(row >= 0 for _, _, row in said):
                expected = said
        assert heard[place] == expected


def test_what_no_teacher_speaks_of_is_read_without_one():
    batch = Reading(WINDOWS, [single(1, only(4))]).of(np.array([3, 4]))
    taught, alone = batch.parts
    assert taught.at_M.tolist() == [place for place in counted([3, 4]) if place >= LENGTH]
    assert (taught.signal(CPU).logits_NV[:, 0] == 1).all()
    assert alone.voices == () and alone.signal(CPU) is None
    assert not taught.own and not alone.own


def test_a_part_hears_what_was_said_of_its_own_positions():
    reading = Reading(WINDOWS, [single(2, only(7, 1))])
    (part,) = reading.of(np.array([1, 7])).parts
    rows = [16 + p if p < LENGTH else p - LENGTH for p in part.at_M.tolist()]
    assert part.voices[0].row_M.tolist() == rows
    assert part.signal(CPU).logits_NV.tolist() == [[2.0, row] for row in rows]


def test_mixtures_come_before_their_teachers_alone():
    # The first teacher was asked about all windows, the second about three that both teach.
    both, first = (Share(0, 0.25), Share(1, 0.75)), (Share(0, 1.0),)
    said = [
        Said(voices=((SOURCES[0], EVERY),), stores=()),
        Said(voices=((SOURCES[1], only(2, 5, 8)),), stores=()),
    ]
    found = routes(said, {-1: first, 0: both})
    assert [len(route.voices) for route in found] == [2, 1]
    mixed, alone = Reading(WINDOWS, found).of(np.array([1, 2])).parts
    assert [place // LENGTH for place in (alone.at_M[0], mixed.at_M[0])] == [0, 1]
    assert [voice.weight for voice in mixed.voices] == [0.25, 0.75]
    assert [voice.weight for voice in alone.voices] == [1.0]


def test_a_mixture_of_which_one_says_nothing_is_no_route():
    both, second = (Share(0, 0.5), Share(1, 0.5)), (Share(1, 1.0),)
    said = [None, Said(voices=((SOURCES[1], EVERY),), stores=())]
    assert routes(said, {0: both}) == []
    assert [len(route.voices) for route in routes(said, {0: both, 1: second})] == [1]


def test_a_teacher_of_two_voices_gives_two_routes_in_their_order():
    said = [Said(voices=((SOURCES[0], only(1)), (SOURCES[1], EVERY)), stores=())]
    found = routes(said, {-1: (Share(0, 1.0),)})
    first, second = Reading(WINDOWS, found).of(np.array([0, 1])).parts
    assert (first.signal(CPU).logits_NV[:, 0] == 0).all()
    assert (second.signal(CPU).logits_NV[:, 0] == 1).all()
    assert first.at_M.min() >= LENGTH > second.at_M.max()


# What a part says.


def test_a_mixture_has_its_weights_and_each_teachers_own_rows():
    states = hidden_teacher()
    dense = Dense(drawn(5, 24, 37))
    rows = torch.tensor([4, 0, 7]), torch.tensor([1, 2, 3])
    part = Part(
        at_M=torch.arange(3),
        voices=(
            Voice(weight=0.3, source=Heard(states), row_M=rows[0]),
            Voice(weight=0.7, source=Heard(dense), row_M=rows[1]),
        ),
    )
    said = part.signal(CPU)
    assert isinstance(said, Mixture)
    (first, one), (second, other) = said.parts
    assert (first, second) == (0.3, 0.7)
    assert isinstance(one, Hidden) and torch.equal(one.states_NT, states.states_NT[rows[0]])
    assert isinstance(other, Dense) and torch.equal(other.logits_NV, dense.logits_NV[rows[1]])
