"""Grouped-query attention as multi-head latent attention (arXiv 2412.19437, section 2.1.1).

Chosen rotary pairs become the shared rotary key. The rest of all keys, unturned, and all values
are an affine map of the layer's input; their best joint rank, in the measure of what queries and
the output projection make of errors, is the latent (as TransMLA, arXiv 2502.07864, and MHA2MLA,
arXiv 2502.14837, section 3.2, factor keys and values together). With every pair and the full rank
the map is exact.

The norm of the latent is no obstacle: one latent value is a bias so large that the root mean square
is its own, whatever the others are, so that the norm multiplies by a constant; normed, that value
is a 1 that carries the means and the teacher's biases of keys and values.

Shapes: N tokens, D hidden size, C = D + 1 with the bias, H query heads, G key-value heads, F values
of a head, P pairs, S slots, L latent values, E = 2 G F rows of all keys and values.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from student.warm_start.calibration import Measure, with_bias
from student.warm_start.dense import DenseLayer
from student.warm_start.slots import Mixing, Slot, pairs

DOMINANCE = 256.0  # of the constant value over the longest latent
_RIDGE = 1e-4  # of a mean diagonal value, so that what no query asks for has a root


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
    """Queries and keys of a layer, those of the slots apart; float64, biases as a last column.

    Attributes:
        slot_q_HSC: complex, what a head asks of a slot.
        slot_k_SC: complex, the slot's key.
        rest_k_GFC: keys less what the slots carry.
    """

    slot_q_HSC: torch.Tensor
    slot_k_SC: torch.Tensor
    rest_k_GFC: torch.Tensor


def convert(
    layer: DenseLayer, mixed: Mixing, slots: Sequence[Slot], measure: Measure, shape: Shape
) -> dict[str, torch.Tensor]:
    """Return latent attention that does what the layer's own does, as far as it is as wide.

    Args:
        layer: the teacher's.
        mixed: its heads' mixing.
        slots: that keep their turning.
        measure: of what its attention reads.
        shape: of the student.

    Returns:
        weights: float32, by the names of `student.mla.MLAttention`.
    """
    heads, width, _ = layer.q_HFD.shape
    groups = layer.k_GFD.shape[0]
    split, v_GFC = _split(layer, mixed, slots), with_bias(layer.v_GFD, layer.v_GF)
    root_k_GFF, root_v_GFF = _roots(_query_moments(layer, measure)), _roots(_output_moments(layer))
    mean_C = measure.given_CC[-1]
    # What varies from token to token; the constant carries the rest. Without one all of it does.
    spread_CC = measure.given_CC - torch.outer(mean_C, mean_C) * int(shape.constant)
    key_EC, key_scale = _weighed(root_k_GFF @ split.rest_k_GFC, spread_CC, 1.0)
    value_EC, value_scale = _weighed(root_v_GFF @ v_GFC, spread_CC, shape.value_weight)
    both_EC = torch.cat((key_EC, value_EC))
    basis_EL = _principal(both_EC @ spread_CC @ both_EC.T, shape.latent - int(shape.constant))
    down_LC, unit = _to_unit(basis_EL.T @ both_EC, spread_CC)
    if shape.constant:
        down_LC[:, -1] -= down_LC @ mean_C
    keys = len(key_EC)
    up_k_GFL = torch.linalg.solve(
        root_k_GFF, (basis_EL[:keys] * (unit / key_scale)).unflatten(0, (groups, width))
    )
    up_v_GFL = torch.linalg.solve(
        root_v_GFF, (basis_EL[keys:] * (unit / value_scale)).unflatten(0, (groups, width))
    )
    up_GFL = torch.cat((up_k_GFL, up_v_GFL), 1)
    mean_GF = torch.cat((split.rest_k_GFC @ mean_C, v_GFC @ mean_C), 1)
    down_LC, norm_L, up_GFL = _normed(shape, measure, down_LC, up_GFL, mean_GF)
    down_XC = torch.cat((down_LC, interleaved(split.slot_k_SC, 0)))
    out_DHF = layer.o_DHF.double()
    weights = {
        "kv_a.weight": down_XC[:, :-1],
        "kv_a.bias": down_XC[:, -1],
        "kv_norm.weight": norm_L,
        "kv_b.weight": up_GFL.repeat_interleave(heads // groups, 0).flatten(0, 1),
        "o.weight": out_DHF.flatten(1),
        "o.bias": torch.zeros_like(out_DHF[:, 0, 0]) if layer.o_D is None else layer.o_D.double(),
        **_query(layer, split, shape),
    }
    return {name: weight.float().contiguous() for name, weight in weights.items()}


def interleaved(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Return complex numbers as neighbouring real values, as `student.rotary` turns them."""
    return torch.stack((x.real, x.imag), dim=dim + 1).flatten(dim, dim + 1)


