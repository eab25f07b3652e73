"""Streams are mixed without growth, as transformers mixes them and as the equations say.

The equations are restated here, a token and a matrix at a time.
"""

import pytest
import torch
from transformers import DeepseekV4Config
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as v4

from student.config import V4Config
from student.hyper_connection import HyperConnection, Mixing, StreamHead, expand
from student.sinkhorn import sinkhorn

EPS = 1e-6
WIDTH = 24


def random(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def config(m: int = 4, **changes) -> V4Config:
    return V4Config(hidden_size=WIDTH, hc_streams=m, **changes)


def filled(module: torch.nn.Module, seed: int = 3) -> torch.nn.Module:
    """Draw every parameter, so that every term matters."""
    for number, parameter in enumerate(module.parameters()):
        parameter.data = 0.5 * random(*parameter.shape, seed=seed + number, dtype=torch.float32)
    return module


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
        (mixing, Mixing(input_1ND[0], post_1NM[0], comb_1NMM[0], streams_NMD)),
        ([expand(mixing, out_ND)], [new_NMD]),
    ]:
        torch.testing.assert_close(list(got), list(expected), rtol=1e-5, atol=2e-6)
    (expand(mixing, out_ND).square().sum() + mixing.input_ND.sum()).backward()
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
        comb_MM = sinkhorn(torch.softmax(logit_MM, dim=1)[None], 20, EPS)[0]
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
    new_NMD = expand(own(streams_NMD), nothing_ND)
    assert (new_NMD - streams_NMD).abs().max() > 0.1
    torch.testing.assert_close(new_NMD.sum(1), streams_NMD.sum(1), rtol=1e-4, atol=1e-4)
    alike_NMD = streams_NMD[:, :1].expand(-1, 4, -1)
    kept_NMD = expand(own(alike_NMD), nothing_ND)
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
    new_NMD, residual_NMD = expand(mixing, out_ND), (x_ND + out_ND)[:, None]
    worst = (new_NMD - residual_NMD).abs().max() / residual_NMD.abs().max()
    assert worst < tolerance


def test_autocast_changes_nothing():
    own, head = filled(HyperConnection(config())), filled(StreamHead(config()))
    streams_NMD, out_ND = random(9, 4, WIDTH).float(), random(9, WIDTH).bfloat16()
    plain = [*own(streams_NMD), expand(own(streams_NMD), out_ND), head(streams_NMD)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixing = own(streams_NMD)
        cast = [*mixing, expand(mixing, out_ND), head(streams_NMD)]
    assert {x.dtype for x in cast} == {torch.float32}
    assert all(torch.equal(one, other) for one, other in zip(plain, cast, strict=True))


@pytest.mark.parametrize("m", [1, 3])
def test_gradients_of_reading_and_writing_are_those_of_finite_differences(m):
    own, out_ND = filled(HyperConnection(config(m))).double(), random(3, WIDTH, seed=1)
    own.iterations = 2  # a Jacobian's worth of Sinkhorn turns; its own gradient has its own test
    streams_NMD = random(3, m, WIDTH).requires_grad_()
    names, given = zip(*own.named_parameters(), strict=True)

    def run(streams_NMD, out_ND, *parameters):
        named = dict(zip(names, parameters, strict=True))
        mixing = torch.func.functional_call(own, named, streams_NMD)
        return expand(mixing, out_ND), mixing.input_ND

    assert torch.autograd.gradcheck(run, (streams_NMD, out_ND.requires_grad_(), *given))


def test_gradients_of_the_last_reading_are_those_of_finite_differences():
    head, streams_NMD = filled(StreamHead(config())).double(), random(3, 4, WIDTH).requires_grad_()
    names, given = zip(*head.named_parameters(), strict=True)

    def run(streams_NMD, *parameters):
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(head, named, streams_NMD)

    assert torch.autograd.gradcheck(run, (streams_NMD, *given))


def test_in_bfloat16_gradients_are_those_of_float32_to_its_digits():
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        own = filled(HyperConnection(config())).to(dtype)
        streams_NMD = random(64, 4, WIDTH).bfloat16().to(dtype).requires_grad_()
        mixing = own(streams_NMD)
        seen_NMD = random(64, 4, WIDTH, seed=5).to(dtype)
        (expand(mixing, mixing.input_ND) * seen_NMD).sum().backward()
        assert {x.dtype for x in (streams_NMD.grad, own.fn.grad, own.scale.grad)} == {dtype}
        grads.append([x.float() for x in (streams_NMD.grad, own.fn.grad, own.base.grad)])
    for whole, half in zip(*grads, strict=True):
        assert (whole - half).norm() / whole.norm() < 0.03


def test_without_a_gradient_the_result_is_the_same():
    own, head = filled(HyperConnection(config())), filled(StreamHead(config()))
    streams_NMD, out_ND = random(9, 4, WIDTH).float(), random(9, WIDTH).float()
    learnt = [*own(streams_NMD), expand(own(streams_NMD), out_ND), head(streams_NMD)]
    with torch.no_grad():
        told = [*own(streams_NMD), expand(own(streams_NMD), out_ND), head(streams_NMD)]
    for one, other in zip(learnt, told, strict=True):
        torch.testing.assert_close(one.detach(), other, rtol=1e-6, atol=1e-6)
