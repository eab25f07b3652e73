"""Rotary positions (Su et al., arXiv 2104.09864) on interleaved pairs, with YaRN's stretching.

Pairs of neighbouring dimensions are turned by position times frequency. Only the last dimensions
of a head are turned (DeepSeek-V4 report, section 2.3.3); the others carry no position.

Shapes: N tokens, R pairs of features, `...` further dimensions such as heads, F features of a
head.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from student.config import Yarn


class Angles(NamedTuple):
    """How far each pair is turned, laid out as pairs are, float32.

    Attributes:
        cos_NR2: the cosine, twice.
        sin_NR2: minus the sine and the sine: what the swapped pair is multiplied with.
    """

    cos_NR2: torch.Tensor
    sin_NR2: torch.Tensor

    def reversed(self) -> "Angles":
        """Return the angles that turn back."""
        return Angles(self.cos_NR2, -self.sin_NR2)


def frequencies(width: int, theta: float, yarn: Yarn | None) -> torch.Tensor:
    """Return the frequency `[width / 2]` of each pair in radians a token, float32.

    With YaRN, pairs that turn less than `beta_slow` times over the original context are slowed
    by `factor`, those that turn more than `beta_fast` times are left alone, and a ramp lies
    between (arXiv 2309.00071, section 3.2).
    """
    plain_R = 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    if yarn is None:
        return plain_R

    def pair_turning(turns: float) -> float:
        length = yarn.original_positions / (turns * 2 * math.pi)
        return width * math.log(length) / (2 * math.log(theta))

    low = max(math.floor(pair_turning(yarn.beta_fast)), 0)
    high = min(math.ceil(pair_turning(yarn.beta_slow)), width - 1)
    place_R = torch.arange(width // 2, dtype=torch.float32)
    slowed_R = ((place_R - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain_R / yarn.factor * slowed_R + plain_R * (1 - slowed_R)


def softmax_correction(yarn: Yarn | None) -> float:
    """Return what YaRN multiplies the softmax scale by: DeepSeek-V3's `mscale` squared."""
    if yarn is None or yarn.factor <= 1 or not yarn.mscale_all_dim:
        return 1.0
    return (0.1 * yarn.mscale_all_dim * math.log(yarn.factor) + 1.0) ** 2


def angles(position_N: torch.Tensor, frequency_R: torch.Tensor) -> Angles:
    """Return the angles of tokens at these positions."""
    turned_NR = position_N[:, None].float() * frequency_R
    cos_NR, sin_NR = turned_NR.cos(), turned_NR.sin()
    return Angles(torch.stack((cos_NR, cos_NR), -1), torch.stack((-sin_NR, sin_NR), -1))


def rotate(x_NF: torch.Tensor, turn: Angles) -> torch.Tensor:
    """Return `x_NF` `[N, ..., F]` with its last 2R features turned, in its own dtype."""
    tokens, pairs, _ = turn.cos_NR2.shape
    shape = (tokens, *[1] * (x_NF.ndim - 2), pairs, 2)
    still = x_NF[..., : x_NF.shape[-1] - 2 * pairs]
    pair_NR2 = x_NF[..., x_NF.shape[-1] - 2 * pairs :].unflatten(-1, (pairs, 2))
    turned = pair_NR2 * turn.cos_NR2.view(shape)
    turned = turned.addcmul(pair_NR2.flip(-1), turn.sin_NR2.view(shape))
    return torch.cat((still, turned.flatten(-2).to(x_NF.dtype)), dim=-1)


class Turn(NamedTuple):
    """The angles of one decoding step over whole heads, still features turned by nothing.

    Attributes:
        cos_B1F: cosines.
        sin_B1F: minus the sine and the sine, as in `Angles`.
        back_B1F: the same to turn back.
        swap_F: int64, each feature's partner.
    """

    cos_B1F: torch.Tensor
    sin_B1F: torch.Tensor
    back_B1F: torch.Tensor
    swap_F: torch.Tensor

    def forth(self, x_BHF: torch.Tensor) -> torch.Tensor:
        """Return the heads turned by their positions, in their own dtype."""
        return self._turned(x_BHF, self.sin_B1F)

    def back(self, x_BHF: torch.Tensor) -> torch.Tensor:
        """Return the heads turned the other way."""
        return self._turned(x_BHF, self.back_B1F)

    def _turned(self, x_BHF: torch.Tensor, sin_B1F: torch.Tensor) -> torch.Tensor:
        swapped_BHF = x_BHF.index_select(-1, self.swap_F)
        return torch.addcmul(x_BHF * self.cos_B1F, swapped_BHF, sin_B1F).to(x_BHF.dtype)


class Wheel:
    """Makes the turns of heads of one width, step by step.

    In decoding a call costs more than what it computes, and this takes three where `rotate`, which
    leaves still features alone, takes ten.
    """

    def __init__(self, frequency_R: torch.Tensor, width: int) -> None:
        still, device = width - 2 * len(frequency_R), frequency_R.device
        self.frequency_F = F.pad(frequency_R.repeat_interleave(2), (still, 0))
        place_F = torch.arange(width, device=device)
        pair_F = place_F - still
        self.sign_F = (2 * (pair_F % 2) - 1).to(frequency_R.dtype)
        self.swap_F = torch.where(pair_F < 0, place_F, still + (pair_F + 1 - 2 * (pair_F % 2)))

    def at(self, place_B: torch.Tensor) -> Turn:
        """Return the turn of tokens at these positions."""
        turned_B1F = place_B[:, None, None] * self.frequency_F
        sin_B1F = turned_B1F.sin() * self.sign_F
        return Turn(turned_B1F.cos(), sin_B1F, -sin_B1F, self.swap_F)
