"""Positive matrices are made doubly stochastic, as the loop over columns and rows does it.

The loop is restated here, a matrix at a time.
"""

import pytest
import torch

from student.sinkhorn import sinkhorn

EPS = 1e-6


def random(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def start(spread: float, count: int, m: int = 4, dtype=torch.float64) -> torch.Tensor:
    """Return softmax rows of normal logits of this spread."""
    return torch.softmax(spread * random(count, m, m, dtype=dtype), dim=-1)


def by_hand(x_MM: torch.Tensor, iterations: int, eps: float = EPS) -> torch.Tensor:
    x_MM = x_MM + eps
    x_MM = x_MM / (x_MM.sum(0, keepdim=True) + eps)
    for _ in range(iterations - 1):
        x_MM = x_MM / (x_MM.sum(1, keepdim=True) + eps)
        x_MM = x_MM / (x_MM.sum(0, keepdim=True) + eps)
    return x_MM


def off(x_NMM: torch.Tensor, dim: int) -> float:
    """Return how far from 1 the worst sum along `dim` is."""
    return float((x_NMM.sum(dim) - 1).abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", [1, 2, 4])
@pytest.mark.parametrize("spread", [0.0, 0.1, 0.5])
def test_twenty_iterations_make_ordinary_matrices_doubly_stochastic(spread, m, dtype):
    y_NMM = sinkhorn(start(spread, 4096, m, dtype), 20, EPS)
    assert off(y_NMM, 1) < 1e-5
    assert off(y_NMM, 2) < 1e-5
    assert y_NMM.min() >= 0


EXTREME = {
    "one column": [[60, 0, 0, 0]] * 4,
    "two rows on one column": [[60, 0, 0, 0], [60, 0, 0, 0], [0, 60, 0, 0], [0, 0, 60, 0]],
    "triangle": [[60, -60, -60, -60], [60, 60, -60, -60], [60, 60, 60, -60], [60] * 4],
    "permutation": [[0, 60, 0, 0], [60, 0, 0, 0], [0, 0, 0, 60], [0, 0, 60, 0]],
}


def extreme() -> torch.Tensor:
    """Return matrices of which many are nearly singular: saturated by chance and by hand."""
    by_chance = torch.cat([start(spread, 2048) for spread in (2.0, 8.0, 64.0, 1000.0)])
    hard = torch.tensor(list(EXTREME.values()), dtype=torch.float64)
    return torch.cat((by_chance, torch.softmax(hard, -1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_sum_to_one_whatever_the_input_and_rows_as_nearly_as_it_has_converged(dtype):
    y_NMM = sinkhorn(extreme().to(dtype), 20, EPS)
    assert off(y_NMM, 1) < 2e-6
    # Measured: 0.08. The iteration crawls where there is no matching without a near-zero.
    assert 0.01 < off(y_NMM, 2) < 0.1
    assert y_NMM.min() >= 0
    assert torch.linalg.matrix_norm(y_NMM, 2).max() < 1.03
    assert off(sinkhorn(extreme().to(dtype), 200, EPS), 2) < 0.5 * off(y_NMM, 2)


@pytest.mark.parametrize("m", [1, 2, 4])
@pytest.mark.parametrize("iterations", [1, 2, 20])
def test_the_iteration_is_the_loop_over_columns_and_rows(iterations, m):
    x_NMM = torch.cat([start(spread, 3, m) for spread in (0.5, 3.0, 50.0)])
    for eps in (EPS, 0.1):
        expected = torch.stack([by_hand(x_MM, iterations, eps) for x_MM in x_NMM])
        got = sinkhorn(x_NMM, iterations, eps)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-15)])
def test_the_result_is_the_same_where_no_gradient_is_wanted(dtype, tolerance):
    for x_NMM in (
        start(0.0, 9),
        start(0.3, 512),
        start(1.0, 2048),
        extreme(),
        *extreme()[::31, None],
    ):
        learnt = sinkhorn(x_NMM.to(dtype).requires_grad_(), 20, EPS)
        told = sinkhorn(x_NMM.to(dtype), 20, EPS)
        torch.testing.assert_close(told, learnt.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_its_gradient_is_that_of_finite_differences(iterations):
    x_NMM = start(1.0, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sinkhorn(x, iterations, 0.01), (x_NMM,))


def test_its_gradient_is_that_of_the_loop_even_for_extreme_matrices():
    x_NMM, seen_NMM = extreme()[::97].requires_grad_(), random(1, 4, 4)
    (sinkhorn(x_NMM, 20, EPS) * seen_NMM).sum().backward()
    y_NMM = x_NMM.detach().requires_grad_()
    (torch.stack([by_hand(y_MM, 20) for y_MM in y_NMM]) * seen_NMM).sum().backward()
    error = (x_NMM.grad - y_NMM.grad).flatten(1).norm(dim=1) / y_NMM.grad.flatten(1).norm(dim=1)
    assert error.max() < 1e-9
