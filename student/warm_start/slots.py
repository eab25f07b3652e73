"""Which rotary pairs of a teacher's keys keep their turning in a student's one shared rotary key.

All keys of one pair turn alike, so any invertible complex mixing of the key-value heads' parts of
it commutes with the turning: RoRoPE of TransMLA (arXiv 2502.07864, section 4.2), here a pair at a
time. Mixed so that a few carry most of the energy of the scores, those are kept; of the others the
keys stay and the turning goes. What that costs grows with how far a pair turns over the distances
that occur, so slow pairs go first.

Shapes: H query heads, G key-value heads, F values of a head, P = F / 2 pairs; C, of a mixing its G
components, of a weight its inputs and the bias.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from student.warm_start.calibration import Measure, with_bias
from student.warm_start.dense import Dense, DenseLayer

DISTANCE = 1024  # tokens up to which distances are weighed
_DISTANCES = 400

Choice = Literal["sensitivity", "energy"]


class Slot(NamedTuple):
    """One component of one pair of the teacher's keys."""

    pair: int
    component: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Mixing:
    """How one layer's heads are mixed, pair by pair.

    Component c of a pair is `sum over g of unitary[c, g] scale[g] key[g]`.

    Attributes:
        unitary_PCG: complex.
        scale_GP: root of the energy of the queries that meet a key.
        energy_PC: of the scores through a component, the largest first.
    """

    unitary_PCG: torch.Tensor
    scale_GP: torch.Tensor
    energy_PC: torch.Tensor


def pairs(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Return halves of a head's values as the parts of complex numbers: F values, P pairs."""
    first, second = x.double().chunk(2, dim=dim)
    return torch.complex(first, second)


def mixing(layer: DenseLayer, measure: Measure) -> Mixing:
    """Return the mixing whose components carry the scores' energy in the fewest.

    Args:
        layer: the teacher's.
        measure: of what its attention reads.
    """
    groups = layer.k_GFD.shape[0]
    q_HFC, k_GPC = with_bias(layer.q_HFD, layer.q_HF), pairs(with_bias(layer.k_GFD, layer.k_GF), 1)
    energy_HF = ((q_HFC @ measure.even_CC) * q_HFC).sum(-1)
    energy_HP = torch.stack(energy_HF.chunk(2, 1)).sum(0)
    scale_GP = energy_HP.unflatten(0, (groups, -1)).sum(1).clamp_min(1e-24).sqrt()
    scaled_PGC = (k_GPC * scale_GP.unsqueeze(-1)).transpose(0, 1)
    moment_PGG = scaled_PGC @ measure.given_CC.to(scaled_PGC.dtype) @ scaled_PGC.mH
    energy_PC, vectors_PGC = torch.linalg.eigh(moment_PGG)
    return Mixing(
        unitary_PCG=vectors_PGC.flip(-1).mH,
        scale_GP=scale_GP,
        energy_PC=energy_PC.flip(-1).clamp_min(0),
    )


def sensitivity(frequency_P: torch.Tensor, *, distance: int = DISTANCE) -> torch.Tensor:
    """Return what a pair's score changes by when it does not turn: mean of |e^(i f t) - 1|^2.

    Over distances t from 1 to `distance`, log-uniform: near ones as often as far ones.
    """
    log_T = torch.linspace(0, math.log(distance), _DISTANCES, dtype=torch.float64)
    turned_PT = frequency_P[:, None].double() * log_T.exp().round()
    return (2 - 2 * turned_PT.cos()).mean(1)


def choose(
    dense: Dense, mixings: Sequence[Mixing], count: int, by: Choice = "sensitivity"
) -> list[Slot]:
    """Return the `count` slots that keep their turning, the same ones in every layer.

    Args:
        dense: the teacher.
        mixings: a layer each.
        count: of slots; each is two values of the shared key.
        by: energy of the scores times the sensitivity to turning, or energy alone.
    """
    weight_P1 = torch.ones(len(dense.frequency_P), 1, dtype=torch.float64)
    if by == "sensitivity":
        weight_P1 = sensitivity(dense.frequency_P)[:, None]
    total_PC = sum(one.energy_PC * weight_P1 / one.energy_PC.sum() for one in mixings)
    assert isinstance(total_PC, torch.Tensor)
    best = total_PC.flatten().argsort(descending=True)[:count].tolist()
    return sorted(Slot(*divmod(place, total_PC.shape[1])) for place in best)
