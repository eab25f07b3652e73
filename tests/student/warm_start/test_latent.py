"""One layer made latent: how well keys and values come back, and what the constant is for."""

from dataclasses import replace

import torch

from student.warm_start import calibration, dense, latent, slots
from student.warm_start.latent import DOMINANCE, Shape
from tests.fakes.dense import teachers, text

MODEL = teachers()["llama"]
READ, SEEN = dense.read(MODEL), calibration.watch(MODEL, text(20, 32))
LAYER = READ.layers[1]
X_ND = SEEN.attention(READ, 1)


def even(x_ND: torch.Tensor) -> torch.Tensor:
    return torch.full((len(x_ND),), 1 / len(x_ND), dtype=torch.float64)


def made(rotary: int, values: int, weight_N: torch.Tensor | None = None, **changes):
    weight_N = even(X_ND) if weight_N is None else weight_N
    measure = calibration.measure(X_ND, weight_N)
    mixed = slots.mixing(LAYER, measure)
    chosen = slots.choose(READ, [mixed], rotary // 2)
    return latent.convert(LAYER, mixed, chosen, measure, Shape(latent=values, **changes)), chosen


def normed(latent_NL: torch.Tensor, weight_L: torch.Tensor) -> torch.Tensor:
    return latent_NL * latent_NL.square().mean(1, keepdim=True).rsqrt() * weight_L


def values(weights: dict[str, torch.Tensor], x_ND: torch.Tensor, size: int) -> torch.Tensor:
    """Return the values of each head, `[N, H, F]`, as latent attention makes them."""
    down_NL = (x_ND.float() @ weights["kv_a.weight"].T + weights["kv_a.bias"])[:, :size]
    up_NX = normed(down_NL, weights["kv_norm.weight"]) @ weights["kv_b.weight"].T
    return up_NX.unflatten(1, (6, -1))[..., 8:]


def error(weights: dict[str, torch.Tensor], size: int, weight_N: torch.Tensor) -> float:
    """Return the mean square of what the output projection makes of errors in values."""
    true_NGF = torch.einsum("nd,gfd->ngf", X_ND.float(), LAYER.v_GFD)
    wrong_NHF = values(weights, X_ND, size) - true_NGF.repeat_interleave(3, 1)
    wrong_NHD = torch.einsum("nhf,dhf->nhd", wrong_NHF, LAYER.o_DHF)
    return float((wrong_NHD.square().sum((1, 2)) * weight_N).sum())


def test_at_the_full_rank_values_are_the_teachers():
    found, _ = made(16, 17)
    assert error(found, 17, even(X_ND)) < 1e-8


def test_the_constant_rules_the_norm_and_is_a_power_of_two():
    found, _ = made(8, 12)
    weights = found
    down_NL = (X_ND.float() @ weights["kv_a.weight"].T + weights["kv_a.bias"])[:, :12]
    constant = float(weights["kv_a.bias"][11])
    assert constant == 2.0 ** round(torch.log2(torch.tensor(constant)).item())
    assert constant >= DOMINANCE * float(down_NL[:, :11].norm(dim=1).max())
    assert bool((weights["kv_a.weight"][11] == 0).all())
    torch.testing.assert_close(
        normed(down_NL, weights["kv_norm.weight"])[:, 11], torch.ones(len(X_ND)), rtol=1e-4, atol=0
    )


def test_a_bias_so_large_is_no_matrix_that_weight_decay_would_shrink():
    found, _ = made(8, 12)
    assert found["kv_a.bias"].ndim == found["kv_norm.weight"].ndim == 1


def test_more_values_err_less():
    errors = [error(made(8, size)[0], size, even(X_ND)) for size in (4, 8, 16)]
    assert errors == sorted(errors, reverse=True)


def test_the_means_are_kept_however_few_values_there_are():
    found, _ = made(8, 2)
    true_NGF = torch.einsum("nd,gfd->ngf", X_ND.float(), LAYER.v_GFD)
    mean_HF = values(found, X_ND, 2).mean(0)
    expected_HF = true_NGF.mean(0).repeat_interleave(3, 0)
    torch.testing.assert_close(mean_HF, expected_HF, rtol=1e-3, atol=1e-3)


def test_tokens_that_are_attended_to_are_kept_better():
    first_N = torch.zeros(len(X_ND), dtype=torch.float64)
    first_N[::32] = 1 / 20
    for_all, for_first = made(8, 6)[0], made(8, 6, 0.1 * even(X_ND) + 0.9 * first_N)[0]
    assert error(for_first, 6, first_N) < error(for_all, 6, first_N)
    assert error(for_all, 6, even(X_ND)) < error(for_first, 6, even(X_ND))


def test_an_amplitude_of_rotary_positions_goes_into_the_queries():
    plain, loud = made(8, 12)[0], made(8, 12, amplitude=1.5)[0]
    torch.testing.assert_close(loud["q.weight"], plain["q.weight"] * 2.25)


def test_biases_of_keys_and_values_are_in_the_latents_own():
    generator = torch.Generator().manual_seed(5)
    bias_GF = torch.randn(2, 8, generator=generator)
    biased = replace(LAYER, v_GF=bias_GF, k_GF=-bias_GF)
    measure = calibration.measure(X_ND, even(X_ND))
    mixed = slots.mixing(biased, measure)
    chosen = slots.choose(READ, [mixed], 8)
    found = latent.convert(biased, mixed, chosen, measure, Shape(latent=17))
    true_NGF = torch.einsum("nd,gfd->ngf", X_ND.float(), LAYER.v_GFD) + bias_GF
    torch.testing.assert_close(
        values(found, X_ND, 17), true_NGF.repeat_interleave(3, 1), rtol=1e-3, atol=1e-3
    )
