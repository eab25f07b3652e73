"""Hidden states are matched through the projector at the positions that count."""

import pytest
import torch

from distill.loss.hidden_match import hidden_match
from tests.fakes.losses import drawn

KEPT = torch.tensor([0, 2, 3])
KINDS = ("hidden_mse", "hidden_cosine")


def sides() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hidden, projector = drawn(0, 5, 4).requires_grad_(), drawn(1, 3, 4).requires_grad_()
    return hidden, projector, drawn(2, 5, 3)


def test_both_are_their_definitions():
    hidden, projector, states = sides()
    squares, cosines = [], []
    for row in KEPT.tolist():
        made, wanted = projector @ hidden[row], states[row]
        squares.append(sum((a - b) ** 2 for a, b in zip(made, wanted, strict=True)) / 3)
        cosines.append(1 - made @ wanted / (made.norm() * wanted.norm()))
    for kind, rows in zip(KINDS, (squares, cosines), strict=True):
        found = hidden_match(kind, hidden, projector, states, KEPT)
        torch.testing.assert_close(found, sum(rows) / 3, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_numeric_differences_confirm_the_gradient(kind):
    hidden, projector, states = sides()
    assert torch.autograd.gradcheck(
        lambda h, p: hidden_match(kind, h, p, states, KEPT), (hidden, projector)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_and_masked_positions_take_no_gradient(kind):
    hidden, projector, states = sides()
    states.requires_grad_()
    hidden_match(kind, hidden, projector, states, KEPT).backward()
    assert states.grad is None
    assert hidden.grad[KEPT].any(-1).all()
    assert not hidden.grad[[1, 4]].any()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_counts_gives_nothing(kind):
    hidden, projector, states = sides()
    found = hidden_match(kind, hidden, projector, states, KEPT[:0])
    found.backward()
    assert found == 0
    assert not hidden.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_in_bfloat16_is_compared_in_the_students_dtype(kind):
    hidden, projector, states = sides()
    low = states.bfloat16()
    found = hidden_match(kind, hidden, projector, low, KEPT)
    assert torch.equal(found, hidden_match(kind, hidden, projector, low.double(), KEPT))
    assert found.dtype == torch.float64


def test_a_state_of_zeros_is_at_right_angles_to_all():
    hidden, projector, states = sides()
    found = hidden_match("hidden_cosine", 0 * hidden, projector, states, KEPT)
    assert found == 1
    found.backward()
    assert projector.grad.isfinite().all()
