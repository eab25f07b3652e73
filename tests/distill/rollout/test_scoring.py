"""Each row is read by its tag's teachers, one teacher after another, and nothing is lost."""

import math
from dataclasses import dataclass, field

import pytest
import torch

from distill.config import TeacherConfig
from distill.errors import MismatchError
from distill.heads import logits
from distill.rollout.rollouts import join
from distill.rollout.scoring import Council, Share, read, resident, route
from distill.signals import Head, Hidden, Mixture, Text
from distill.teachers.local import LocalTeacher
from tests.fakes.teachers import tiny_teacher

CPU, META = torch.device("cpu"), torch.device("meta")
VOCAB, WIDTH = 30, 6
ROWS = join(
    [(0, 5, 6, 7), (0, 9), (0, 11, 12), (0, 5), (0, 7, 8, 9, 10)],
    [[20, 21, 1], [22], [23, 24, 25, 26, 1], [1], [27, 1]],
)
TAGS = ("sums", "words", "sums", "words", "sums")


@dataclass
class Toy:
    """A teacher that remembers every token before, and notes what it is asked and where it is."""

    name: str
    seed: int
    vocab: int = VOCAB
    device: torch.device = CPU
    log: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self.table_VT = torch.randn(VOCAB, WIDTH, generator=generator)
        self.head = Head(torch.randn(self.vocab, WIDTH, generator=generator))

    def hidden(self, token_BS: torch.Tensor) -> torch.Tensor:
        self.log.append(tuple(token_BS.shape))
        return self.table_VT[token_BS].cumsum(1).tanh()

    def move(self, device: torch.device) -> None:
        self.log.append(str(device))
        self.device = device


def teacher(name: str, *tags: str, weight: float = 1.0) -> TeacherConfig:
    return TeacherConfig(name=name, path="somewhere", owned=True, tags=tags, weight=weight)


def council(toys, configs, *, estimator="full", vocab_size=VOCAB) -> Council:
    routes = route(TAGS, configs)
    return Council(toys, routes, vocab_size=vocab_size, estimator=estimator, device=CPU)


def logp(toy: Toy) -> torch.Tensor:
    """Return what a teacher says at every position of ROWS, row by row."""
    rows = [logits(toy.hidden(row[None, :-1])[0], toy.head) for row in ROWS.split()]
    return torch.cat(rows).log_softmax(-1)


def places(*rows: int) -> list[int]:
    """Return the places in the stream that count, of these rows."""
    of_N = torch.arange(5).repeat_interleave(ROWS.length_B)
    mine_N = torch.isin(of_N, torch.tensor(rows)) & ROWS.counted_N
    return torch.nonzero(mine_N).flatten().tolist()


# Who teaches what.


def test_a_named_tag_is_its_teachers_and_the_rest_goes_to_those_that_name_none():
    found = route(["sums", "words", "poems"], [teacher("a", "sums"), teacher("b")])
    assert found == {"sums": (Share(0, 1.0),), "words": (Share(1, 1.0),), "poems": (Share(1, 1.0),)}


def test_weights_of_the_teachers_of_a_tag_sum_to_one():
    teachers = [teacher("a", "sums", weight=3), teacher("b", "sums", "words", weight=1)]
    found = route(["sums", "words", "sums"], teachers)
    assert found == {"sums": (Share(0, 0.75), Share(1, 0.25)), "words": (Share(1, 1.0),)}


def test_a_tag_without_a_teacher_is_refused():
    with pytest.raises(MismatchError, match="text tagged 'words' has no teacher"):
        route(["sums", "words"], [teacher("a", "sums")])
    with pytest.raises(MismatchError, match="text whose tag no teacher names has no teacher"):
        route(["sums", ""], [teacher("a", "sums")])


def test_a_teacher_of_a_tag_that_no_text_has_is_refused():
    with pytest.raises(MismatchError, match=r"'a' teaches text tagged 'sum'.*: sums, words\."):
        route(["sums", "words", ""], [teacher("a", "sum"), teacher("b")])


# Where they are.


def test_a_teacher_comes_and_goes_even_when_it_fails():
    toy = Toy("a", 1, device=META)
    with pytest.raises(RuntimeError), resident(toy, CPU) as there:
        assert there is toy and toy.device == CPU
        raise RuntimeError
    assert toy.device == META


def test_one_teacher_at_a_time_is_on_the_device():
    log: list[object] = []
    toys = [Toy("a", 1, device=META, log=log), Toy("b", 2, device=META, log=log)]
    council(toys, [teacher("a", "sums"), teacher("b", "words")]).parts(ROWS, TAGS)
    assert log == ["cpu", (3, 7), "meta", "cpu", (2, 2), "meta"]


# What they say.


