"""Streams are mixed without growth, as transformers mixes them and as the equations say.

The equations are restated here, a token and a matrix at a time.
"""

import pytest
import torch
from transformers import DeepseekV4Config
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as v4

from student.config import V4Config
from student.hyper_connection import HyperConnection, Mixing, StreamHead, expand, sinkhorn

EPS = 1e-6
WIDTH = 24


def random(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def start(spread: float, count: int, m: int = 4, dtype=torch.float64) -> torch.Tensor:
    """Return what the iteration begins with, for normal logits of this spread."""
    return torch.softmax(spread * random(count, m, m, dtype=dtype), dim=-1) + EPS


def by_hand(x_MM: torch.Tensor, iterations: int, eps: float = EPS) -> torch.Tensor:
    x_MM = x_MM / (x_MM.sum(0, keepdim=True) + eps)
    for _ in range(iterations - 1):
        x_MM = x_MM / (x_MM.sum(1, keepdim=True) + eps)
        x_MM = x_MM / (x_MM.sum(0, keepdim=True) + eps)
    return x_MM


def off(x_NMM: torch.Tensor, dim: int) -> float:
    """Return how far from 1 the worst sum along `dim` is."""
    return float((x_NMM.sum(dim) - 1).abs().max())


def config(m: int = 4, **changes) -> V4Config:
    return V4Config(hidden_size=WIDTH, hc_streams=m, **changes)


def filled(module: torch.nn.Module, seed: int = 3) -> torch.nn.Module:
    """Draw every parameter, so that every term matters."""
    for number, parameter in enumerate(module.parameters()):
        parameter.data = 0.5 * random(*parameter.shape, seed=seed + number, dtype=torch.float32)
    return module


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
    return torch.cat((by_chance, torch.softmax(hard, -1) + EPS))


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


def theirs(m: int) -> DeepseekV4Config:
    return DeepseekV4Config(hidden_size=WIDTH, hc_mult=m, num_hidden_layers=1)


@pytest.mark.parametrize("m", [1, 2, 4])
def test_a_hyper_connection_is_that_of_transformers(m):
    other, own = v4.DeepseekV4HyperConnection(theirs(m)), filled(HyperConnection(config(m)))
    other.load_state_dict(own.state_dict())
    streams_NMD, out_ND = random(7, m, WIDTH).float(), random(7, WIDTH, seed=1).float()
    mixing = own(streams_NMD)
    post_1NM, comb_1NMM, input_1ND = other(streams_NMD[None])
    mixed_NMD = comb_1NMM[0].transpose(1, 2) @ streams_NMD
    new_NMD = post_1NM[0, ..., None] * out_ND[:, None] + mixed_NMD
    for got, expected in [
        (mixing, Mixing(input_1ND[0], post_1NM[0], comb_1NMM[0])),
        ([expand(mixing, out_ND, streams_NMD)], [new_NMD]),
    ]:
        torch.testing.assert_close(list(got), list(expected), rtol=1e-5, atol=2e-6)
    (expand(mixing, out_ND, streams_NMD).square().sum() + mixing.input_ND.sum()).backward()
    (new_NMD.square().sum() + input_1ND.sum()).backward()
    for (name, mine), its in zip(own.named_parameters(), other.parameters(), strict=True):
        assert mine.grad.norm() > 0 or name != "fn"
        torch.testing.assert_close(
            mine.grad, its.grad, rtol=1e-4, atol=1e-4 * float(its.grad.max())
        )


def test_it_is_what_the_equations_say_in_float64():
    own, m = filled(HyperConnection(config(3))).double(), 3
    streams_NMD = random(5, m, WIDTH)
    got = own(streams_NMD)
    for n, streams_MD in enumerate(streams_NMD):
        joined_F = streams_MD.flatten()
        normed_F = joined_F / (joined_F.square().mean() + own.norm_eps).sqrt()
        a, b, c = (own.fn @ normed_F).split([m, m, m * m])
        base_a, base_b, base_c = own.base.split([m, m, m * m])
        pre_M = torch.sigmoid(own.scale[0] * a + base_a) + EPS
        post_M = 2 * torch.sigmoid(own.scale[1] * b + base_b)
        logit_MM = (own.scale[2] * c + base_c).view(m, m)
        comb_MM = by_hand(torch.softmax(logit_MM, dim=1) + EPS, 20)
        torch.testing.assert_close(got.input_ND[n], pre_M @ streams_MD, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(got.post_NM[n], post_M, rtol=1e-12, atol=0)
        torch.testing.assert_close(got.comb_NMM[n], comb_MM, rtol=1e-12, atol=0)


def test_a_stream_head_is_that_of_transformers():
    other, own = v4.DeepseekV4HyperHead(theirs(4)), filled(StreamHead(config()))
    other.load_state_dict({f"hc_{name}": value for name, value in own.state_dict().items()})
    streams_NMD = random(7, 4, WIDTH).float()
    torch.testing.assert_close(own(streams_NMD), other(streams_NMD[None])[0], rtol=1e-5, atol=2e-6)


def test_mixing_keeps_the_sum_of_the_streams_and_leaves_equal_streams_equal():
    own, nothing_ND = filled(HyperConnection(config())).double(), torch.zeros(9, WIDTH).double()
    own.scale.data.mul_(0.1)
    streams_NMD = random(9, 4, WIDTH)
    new_NMD = expand(own(streams_NMD), nothing_ND, streams_NMD)
    assert (new_NMD - streams_NMD).abs().max() > 0.1
    torch.testing.assert_close(new_NMD.sum(1), streams_NMD.sum(1), rtol=1e-4, atol=1e-4)
    alike_NMD = streams_NMD[:, :1].expand(-1, 4, -1)
    kept_NMD = expand(own(alike_NMD), nothing_ND, alike_NMD)
    torch.testing.assert_close(kept_NMD, alike_NMD, rtol=2e-6, atol=0)


@pytest.mark.parametrize(("gate", "tolerance"), [(0.0, 1e-5), (0.01, 0.05)])
def test_equal_streams_and_small_gates_begin_as_one_plain_residual(gate, tolerance):
    own = filled(HyperConnection(config()))
    own.base.data.zero_()
    own.scale.data.fill_(gate)
    x_ND, out_ND = random(9, WIDTH).float(), random(9, WIDTH, seed=1).float()
    streams_NMD = x_ND[:, None].expand(-1, 4, -1)
    mixing = own(streams_NMD)
    # Half of each of four streams: twice the token, which a norm after it makes the token again.
    torch.testing.assert_close(mixing.input_ND, 2 * x_ND, rtol=tolerance, atol=0)
    torch.testing.assert_close(mixing.comb_NMM, torch.full((9, 4, 4), 0.25), rtol=0, atol=tolerance)
    new_NMD, residual_NMD = expand(mixing, out_ND, streams_NMD), (x_ND + out_ND)[:, None]
    worst = (new_NMD - residual_NMD).abs().max() / residual_NMD.abs().max()
    assert worst < tolerance


def test_autocast_changes_nothing():
    own, head = filled(HyperConnection(config())), filled(StreamHead(config()))
    streams_NMD, out_ND = random(9, 4, WIDTH).float(), random(9, WIDTH).bfloat16()
    plain = [*own(streams_NMD), expand(own(streams_NMD), out_ND, streams_NMD), head(streams_NMD)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixing = own(streams_NMD)
        cast = [*mixing, expand(mixing, out_ND, streams_NMD), head(streams_NMD)]
    assert {x.dtype for x in cast} == {torch.float32}
    assert all(torch.equal(one, other) for one, other in zip(plain, cast, strict=True))
