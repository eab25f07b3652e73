"""Positions turn pairs of features as complex numbers turn, as transformers' two models do it."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import DeepseekV3Config, DeepseekV4Config
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as v3
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as v4

from student.config import Yarn
from student.rotary import Angles, Wheel, angles, frequencies, rotate, softmax_correction

WIDTH = 16
YARN = Yarn(factor=8.0, original_positions=512)
PLACES = torch.tensor([0, 1, 5, 100, 4095])


def random(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def turns(theta: float = 10_000.0, yarn: Yarn | None = None, places=PLACES) -> Angles:
    return angles(places, frequencies(WIDTH, theta, yarn))


def theirs(yarn: Yarn | None) -> dict:
    """Return the keys by which transformers is told of a stretching."""
    if yarn is None:
        return {}
    return {
        "rope_type": "yarn",
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original_positions,
        "beta_fast": yarn.beta_fast,
        "beta_slow": yarn.beta_slow,
    }


@pytest.mark.parametrize("heads", [(), (3,), (2, 3)], ids=str)
def test_pairs_turn_as_complex_numbers_and_other_features_stay(heads):
    x_NF, turn = random(5, *heads, WIDTH + 6, dtype=torch.float64), turns()
    # Angles are float32, so the reference takes them from the same products.
    turned_NR = (PLACES[:, None].float() * frequencies(WIDTH, 10_000.0, None)).double()
    pairs = torch.view_as_complex(x_NF[..., 6:].unflatten(-1, (-1, 2)).contiguous())
    wheel = torch.polar(torch.ones_like(turned_NR), turned_NR).view(5, *[1] * len(heads), -1)
    expected = torch.view_as_real(pairs * wheel).flatten(-2)
    got = rotate(x_NF, turn)
    torch.testing.assert_close(got[..., 6:], expected, rtol=0, atol=1e-6)
    assert torch.equal(got[..., :6], x_NF[..., :6])


@pytest.mark.parametrize("yarn", [None, YARN], ids=["plain", "yarn"])
@pytest.mark.parametrize("kind", ["main", "compress"])
def test_angles_and_turning_are_those_of_transformers_v4(kind, yarn):
    config = DeepseekV4Config(
        num_hidden_layers=1,
        head_dim=WIDTH + 8,
        partial_rotary_factor=WIDTH / (WIDTH + 8),
        rope_theta=10_000.0,
        compress_rope_theta=160_000.0,
        max_position_embeddings=4096,
        rope_parameters=theirs(yarn) or None,
    )
    x_NHF = random(5, 2, WIDTH + 8)
    cos_1NR, sin_1NR = v4.DeepseekV4RotaryEmbedding(config)(x_NHF, PLACES[None], layer_type=kind)
    # Layers without entries are never stretched.
    turn = turns(10_000.0) if kind == "main" else turns(160_000.0, yarn)
    expected_HNF = v4.apply_rotary_pos_emb(x_NHF.transpose(0, 1)[None], cos_1NR, sin_1NR)[0]
    got_NHF = rotate(x_NHF, turn)
    torch.testing.assert_close(got_NHF.transpose(0, 1), expected_HNF, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(turn.cos_NR2[..., 0], cos_1NR[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(turn.sin_NR2[..., 1], sin_1NR[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("yarn", [None, YARN], ids=["plain", "yarn"])
def test_turning_is_that_of_transformers_v3_with_halves_for_pairs(yarn):
    stretch = {**theirs(yarn), "mscale": 1.0, "mscale_all_dim": 1.0} if yarn else {}
    config = DeepseekV3Config(
        qk_rope_head_dim=WIDTH,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, **stretch},
    )
    x_NHF = random(5, 2, WIDTH)
    cos_1NF, sin_1NF = v3.DeepseekV3RotaryEmbedding(config)(x_NHF, PLACES[None])
    rows = x_NHF.transpose(0, 1)[None]
    halves_HNF = v3.apply_rotary_pos_emb_interleave(rows, rows, cos_1NF, sin_1NF)[0][0]
    # They return all first members of the pairs, then all second ones.
    expected_HNF = halves_HNF.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
    got_NHF = rotate(x_NHF, turns(10_000.0, yarn))
    torch.testing.assert_close(got_NHF.transpose(0, 1), expected_HNF, rtol=1e-6, atol=1e-6)


def test_reversed_angles_turn_back():
    x_NHF, turn = random(5, 3, WIDTH + 2, dtype=torch.float64), turns()
    turned = rotate(x_NHF, turn)
    assert (turned - x_NHF)[1:].abs().max() > 0.1
    torch.testing.assert_close(rotate(turned, turn.reversed()), x_NHF, rtol=0, atol=1e-6)


@pytest.mark.parametrize("still", [0, 6])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_wheel_turns_whole_heads_as_angles_do_and_back(still, dtype):
    x_BHF = random(5, 3, still + WIDTH, dtype=torch.float64).to(dtype)
    places, frequency_R = torch.tensor([0, 3, 1, 900, 2]), frequencies(WIDTH, 10_000.0, YARN)
    turn, angle = Wheel(frequency_R, still + WIDTH).at(places), angles(places, frequency_R)
    tolerance = {"rtol": 0, "atol": 0.04 if dtype == torch.bfloat16 else 1e-6}
    torch.testing.assert_close(turn.forth(x_BHF), rotate(x_BHF, angle), **tolerance)
    torch.testing.assert_close(turn.back(x_BHF), rotate(x_BHF, angle.reversed()), **tolerance)
    assert torch.equal(turn.forth(x_BHF)[..., :still], x_BHF[..., :still])
    assert (turn.forth(x_BHF) - turn.back(x_BHF))[1:].abs().max() > 0.1


def test_turning_keeps_the_length_of_vectors_and_of_each_pair():
    x_NHF = random(5, 3, WIDTH, dtype=torch.float64)
    before = x_NHF.unflatten(-1, (-1, 2)).norm(dim=-1)
    after = rotate(x_NHF, turns()).unflatten(-1, (-1, 2)).norm(dim=-1)
    torch.testing.assert_close(after, before, rtol=1e-6, atol=0)


def test_products_of_turned_vectors_depend_on_the_distance_alone():
    query, key = random(1, WIDTH, dtype=torch.float64), random(1, WIDTH, seed=1).double()
    places = torch.arange(30)
    query_NF = rotate(query.expand(30, -1), turns(places=places))
    key_NF = rotate(key.expand(30, -1), turns(places=places))
    product_NN = query_NF @ key_NF.T
    for distance in (0, 1, 7):
        same = product_NN.diagonal(-distance)
        torch.testing.assert_close(same, same[:1].expand_as(same), rtol=0, atol=1e-5)
    assert (product_NN[0, 0] - product_NN[7, 0]).abs() > 0.1


def test_yarn_leaves_fast_pairs_divides_slow_ones_and_ramps_between():
    plain, stretched = (frequencies(64, 10_000.0, yarn) for yarn in (None, YARN))
    turned = plain * YARN.original_positions / (2 * math.pi)
    ratio = plain / stretched
    fast, slow = ratio[turned > YARN.beta_fast], ratio[turned < YARN.beta_slow]
    assert min(len(fast), len(slow)) > 2
    assert fast.tolist() == pytest.approx([1.0] * len(fast))
    assert slow.tolist() == pytest.approx([YARN.factor] * len(slow))
    assert (ratio.diff() >= -1e-6).all()
    between = ratio[(turned > YARN.beta_slow) & (turned < YARN.beta_fast)]
    assert ((between > 1) & (between < YARN.factor)).sum() > 2


def test_a_context_too_short_to_turn_once_divides_all_but_the_fastest_pair():
    short = replace(YARN, original_positions=4)
    ratio = frequencies(WIDTH, 10_000.0, None) / frequencies(WIDTH, 10_000.0, short)
    assert ratio.tolist() == pytest.approx([1.0] + [YARN.factor] * 7)


def test_gradients_are_those_of_finite_differences():
    x_NHF = random(5, 2, WIDTH + 1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rotate(x, turns()), (x_NHF,))


def test_bfloat16_is_turned_in_float32_and_comes_back_rounded_once():
    x_NHF, turn = random(5, 2, WIDTH).bfloat16(), turns()
    got = rotate(x_NHF, turn)
    assert got.dtype == torch.bfloat16
    assert turn.cos_NR2.dtype == turn.sin_NR2.dtype == torch.float32
    assert torch.equal(got, rotate(x_NHF.float(), turn).bfloat16())


@pytest.mark.parametrize(("factor", "weight"), [(8.0, 1.0), (8.0, 0.7), (1.0, 1.0), (8.0, 0.0)])
def test_the_softmax_correction_is_that_of_transformers_v3(factor, weight):
    yarn = replace(YARN, factor=factor, mscale_all_dim=weight)
    told = {**theirs(yarn), "mscale_all_dim": weight}
    assert softmax_correction(yarn) == pytest.approx(v3.yarn_apply_mscale(told, 1.0), rel=1e-12)
    assert (softmax_correction(yarn) > 1) == (factor > 1 and weight > 0)


def test_without_yarn_the_softmax_is_not_corrected():
    assert softmax_correction(None) == 1.0
