"""One layer with one key and value for all heads: what pads do to the norms, and how many."""

from dataclasses import replace

import pytest
import torch

from student.errors import WarmStartError
from student.warm_start import calibration, dense, shared_entry
from student.warm_start.shared_entry import Shape
from tests.fakes.dense import teachers, text

MODEL = teachers()["llama"]
READ = dense.read(MODEL)
LAYER, EPS = READ.layers[1], READ.numbers.eps
OWN, WIDTH, WHOLE = 16, 8, shared_entry.exact_width(READ.numbers)


def unit(seed: int) -> torch.Tensor:
    seen = calibration.watch(MODEL, text(20, 32, seed=seed))
    return calibration.normed(seen.before[1], torch.ones(48), EPS)


X_ND, OTHER_ND = unit(0), unit(9)


def made(head_dim: int) -> shared_entry.Shared:
    return shared_entry.convert(LAYER, X_ND, Shape(head_dim=head_dim, eps=EPS))


def before_norms(weights: dict[str, torch.Tensor], x_ND: torch.Tensor) -> torch.Tensor:
    """Return the entry and then every query as their norms see them, `[1 + H, N, F]`."""
    latent_ND = x_ND * (x_ND.square().mean(1, keepdim=True) + EPS).rsqrt()
    kv_NF = x_ND @ weights["kv.weight"].double().T
    q_NHF = (latent_ND @ weights["q_b.weight"].double().T).unflatten(1, (6, -1))
    return torch.cat((kv_NF[:, None], q_NHF), 1).transpose(0, 1)


def normed(x_NF: torch.Tensor) -> torch.Tensor:
    return x_NF * (x_NF.square().mean(-1, keepdim=True) + EPS).rsqrt()


def fluctuation(before_XNF: torch.Tensor) -> float:
    """Return the relative deviation of norms over tokens, the mean over entry and queries."""
    norm_XN = before_XNF.norm(dim=2)
    return float((norm_XN.std(1) / norm_XN.mean(1)).mean())


def test_with_a_pad_for_every_input_norms_are_the_same_number_for_every_token():
    found = made(WHOLE)
    before_XNF = before_norms(found.weights, OTHER_ND)
    assert fluctuation(before_XNF) < 1e-6 and found.fluctuation < 1e-6
    mean_square = before_XNF.square().mean()
    assert float(mean_square) == pytest.approx(1, rel=1e-5)


def test_values_come_back_and_scores_are_the_teachers():
    weights, head_dim = made(WHOLE).weights, WHOLE
    before_XNF = before_norms(weights, OTHER_ND)
    entry_NF = normed(before_XNF[0]) * weights["kv_norm.weight"].double()
    x_ND = OTHER_ND * LAYER.attn_norm_D.double()
    true_NGF = torch.einsum("nd,gfd->ngf", x_ND, LAYER.v_GFD.double())
    taken = weights["o_a.weight"].double().unflatten(0, (6, WIDTH))
    value_NHF = torch.einsum("nf,hvf->nhv", entry_NF, taken)
    torch.testing.assert_close(value_NHF, true_NGF.repeat_interleave(3, 1), rtol=1e-4, atol=1e-5)
    q_NHF = torch.einsum("nd,hfd->nhf", x_ND, LAYER.q_HFD.double())
    k_NHF = torch.einsum("nd,gfd->ngf", x_ND, LAYER.k_GFD.double()).repeat_interleave(3, 1)
    true_HNN = q_NHF.transpose(0, 1) @ k_NHF.permute(1, 2, 0) / WIDTH**0.5
    found_HNN = normed(before_XNF[1:]) @ entry_NF.T / head_dim**0.5
    torch.testing.assert_close(found_HNN, true_HNN, rtol=1e-4, atol=1e-4)


def test_an_amplitude_of_rotary_positions_goes_into_the_keys():
    plain, loud = (
        shared_entry.convert(LAYER, X_ND, Shape(head_dim=WHOLE, eps=EPS, amplitude=amplitude))
        for amplitude in (1.0, 1.5)
    )
    ratio_F = loud.weights["kv_norm.weight"] / plain.weights["kv_norm.weight"]
    torch.testing.assert_close(ratio_F[:OWN], torch.ones(OWN))
    torch.testing.assert_close(ratio_F[-OWN:], torch.full((OWN,), 2.25))


def test_pads_are_nothing_that_attention_reads():
    weights = made(WHOLE).weights
    assert bool((weights["kv_norm.weight"][OWN:-OWN] == 0).all())
    assert bool((weights["o_a.weight"][:, OWN:] == 0).all())


@pytest.mark.parametrize("head_dim", [WHOLE, WHOLE - 12, WHOLE - 24])
def test_no_pad_drowns_the_rest(head_dim):
    before_XNF = before_norms(made(head_dim).weights, OTHER_ND)
    pads = before_XNF[..., OWN:-OWN].square().mean().sqrt()
    asked = before_XNF[1:, ..., -OWN:].square().mean() * 2  # each query fills one group of two
    of_entry = before_XNF[0, :, [*range(OWN), *range(-OWN, 0)]].square().mean()
    assert float(pads / asked.sqrt()) < 4 and float(pads / of_entry.sqrt()) < 4


def test_the_more_pads_the_less_norms_fluctuate():
    found = [made(head_dim) for head_dim in (WHOLE - 47, WHOLE - 36, WHOLE - 24, WHOLE - 4, WHOLE)]
    on_others = [fluctuation(before_norms(one.weights, OTHER_ND)) for one in found]
    assert on_others == sorted(on_others, reverse=True)
    told = [one.fluctuation for one in found]
    assert told == sorted(told, reverse=True)
    assert told[2] == pytest.approx(on_others[2], rel=0.3)


@pytest.mark.parametrize("head_dim", [WHOLE - 12, WHOLE - 24])
def test_few_pads_are_better_than_random_ones_and_than_principal_directions(head_dim):
    before_XNF = before_norms(made(head_dim).weights, OTHER_ND)
    pads = head_dim - 2 * OWN
    size = before_XNF[..., OWN:-OWN].norm() / (7 * len(OTHER_ND)) ** 0.5
    generator = torch.Generator().manual_seed(4)
    random_PD = torch.randn(pads, 48, generator=generator, dtype=torch.float64)
    principal_PD = torch.linalg.eigh(X_ND.T @ X_ND).eigenvectors[:, -pads:].T
    for other_PD in (random_PD, principal_PD):
        other_NP = OTHER_ND @ other_PD.T
        other_NP *= size / (other_NP.norm() / len(OTHER_ND) ** 0.5)
        replaced_XNF = before_XNF.clone()
        replaced_XNF[..., OWN:-OWN] = other_NP
        assert fluctuation(before_XNF) < 0.8 * fluctuation(replaced_XNF)


def test_a_value_that_the_norm_before_has_put_out_stays_out():
    norm_D = LAYER.attn_norm_D.clone()
    norm_D[3] = 0
    dark = replace(LAYER, attn_norm_D=norm_D)
    found = shared_entry.convert(dark, X_ND, Shape(head_dim=WHOLE, eps=EPS))
    assert found.fluctuation < 1e-6
    assert bool((found.weights["kv.weight"][:OWN, 3] == 0).all())


def test_biases_are_refused_with_the_reason():
    biased = replace(LAYER, k_GF=torch.zeros(2, 8))
    with pytest.raises(WarmStartError, match="biases, which have no place in v4: its queries"):
        shared_entry.convert(biased, X_ND, Shape(head_dim=WHOLE, eps=EPS))
