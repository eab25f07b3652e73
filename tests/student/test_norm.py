"""Vectors are scaled to root mean square 1 in float32 or wider, and come back as they were."""

import math

import pytest
import torch
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4RMSNorm

from student.norm import RMSNorm, inverse_rms, unit_rms, widened

EPS = 1e-6


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm(width: int) -> RMSNorm:
    made = RMSNorm(width, EPS).double()
    made.weight.data = random(width, seed=1)
    return made


def by_hand(rows, weight) -> list[list[float]]:
    scaled = []
    for row in rows:
        rms = math.sqrt(sum(value * value for value in row) / len(row) + EPS)
        scaled.append([value / rms * factor for value, factor in zip(row, weight, strict=True)])
    return scaled


@pytest.mark.parametrize("size", [1e-6, 1e-2, 1.0, 1e6])
def test_each_vector_is_divided_by_its_root_mean_square_and_weighted(size):
    x_NF, layer = size * random(5, 7), norm(7)
    expected = torch.tensor(by_hand(x_NF.tolist(), layer.weight.tolist()), dtype=torch.float64)
    torch.testing.assert_close(layer(x_NF), expected, rtol=1e-13, atol=0)


def test_without_a_weight_the_root_mean_square_is_one():
    x_NHF = random(3, 4, 7)
    expected = [by_hand(rows, [1.0] * 7) for rows in x_NHF.tolist()]
    torch.testing.assert_close(unit_rms(x_NHF, EPS), torch.tensor(expected, dtype=x_NHF.dtype))
    factor = inverse_rms(x_NHF, EPS)
    torch.testing.assert_close(unit_rms(x_NHF, EPS), x_NHF * factor, rtol=1e-13, atol=0)


def test_a_new_norm_leaves_root_mean_square_one_and_zeros_stay_zeros():
    layer = RMSNorm(64, EPS)
    assert layer(random(3, 64).float()).square().mean(-1).tolist() == pytest.approx(
        [1] * 3, rel=1e-5
    )
    assert not layer(torch.zeros(2, 64)).any()
    assert layer.weight.tolist() == [1.0] * 64


def test_gradients_are_those_of_finite_differences():
    x_NF, layer = random(3, 5).requires_grad_(), norm(5)
    assert torch.autograd.gradcheck(
        lambda x, w: torch.func.functional_call(layer, {"weight": w}, x), (x_NF, layer.weight)
    )


def test_it_is_transformers_norm():
    theirs, ours = DeepseekV4RMSNorm(32, eps=EPS), RMSNorm(32, EPS)
    theirs.weight.data = ours.weight.data = random(32, seed=2).float()
    x_NF = random(9, 32).float()
    torch.testing.assert_close(ours(x_NF), theirs(x_NF), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_bfloat16_is_summed_in_float32_and_returned_as_bfloat16(weights, autocast):
    x_NF, layer = random(4, 512).bfloat16(), RMSNorm(512, EPS).to(weights)
    exact = torch.tensor(by_hand(x_NF.tolist(), [1.0] * 512)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        assert inverse_rms(x_NF, EPS).dtype == torch.float32
        for got in (layer(x_NF), unit_rms(x_NF, EPS)):
            assert got.dtype == torch.bfloat16
            # All but what lies between two roundings; a sum in bfloat16 would move most.
            assert (got == exact).double().mean() > 0.99
            torch.testing.assert_close(got, exact, rtol=2**-7, atol=0)
        assert layer(x_NF.float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_what_is_narrower_than_float32_is_widened_to_it(given, kept):
    assert widened(torch.ones(2, dtype=given)).dtype == kept
    assert inverse_rms(torch.ones(2, dtype=given), EPS).dtype == kept