def test_states_of_rows_read_together_are_those_of_each_row_alone(tmp_path):
    found = LocalTeacher("tiny", tiny_teacher(tmp_path), device=CPU, dtype=torch.float32)
    whole = read(found, ROWS, [4, 0, 2])
    counted = ROWS.counted_N.split(ROWS.length_B.tolist())
    alone = [found.hidden(ROWS.split()[i][None, :-1])[0][counted[i]] for i in (4, 0, 2)]
    assert len(whole) == 10
    torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_every_position_that_counts_is_in_the_part_of_its_teacher():
    toys = [Toy("a", 1), Toy("b", 2)]
    parts = council(toys, [teacher("a", "sums"), teacher("b", "words")]).parts(ROWS, TAGS)
    assert [part.at_M.tolist() for part in parts] == [places(0, 2, 4), places(1, 3)]
    assert all(part.own for part in parts)
    for part, toy in zip(parts, toys, strict=True):
        signal = part.signal(CPU)
        assert isinstance(signal, Hidden)
        said = logits(signal.states_NT, signal.head).log_softmax(-1)
        torch.testing.assert_close(said, logp(toy)[part.at_M])


def test_teachers_of_one_tag_are_mixed_as_probabilities():
    toys = [Toy("a", 1), Toy("b", 2)]
    teachers = [teacher("a", "sums", weight=3), teacher("b")]
    mixed = [teachers[0], teacher("b", "sums", "words")]
    parts = council(toys, mixed).parts(ROWS, TAGS)
    assert [part.at_M.tolist() for part in parts] == [places(0, 2, 4), places(1, 3)]
    signal = parts[0].signal(CPU)
    assert isinstance(signal, Mixture)
    assert [weight for weight, _ in signal.parts] == [0.75, 0.25]
    for (_, hidden), toy in zip(signal.parts, toys, strict=True):
        assert isinstance(hidden, Hidden)
        said = logits(hidden.states_NT, hidden.head).log_softmax(-1)
        torch.testing.assert_close(said, logp(toy)[parts[0].at_M])


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.75, 0.25)])
def test_the_sampled_estimator_has_log_probabilities_of_what_was_written(weights):
    toys = [Toy("a", 1), Toy("b", 2)]
    if weights[1]:
        teachers = [teacher("a", "sums", weight=3), teacher("b", "sums", "words")]
    else:
        teachers = [teacher("a", "sums"), teacher("b", "words")]
    (part, other) = council(toys, teachers, estimator="sampled").parts(ROWS, TAGS)
    labels = torch.cat([row[1:] for row in ROWS.split()])
    exact = [logp(toy).gather(1, labels[:, None])[:, 0] for toy in toys]
    signal = part.signal(CPU)
    assert isinstance(signal, Text) and signal.logp_N is not None
    mixed = torch.log(sum(w * said.exp() for w, said in zip(weights, exact, strict=True)))
    torch.testing.assert_close(signal.logp_N, mixed[part.at_M])
    second = other.signal(CPU)
    assert isinstance(second, Text) and second.logp_N is not None
    torch.testing.assert_close(second.logp_N, exact[1][other.at_M])


@pytest.mark.parametrize("estimator", ["full", "sampled"])
def test_behind_a_token_that_a_teacher_has_no_row_for_nothing_counts(estimator):
    first, second = Toy("a", 1, vocab=24), Toy("b", 2)
    first.table_VT = first.table_VT[:24]  # of 24 tokens, so 24 to 27 are beyond it
    configs = [teacher("a", "sums"), teacher("b", "words")]
    parts = council([first, second], configs, estimator=estimator).parts(ROWS, TAGS)
    lengths = ROWS.length_B.tolist()
    begins = [sum(lengths[:row]) for row in range(5)]
    # Row 0 is all known; of row 2 the first answer (23) alone; of row 4 the answer begins with 27.
    assert parts[0].at_M.tolist() == [*places(0), begins[2] + 2]
    assert parts[1].at_M.tolist() == places(1, 3)
    found = parts[0].signal(CPU)
    spared = torch.tensor([*ROWS.split()[2][:3].tolist()])
    states = first.hidden(spared[None])[0, -1]
    if estimator == "full":
        assert torch.allclose(found.states_NT[-1], states)
        assert len(found.head.weight_VT) == VOCAB
    else:
        said = logits(states[None], first.head).log_softmax(-1)[0]
        assert float(found.logp_N[-1]) == pytest.approx(float(said[23]), abs=1e-5)


def test_heads_of_padded_vocabularies_are_fitted_to_the_students():
    toy = Toy("a", 1, vocab=VOCAB + 4)
    (part,) = council([toy], [teacher("a")], vocab_size=VOCAB).parts(ROWS, TAGS)
    signal = part.signal(CPU)
    assert isinstance(signal, Hidden) and len(signal.head.weight_VT) == VOCAB
    sampled = council([toy], [teacher("a")], vocab_size=VOCAB, estimator="sampled")
    (spoken,) = sampled.parts(ROWS, TAGS)
    labels = torch.cat([row[1:] for row in ROWS.split()])[part.at_M]
    said = logits(signal.states_NT, signal.head).log_softmax(-1)
    text = spoken.signal(CPU)
    assert isinstance(text, Text) and text.logp_N is not None
    torch.testing.assert_close(text.logp_N, said.gather(1, labels[:, None])[:, 0])
    assert math.isfinite(float(text.logp_N.sum()))