def _split(layer: DenseLayer, mixed: Mixing, slots: Sequence[Slot]) -> _Split:
    """Take the slots out of queries and keys."""
    groups, heads = layer.k_GFD.shape[0], layer.q_HFD.shape[0]
    q_HPC = pairs(with_bias(layer.q_HFD, layer.q_HF), 1)
    k_GPC = pairs(with_bias(layer.k_GFD, layer.k_GF), 1)
    rest_GPC = k_GPC.clone()
    group_H = torch.arange(heads) // (heads // groups)
    asked, answered = [], []
    for pair, component in slots:
        unitary_G, scale_G = mixed.unitary_PCG[pair, component], mixed.scale_GP[:, pair]
        out_G = unitary_G / scale_G
        key_C = (unitary_G * scale_G) @ k_GPC[:, pair]
        answered.append(key_C)
        asked.append(out_G[group_H][:, None] * q_HPC[:, pair])
        rest_GPC[:, pair] -= out_G.conj()[:, None] * key_C
    return _Split(
        slot_q_HSC=torch.stack(asked, 1),
        slot_k_SC=torch.stack(answered),
        rest_k_GFC=torch.cat((rest_GPC.real, rest_GPC.imag), 1),
    )


def _query_moments(layer: DenseLayer, measure: Measure) -> torch.Tensor:
    """Return the second moments of the queries that meet each key, `[G, F, F]`."""
    q_HFC = with_bias(layer.q_HFD, layer.q_HF)
    moment_HFF = q_HFC @ measure.even_CC @ q_HFC.mT
    return moment_HFF.unflatten(0, (layer.k_GFD.shape[0], -1)).sum(1)


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
    rows_GFC: torch.Tensor, spread_CC: torch.Tensor, weight: float
) -> tuple[torch.Tensor, float]:
    """Return rows `[G F, C]` scaled to make energy `weight` squared of the tokens, and the scale.

    Rows that make none, as keys do when all pairs are slots, are left out of sight with scale 1.
    """
    rows_EC = rows_GFC.flatten(0, 1)
    energy = float(((rows_EC @ spread_CC) * rows_EC).sum().clamp_min(0).sqrt())
    if float(rows_EC.norm()) < 1e-9 or energy < 1e-9 * float(rows_EC.norm()):
        return torch.zeros_like(rows_EC), 1.0
    return rows_EC * (weight / energy), weight / energy


def _principal(moment_EE: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the `rank` directions `[E, L]` with most energy, zeros beyond E."""
    vectors_EE = torch.linalg.eigh(moment_EE).eigenvectors.flip(1)
    empty = vectors_EE.new_zeros(len(vectors_EE), max(0, rank - len(vectors_EE)))
    return torch.cat((vectors_EE[:, :rank], empty), 1)


def _to_unit(down_LC: torch.Tensor, spread_CC: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Scale the latent to mean square 1; return it and what undoes that."""
    energy = ((down_LC @ spread_CC) * down_LC).sum().clamp_min(0) / len(down_LC)
    unit = float(energy.sqrt()) or 1.0
    return down_LC / unit, unit


def _normed(
    shape: Shape,
    measure: Measure,
    down_LC: torch.Tensor,
    up_GFL: torch.Tensor,
    mean_GF: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the way down, the norm's weight and the way up, with the norm undone."""
    square_N = (measure.x_NC @ down_LC.T).square().sum(1)
    if not shape.constant:  # its mean factor alone is undone; for comparison
        rms = float((square_N / shape.latent).sqrt().mean())
        return down_LC, down_LC.new_full((shape.latent,), rms), up_GFL
    longest = max(float(square_N.max().sqrt()), 1.0)
    # A power of two is the same number in every dtype.
    constant = 2.0 ** math.ceil(math.log2(DOMINANCE * longest))
    rms = math.sqrt((constant**2 + float(square_N.mean())) / shape.latent)
    norm_L = down_LC.new_full((shape.latent,), rms)
    norm_L[-1] = rms / constant
    row_1C = torch.zeros_like(down_LC[:1])
    row_1C[0, -1] = constant
    return torch.cat((down_LC, row_1C)), norm_L, torch.cat((up_GFL, mean_GF.unsqueeze(-1)), -1)


def _query(layer: DenseLayer, split: _Split, shape: Shape) -> dict[str, torch.Tensor]:
    """Return the query's weights: of the unturned part as they are, then of the slots.

    Scores are divided by another root, and the teacher's cosine and sine may not have been 1 long.
    A bias needs a compressed query: one value wider than the input, which it holds, and constant.
    """
    width, turned = layer.q_HFD.shape[1], 2 * split.slot_q_HSC.shape[1]
    scale = math.sqrt((width + turned) / width) * shape.amplitude**2
    q_HFC = with_bias(layer.q_HFD, layer.q_HF)
    q_XC = torch.cat((q_HFC, interleaved(split.slot_q_HSC, 1)), 1).flatten(0, 1) * scale
    if layer.q_HF is None:
        return {"q.weight": q_XC[:, :-1]}
    size = q_XC.shape[1] - 1
    # Inputs are normed, so about the root of their number long.
    longest = 4 * math.sqrt(size) * float(layer.attn_norm_D.abs().max())
    constant = 2.0 ** math.ceil(math.log2(DOMINANCE * longest))
    rms = constant / math.sqrt(size + 1)
    norm_C = q_XC.new_full((size + 1,), rms)
    norm_C[-1] = rms / constant
    bias_C = q_XC.new_zeros(size + 1)
    bias_C[-1] = constant
    return {
        "q_a.weight": torch.eye(size + 1, size, dtype=torch.float64),
        "q_a.bias": bias_C,
        "q_norm.weight": norm_C,
        "q_b.weight": q_XC,
    }
