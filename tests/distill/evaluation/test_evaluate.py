"""What is measured is what the formulas say; a student goes on from any prompt."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from distill.batches import Reading, Route, WindowRows
from distill.evaluation.evaluate import Measured, Scores, measure, write_on
from distill.signals import Dense, Head, Hidden, Signal, Sparse, Text, sparsify
from student.model import Student
from tests.fakes.lessons import Heard, random_windows
from tests.fakes.students import CPU, MLA, V4, VOCABULARY, documents, stirred

SMALL = replace(MLA, max_position_embeddings=16)
VOCAB, LENGTH, COUNT = VOCABULARY.size, 24, 11  # more windows than a batch, more rows than a tile
ALL = np.arange(COUNT)


def windows():
    """Return windows of documents that end in their middles, and targets of one to four bytes."""
    found = random_windows(COUNT, LENGTH, VOCAB)
    sizes = np.random.default_rng(1).integers(1, 5, (COUNT, LENGTH)).astype(np.float64)
    place = np.arange(COUNT * LENGTH).reshape(COUNT, LENGTH)
    return replace(found, sizes=sizes, document=(place // 60).astype(np.int32))


WINDOWS = windows()
COUNTED = WINDOWS.weights > 0


def drawn(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hidden_teacher(seed: int = 0) -> Hidden:
    head = Head(drawn(seed + 1, VOCAB, 5), drawn(seed + 2, VOCAB), 3.0)
    return Hidden(drawn(seed, COUNT * LENGTH, 5), head)


DENSE = Dense(drawn(7, COUNT * LENGTH, VOCAB, scale=2.0))
HIDDEN = hidden_teacher()


def route(*voices: tuple[float, Signal], taught=ALL) -> Route:
    first = np.where(np.isin(ALL, taught), ALL * LENGTH, -1)
    return Route(voices=tuple((w, Heard(signal), WindowRows(first)) for w, signal in voices))


@dataclass
class Plain:
    """Log-probabilities of student and teacher `[W, S, V]` in float64, and the labels."""

    logq: torch.Tensor
    logp: torch.Tensor
    label: torch.Tensor

    def nll(self, log: torch.Tensor) -> np.ndarray:
        return -log.gather(-1, self.label[..., None])[..., 0].numpy()

    def mean(self, values: torch.Tensor, where=COUNTED) -> float:
        return float(values.numpy()[where].mean())


@torch.no_grad()
def plain(student: Student, logp: torch.Tensor) -> Plain:
    """Return both sides, the student run on each window alone."""
    token_WS = torch.from_numpy(WINDOWS.tokens).long()
    rows = []
    for token_S in token_WS:
        hidden = student(token_S[:-1], documents(LENGTH)).hidden_ND
        rows.append(student.logits(hidden).double().log_softmax(-1))
    return Plain(torch.stack(rows), logp.unflatten(0, (COUNT, LENGTH)), token_WS[:, 1:])


def log_of(signal: Signal) -> torch.Tensor:
    """Return what an exact signal says, by its definition, float64 `[N, V]`."""
    if isinstance(signal, Dense):
        return signal.logits_NV.double().log_softmax(-1)
    assert isinstance(signal, Hidden)
    head = signal.head
    raw = signal.states_NT.double() @ head.weight_VT.double().t() + head.bias_V.double()
    return (head.softcap * (raw / head.softcap).tanh()).log_softmax(-1)


@pytest.fixture(scope="module")
def student() -> Student:
    return stirred(MLA)


def measured(student, *routes: Route, text=WINDOWS) -> tuple[Scores, Measured]:
    scores, speed = measure(student, Reading(text, list(routes)))
    return scores, scores.measured(speed)


def assert_measured(found: Measured, side: Plain, where=COUNTED) -> None:
    """Compare with the formulas; the teacher speaks `where`."""
    p, q = side.logp.exp(), side.logq.exp()
    gap = side.logp - side.logq
    assert found.kl == pytest.approx(side.mean((p * gap).sum(-1), where), rel=1e-4)
    assert found.reverse_kl == pytest.approx(-side.mean((q * gap).sum(-1), where), rel=1e-4)
    same = (side.logp.argmax(-1) == side.logq.argmax(-1)).double()
    assert found.top1_agreement == pytest.approx(side.mean(same, where), rel=1e-6)
    assert_text(found, side)


def assert_text(found: Measured, side: Plain) -> None:
    nll = side.nll(side.logq)[COUNTED]
    size = WINDOWS.sizes[COUNTED].sum()
    assert found.bits_per_byte == pytest.approx(nll.sum() / math.log(2) / size, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nll.mean()), rel=1e-5)
    assert (found.tokens, found.bytes) == (COUNTED.sum(), size)
    assert found.tokens_per_second > 0


@pytest.mark.parametrize("signal", [HIDDEN, DENSE], ids=["hidden", "dense"])
def test_what_is_measured_is_what_the_formulas_say(student, signal):
    scores, found = measured(student, route((1.0, signal)))
    side = plain(student, log_of(signal))
    assert_measured(found, side)
    nll = side.nll(side.logp)[COUNTED]
    teacher = scores.teacher()
    size = WINDOWS.sizes[COUNTED].sum()
    assert teacher.bits_per_byte == pytest.approx(nll.sum() / math.log(2) / size, rel=1e-5)
    assert teacher.perplexity == pytest.approx(math.exp(nll.mean()), rel=1e-5)


def test_a_mixture_is_mixed_as_probabilities(student):
    _, found = measured(student, route((0.25, HIDDEN), (0.75, DENSE)))
    mixed = (0.25 * log_of(HIDDEN).exp() + 0.75 * log_of(DENSE).exp()).log()
    assert_measured(found, plain(student, mixed))


def test_teachers_of_different_windows_are_compared_each_where_it_teaches(student):
    routes = route((1.0, HIDDEN), taught=[0, 3, 9]), route((1.0, DENSE), taught=[1, 9, 10])
    scores, found = measured(student, *routes)
    said = torch.full((COUNT, LENGTH, VOCAB), torch.nan, dtype=torch.float64)
    for signal, taught in ((DENSE, [1, 10]), (HIDDEN, [0, 3, 9])):
        said[taught] = log_of(signal).unflatten(0, (COUNT, LENGTH))[taught]
    where = COUNTED & np.isin(ALL, [0, 1, 3, 9, 10])[:, None]
    side = plain(student, said.flatten(0, 1))
    assert_measured(found, side, where)
    # The teachers' bits, and how far behind them, are of the bytes that they speak of.
    size = WINDOWS.sizes[where].sum()
    theirs, mine = (side.nll(log)[where].sum() / math.log(2) for log in (side.logp, side.logq))
    assert scores.teacher().bits_per_byte == pytest.approx(theirs / size, rel=1e-5)
    behind = scores.behind()
    assert behind.difference == pytest.approx((mine - theirs) / size, rel=1e-4)
    assert behind.n == where.sum()


def test_without_a_teacher_the_text_alone_measures_the_student(student):
    scores, found = measured(student)
    assert_text(found, plain(student, log_of(DENSE)))
    assert (found.kl, found.reverse_kl, found.top1_agreement) == (None, None, None)
    assert scores.teacher() is None
    assert scores.behind() is None


def test_a_signal_that_is_not_exact_is_compared_with_nothing(student):
    generator = torch.Generator().manual_seed(0)
    sparse: Sparse = sparsify(DENSE.logits_NV, head=8, tail=2, generator=generator)
    for signal in (sparse, Text(drawn(3, COUNT * LENGTH))):
        scores, found = measured(student, route((1.0, signal)))
        assert found.kl is None
        assert scores.teacher() is None
        assert found.tokens == COUNTED.sum()


# How far behind.


@torch.no_grad()
def itself(student: Student) -> Hidden:
    """Return the student as its own teacher."""
    token_WS = torch.from_numpy(WINDOWS.tokens).long()[:, :-1]
    states = [student(token_S, documents(LENGTH)).hidden_ND for token_S in token_WS]
    return Hidden(torch.cat(states), Head(student.head_weight()))


def test_a_student_is_not_behind_itself(student):
    scores, found = measured(student, route((1.0, itself(student))))
    assert found.kl == pytest.approx(0, abs=1e-6)
    assert found.reverse_kl == pytest.approx(0, abs=1e-6)
    assert found.top1_agreement == 1.0
    assert scores.behind().difference == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("better", [True, False])
def test_a_student_is_behind_a_better_teacher_by_a_positive_number(student, better):
    label = torch.from_numpy(WINDOWS.tokens[:, 1:].reshape(-1)).long()
    sure = torch.nn.functional.one_hot(label, VOCAB) * (20.0 if better else -20.0)
    behind = measured(student, route((1.0, Dense(sure))))[0].behind()
    assert behind.low < behind.difference < behind.high
    assert (behind.low > 0) if better else (behind.high < 0)


def test_what_is_behind_is_drawn_by_documents(student):
    scores, _ = measured(student, route((1.0, DENSE)))
    behind = scores.behind()
    assert behind.clusters == len(np.unique(WINDOWS.document[COUNTED])) == 5
    assert behind.n == COUNTED.sum()
    assert scores.document_M.tolist() == WINDOWS.document[COUNTED].tolist()
    assert scores.bytes_M.tolist() == WINDOWS.sizes[COUNTED].tolist()


def test_documents_kept_apart_are_measured_apart():
    student = stirred(V4)
    starts = WINDOWS.starts.copy()
    starts[:, 10] = True
    apart = replace(WINDOWS, starts=starts)
    found = measured(student, text=apart)[0].nll_M
    token_WS = torch.from_numpy(WINDOWS.tokens).long()
    expected = np.zeros((COUNT, LENGTH))
    with torch.no_grad():
        for row, token_S in enumerate(token_WS):
            for first, last in ((0, 10), (10, LENGTH)):
                hidden = student(token_S[first:last], documents(last - first)).hidden_ND
                logq = student.logits(hidden).log_softmax(-1)
                label = token_S[first + 1 : last + 1, None]
                expected[row, first:last] = -logq.gather(1, label)[:, 0].numpy()
    assert found == pytest.approx(expected[COUNTED], rel=1e-4, abs=1e-4)
    assert np.abs(found - measured(student)[0].nll_M).max() > 1e-2


def test_measuring_leaves_the_student_as_it_was(student):
    student.train()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    first = measured(student, route((1.0, HIDDEN)))[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    assert all(parameter.grad is None for parameter in student.parameters())
    again = measured(student, route((1.0, HIDDEN)))[0]
    assert np.array_equal(first.nll_M, again.nll_M)
    assert np.array_equal(first.taught_M, again.taught_M)


# Writing on.


class Words:
    """A tokenizer whose tokens are the numbers in a text."""

    def __call__(self, prompt: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [int(word) for word in prompt.split()]}

    def decode(self, tokens: list[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return " ".join(map(str, tokens))


def asked(monkeypatch, count: int, max_tokens: int) -> tuple[list[int], int]:
    """Return the prompt that is generated from, and how many tokens are asked for."""
    noted = []

    def note(student, prompts, *, max_new_tokens, sampling):
        noted.append((prompts[0], max_new_tokens))
        return [[7] * max_new_tokens]

    monkeypatch.setattr("distill.evaluation.evaluate.generate", note)
    student = Student.build(SMALL, VOCABULARY)
    prompt = " ".join(str(10 + place) for place in range(count))
    written = write_on(student, Words(), prompt, max_tokens, seed=0)
    assert written.split() == ["7"] * noted[0][1]
    return noted[0]


@pytest.mark.parametrize(
    ("count", "max_tokens", "read", "new"),
    [
        (5, 4, range(10, 15), 4),  # room for all
        (12, 4, range(10, 22), 4),  # just
        (5, 30, range(10, 15), 11),  # up to the last position
        (13, 4, range(11, 23), 4),  # the end of a prompt that leaves too little room
        (16, 4, range(14, 26), 4),  # or none
        (40, 4, range(38, 50), 4),  # or is longer than the positions
        (40, 30, range(42, 50), 8),  # half for each
        (0, 4, [VOCABULARY.bos], 4),
        (0, 30, [VOCABULARY.bos], 15),
    ],
)
def test_as_much_of_a_prompt_is_read_as_leaves_room_to_write(
    monkeypatch, count, max_tokens, read, new
):
    assert asked(monkeypatch, count, max_tokens) == (list(read), new)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 40])
def test_a_student_writes_on_whatever_the_prompt(count):
    student = Student.build(SMALL, VOCABULARY, device=CPU)
    prompt = " ".join(["9"] * count)
    written = write_on(student, Words(), prompt, 5, seed=1)
    assert written == write_on(student, Words(), prompt, 5, seed=1)
    assert all(0 <= int(token) < VOCABULARY.size for token in written.split())
