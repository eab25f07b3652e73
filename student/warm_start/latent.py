"""Grouped-query attention as multi-head latent attention (arXiv 2412.19437, section 2.1.1).

Chosen rotary pairs become the shared rotary key. The rest of all keys, unturned, and all values
are an affine map of the layer's input; their best joint rank, in the measure of what queries and
the output projection make of errors, is the latent (as TransMLA, arXiv 2502.07864, and MHA2MLA,
arXiv 2502.14837, section 3.2, factor keys and values together). With every pair and the full rank
the map is exact.

The norm of the latent is no obstacle: one latent value is a bias so large that the root mean square
is its own, whatever the others are, so that the norm multiplies by a constant; normed, that value
is a 1 that carries the means and the teacher's biases of keys and values.

Shapes: N tokens, D hidden size, H query heads, G key-value heads, F values of a head, P pairs,
S slots, L latent values, E = 2 G F rows of all keys and values.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from student.warm_start.dense import DenseLayer
from student.warm_start.slots import Mixing, Slot, pairs

DOMINANCE = 256.0  # of the constant value over the longest latent
_RIDGE = 1e-4  # of a mean diagonal value, so that what no query asks for has a root


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Latent:
    """One layer's latent attention, by the names of `student.mla.MLAttention`.

    Attributes:
        weights: float32.
        kept: share of the weighted energy of keys and values that the latent carries.
    """

    weights: dict[str, torch.Tensor]
    kept: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """How wide a student's latent attention is.

    Attributes:
        latent: values of the latent, the constant among them.
        value_weight: of errors in values against errors in keys.
        amplitude: of the teacher's cosine and sine.
        constant: whether one latent value is spent on keeping the norm linear.
    """

    latent: int
    value_weight: float = 0.3
    amplitude: float = 1.0
    constant: bool = True


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Split:
    """Queries and keys of a layer, those of the slots apart; all float64.

    Attributes:
        slot_q_HSD: complex, what a head asks of a slot; `slot_q_HS` its bias.
        slot_k_SD: complex, the slot's key; `slot_k_S` its bias.
        rest_k_GFD: keys less what the slots carry; `rest_k_GF` their bias.
    """

    slot_q_HSD: torch.Tensor
    slot_q_HS: torch.Tensor
    slot_k_SD: torch.Tensor
    slot_k_S: torch.Tensor
    rest_k_GFD: torch.Tensor
    rest_k_GF: torch.Tensor


def convert(
    layer: DenseLayer,
    mixed: Mixing,
    slots: Sequence[Slot],
    x_ND: torch.Tensor,
    weight_N: torch.Tensor,
    shape: Shape,
) -> Latent:
    """Return latent attention that does what the layer's own does.

    Args:
        layer: the teacher's.
        mixed: its heads' mixing.
        slots: that keep their turning.
        x_ND: float64, what its attention reads.
        weight_N: of these tokens, summing to 1.
        shape: of the student.
    """
    heads, width, _ = layer.q_HFD.shape
    groups = layer.k_GFD.shape[0]
    split = _split(layer, mixed, slots)
    root_k_GFF = _roots(_query_moments(layer, x_ND))
    root_v_GFF = _roots(_output_moments(layer))
    v_GFD, v_GF = layer.v_GFD.double(), _bias(layer.v_GF, layer.v_GFD)
    mean_D = weight_N @ x_ND
    centred_ND = (x_ND - mean_D) * weight_N.sqrt()[:, None]
    if not shape.constant:
        mean_D, centred_ND = torch.zeros_like(mean_D), x_ND * weight_N.sqrt()[:, None]
    key_ED, key_scale = _weighed(root_k_GFF @ split.rest_k_GFD, centred_ND, 1.0)
    value_ED, value_scale = _weighed(root_v_GFF @ v_GFD, centred_ND, shape.value_weight)
    both_ED = torch.cat((key_ED, value_ED))
    rank = shape.latent - int(shape.constant)
    basis_EL, kept = _principal(centred_ND @ both_ED.T, rank)
    down_LD = basis_EL.T @ both_ED
    down_LD, unit = _to_unit(down_LD, centred_ND)
    keys = len(key_ED)
    up_k_GFL = torch.linalg.solve(
        root_k_GFF, (basis_EL[:keys] * (unit / key_scale)).unflatten(0, (groups, width))
    )
    up_v_GFL = torch.linalg.solve(
        root_v_GFF, (basis_EL[keys:] * (unit / value_scale)).unflatten(0, (groups, width))
    )
    offset_L = -(down_LD @ mean_D)
    latent_NL = x_ND @ down_LD.T + offset_L
    mean_k_GF = split.rest_k_GFD @ mean_D + split.rest_k_GF
    mean_v_GF = v_GFD @ mean_D + v_GF
    norm_L, bias_L, up_k_GFL, up_v_GFL, down_LD = _normed(
        shape, latent_NL, down_LD, offset_L, (up_k_GFL, mean_k_GF), (up_v_GFL, mean_v_GF)
    )
    per = heads // groups
    up_HFL = torch.cat(
        (up_k_GFL.repeat_interleave(per, 0), up_v_GFL.repeat_interleave(per, 0)), dim=1
    )
    weights = {
        "kv_a.weight": torch.cat((down_LD, interleaved(split.slot_k_SD, 0))),
        "kv_a.bias": torch.cat((bias_L, interleaved(split.slot_k_S, 0))),
        "kv_norm.weight": norm_L,
        "kv_b.weight": up_HFL.flatten(0, 1),
        "o.weight": layer.o_DHF.double().flatten(1),
        "o.bias": _bias(layer.o_D, layer.o_DHF[:, 0, :1]),
        **_query(layer, split, shape),
    }
    return Latent(weights={n: w.float().contiguous() for n, w in weights.items()}, kept=kept)


def interleaved(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Return complex numbers as neighbouring real values, as `student.rotary` turns them."""
    return torch.stack((x.real, x.imag), dim=dim + 1).flatten(dim, dim + 1)


def _bias(bias: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor:
    """Return a bias in float64, or zeros for the rows of `weight`."""
    return weight.new_zeros(weight.shape[:-1]).double() if bias is None else bias.double()


def _split(layer: DenseLayer, mixed: Mixing, slots: Sequence[Slot]) -> _Split:
    """Take the slots out of queries and keys."""
    groups, heads = layer.k_GFD.shape[0], layer.q_HFD.shape[0]
    q_HPD, q_HP = pairs(layer.q_HFD, 1), pairs(_bias(layer.q_HF, layer.q_HFD), 1)
    k_GPD, k_GP = pairs(layer.k_GFD, 1), pairs(_bias(layer.k_GF, layer.k_GFD), 1)
    rest_GPD, rest_GP = k_GPD.clone(), k_GP.clone()
    group_H = torch.arange(heads) // (heads // groups)
    asked, asked_bias, slot_k, slot_bias = [], [], [], []
    for pair, component in slots:
        unitary_G = mixed.unitary_PCG[pair, component]
        scale_G = mixed.scale_GP[:, pair]
        into_G, out_G = unitary_G * scale_G, unitary_G / scale_G
        key_D, key = into_G @ k_GPD[:, pair], into_G @ k_GP[:, pair]
        slot_k.append(key_D)
        slot_bias.append(key)
        asked.append(out_G[group_H][:, None] * q_HPD[:, pair])
        asked_bias.append(out_G[group_H] * q_HP[:, pair])
        rest_GPD[:, pair] -= out_G.conj()[:, None] * key_D
        rest_GP[:, pair] -= out_G.conj() * key
    return _Split(
        slot_q_HSD=torch.stack(asked, 1),
        slot_q_HS=torch.stack(asked_bias, 1),
        slot_k_SD=torch.stack(slot_k),
        slot_k_S=torch.stack(slot_bias),
        rest_k_GFD=torch.cat((rest_GPD.real, rest_GPD.imag), 1),
        rest_k_GF=torch.cat((rest_GP.real, rest_GP.imag), 1),
    )


def _query_moments(layer: DenseLayer, x_ND: torch.Tensor) -> torch.Tensor:
    """Return the second moments of the queries that meet each key, `[G, F, F]`."""
    q_NHF = torch.einsum("nd,hfd->nhf", x_ND, layer.q_HFD.double())
    q_NHF = q_NHF + _bias(layer.q_HF, layer.q_HFD)
    q_NGJF = q_NHF.unflatten(1, (layer.k_GFD.shape[0], -1))
    return torch.einsum("ngjf,ngje->gfe", q_NGJF, q_NGJF) / len(x_ND)


def _output_moments(layer: DenseLayer) -> torch.Tensor:
    """Return what the output projection makes of errors in each value, `[G, F, F]`."""
    o_DGJF = layer.o_DHF.double().unflatten(1, (layer.k_GFD.shape[0], -1))
    return torch.einsum("dgjf,dgje->gfe", o_DGJF, o_DGJF)


def _roots(moment_GFF: torch.Tensor) -> torch.Tensor:
    """Return upper roots `R^T R` of moments, slightly ridged so that they can be solved with."""
    width = moment_GFF.shape[-1]
    mean_G = moment_GFF.diagonal(dim1=1, dim2=2).mean(1)
    eye_FF = torch.eye(width, dtype=moment_GFF.dtype)
    ridged_GFF = moment_GFF + (_RIDGE * mean_G + 1e-30)[:, None, None] * eye_FF
    return torch.linalg.cholesky(ridged_GFF).mT


def _weighed(
    rows_GFD: torch.Tensor, centred_ND: torch.Tensor, weight: float
) -> tuple[torch.Tensor, float]:
    """Return rows `[G F, D]` scaled to make energy `weight` squared of the tokens, and the scale.

    Rows that make none, as keys do when all pairs are slots, are left out of sight with scale 1.
    """
    rows_ED = rows_GFD.flatten(0, 1)
    energy = float((centred_ND @ rows_ED.T).norm())
    if energy < 1e-9 * float(rows_ED.norm() * centred_ND.norm() + 1e-30):
        return torch.zeros_like(rows_ED), 1.0
    if float(rows_ED.norm()) < 1e-9:
        return torch.zeros_like(rows_ED), 1.0
    scale = weight / energy
    return rows_ED * scale, scale


def _principal(rows_NE: torch.Tensor, rank: int) -> tuple[torch.Tensor, float]:
    """Return the `rank` directions `[E, L]` with most energy, zeros beyond E, and their share."""
    energy_E, vectors_EE = torch.linalg.eigh(rows_NE.T @ rows_NE)
    energy_E, vectors_EE = energy_E.flip(0).clamp_min(0), vectors_EE.flip(1)
    kept = float(energy_E[:rank].sum() / energy_E.sum().clamp_min(1e-300))
    missing = max(0, rank - len(energy_E))
    empty = vectors_EE.new_zeros(len(energy_E), missing)
    return torch.cat((vectors_EE[:, :rank], empty), 1), kept


def _to_unit(down_LD: torch.Tensor, centred_ND: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Scale the latent to mean square 1; return it and what undoes that."""
    energy = (centred_ND @ down_LD.T).square().sum() / len(down_LD)
    unit = float(energy.sqrt()) or 1.0
    return down_LD / unit, unit


def _normed(
    shape: Shape,
    latent_NL: torch.Tensor,
    down_LD: torch.Tensor,
    offset_L: torch.Tensor,
    key: tuple[torch.Tensor, torch.Tensor],
    value: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, ...]:
    """Return norm weight, latent bias, both ways up and the way down, with the norm undone."""
    total = shape.latent
    up_k_GFL, up_v_GFL = key[0], value[0]
    if not shape.constant:  # the norm's mean factor alone is undone; for comparison
        rms = float((latent_NL.square().sum(1) / total).sqrt().mean())
        norm_L = latent_NL.new_full((total,), rms)
        return norm_L, offset_L, up_k_GFL, up_v_GFL, down_LD
    longest = float(latent_NL.norm(dim=1).max())
    # A power of two is the same number in every dtype.
    constant = 2.0 ** math.ceil(math.log2(DOMINANCE * max(longest, 1.0)))
    rms = math.sqrt((constant**2 + float(latent_NL.square().sum(1).mean())) / total)
    norm_L = latent_NL.new_full((total,), rms)
    norm_L[-1] = rms / constant
    bias_L = torch.cat((offset_L, offset_L.new_tensor([constant])))
    up_k_GFL = torch.cat((up_k_GFL, key[1].unsqueeze(-1)), -1)
    up_v_GFL = torch.cat((up_v_GFL, value[1].unsqueeze(-1)), -1)
    return norm_L, bias_L, up_k_GFL, up_v_GFL, torch.cat((down_LD, torch.zeros_like(down_LD[:1])))


def _query(layer: DenseLayer, split: _Split, shape: Shape) -> dict[str, torch.Tensor]:
    """Return the query's weights: of the unturned part as they are, then of the slots.

    Scores are divided by another root, and the teacher's cosine and sine may not have been 1 long.
    A bias needs a compressed query: one value wider than the input, which it holds, and constant.
    """
    width, turned = layer.q_HFD.shape[1], 2 * split.slot_q_HSD.shape[1]
    scale = math.sqrt((width + turned) / width) * shape.amplitude**2
    slots_HRD = interleaved(split.slot_q_HSD, 1)
    q_HXD = torch.cat((layer.q_HFD.double(), slots_HRD), 1) * scale
    if layer.q_HF is None:
        return {"q.weight": q_HXD.flatten(0, 1)}
    q_HX = torch.cat((layer.q_HF.double(), interleaved(split.slot_q_HS, 1)), 1) * scale
    size = q_HXD.shape[-1]
    # Inputs are normed, so about the root of their number long.
    constant = 2.0 ** math.ceil(
        math.log2(DOMINANCE * 4 * math.sqrt(size) * float(layer.attn_norm_D.abs().max()))
    )
    rms = constant / math.sqrt(size + 1)
    norm_C = q_HXD.new_full((size + 1,), rms)
    norm_C[-1] = rms / constant
    eye_CD = torch.eye(size + 1, size, dtype=torch.float64)
    bias_C = q_HXD.new_zeros(size + 1)
    bias_C[-1] = constant
    return {
        "q_a.weight": eye_CD,
        "q_a.bias": bias_C,
        "q_norm.weight": norm_C,
        "q_b.weight": torch.cat((q_HXD, q_HX.unsqueeze(-1)), -1).flatten(0, 1),
    }
