"""A dense SwiGLU as shared and routed experts: the same neurons, some of them not always asked.

The neurons that matter most at all times are shared. The rest are dealt to experts of one size by
what they do at the same tokens, and a linear router is solved for that foretells how much each
expert adds: CMoE's analytic carving (arXiv 2502.04416, section 3). With all experts asked the map
is exact up to the router's spread, for affinities that are nearly equal, sigmoids in mla or roots
of softplus in v4, are weights that are.

Shapes: N tokens, D hidden size, I inner width of the dense layer, E routed experts, J inner width
of one, C features that neurons are compared by.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from student.inherited import InheritedExperts
from student.warm_start.dense import DenseLayer

SPREAD = 0.02  # of routers' logits: wide enough to be ordered in any dtype, nearly even weights
EVEN = 1e-6  # where all experts are asked, and nothing is to be ordered
_SKETCH = 128  # random sums of tokens that stand for all of them when neurons are compared
_ROUNDS = 8
_RIDGE = 1e-2
_BALANCE_ROUNDS = 200

Family = Literal["mla", "v4"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Carving:
    """How a feed-forward layer is cut.

    Attributes:
        shared: experts' worth of neurons that serve every token.
        routed: experts, each of the same width.
        active: of these, that serve a token.
        spread: of the router's logits; the smaller, the nearer all weights are to 1.
        seed: of the neurons' comparison.
    """

    shared: int
    routed: int
    active: int
    spread: float = 1e-3
    seed: int = 0

    @classmethod
    def of(cls, asked: InheritedExperts) -> "Carving":
        """Return what a run file asks for; where all experts are, they weigh alike."""
        is_whole = asked.active == asked.routed
        return cls(
            shared=asked.shared,
            routed=asked.routed,
            active=asked.active,
            spread=EVEN if is_whole else SPREAD,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Carved:
    """One layer's mixture, by the names of `student.moe.Mixture`.

    Attributes:
        weights: float32; the routing bias is among them.
        load_E: of the calibration tokens, relative to an even share, after balancing.
    """

    weights: dict[str, torch.Tensor]
    load_E: torch.Tensor


def carve(layer: DenseLayer, x_ND: torch.Tensor, how: Carving, family: Family = "mla") -> Carved:
    """Return a mixture of the layer's neurons.

    Args:
        layer: the teacher's.
        x_ND: float64, what its network reads.
        how: sizes; `shared + routed` divides the inner width.
        family: whose affinities the router makes.
    """
    gate_ID, up_ID, down_DI = (w.double() for w in (layer.gate_ID, layer.up_ID, layer.down_DI))
    act_NI = F.silu(x_ND @ gate_ID.T) * (x_ND @ up_ID.T)
    out_I = down_DI.norm(dim=0)
    width = len(gate_ID) // (how.shared + how.routed)
    order_I = (act_NI.square().mean(0).sqrt() * out_I).argsort(descending=True)
    shared_I, rest_I = order_I[: how.shared * width], order_I[how.shared * width :]
    expert_EJ = rest_I[_clusters(act_NI[:, rest_I].abs() * out_I[rest_I], how)]
    adds_NE = torch.stack(
        [(act_NI[:, i_J] @ down_DI[:, i_J].T).norm(dim=1) for i_J in expert_EJ], 1
    )
    router_ED, bias_E = _router(x_ND, adds_NE, how, _slope(family))
    load_E = _balance(_affinity(x_ND @ router_ED.T, family), bias_E, how, _slope(family))
    weights = {
        "shared.gate.weight": gate_ID[shared_I],
        "shared.up.weight": up_ID[shared_I],
        "shared.down.weight": down_DI[:, shared_I],
        "experts.gate_up": torch.cat((gate_ID[expert_EJ], up_ID[expert_EJ]), 1),
        "experts.down": down_DI[:, expert_EJ].transpose(0, 1),
        "router.weight": router_ED,
        "router.bias": bias_E,
    }
    return Carved(
        weights={name: w.float().contiguous() for name, w in weights.items()}, load_E=load_E
    )


def _clusters(does_NI: torch.Tensor, how: Carving) -> torch.Tensor:
    """Return the places `[E, J]` of neurons that act together, as many in each cluster.

    Balanced k-means on normed activity over tokens: in each round those with most to lose choose
    their cluster first.
    """
    generator = torch.Generator().manual_seed(how.seed)
    count, routed = does_NI.shape[1], how.routed
    mix_NC = torch.randn(len(does_NI), _SKETCH, generator=generator, dtype=torch.float64)
    normed_NI = does_NI / does_NI.norm(dim=0).clamp_min(1e-30)
    point_IC = (normed_NI.T - normed_NI.mean(1)) @ mix_NC
    center_EC = point_IC[torch.randperm(count, generator=generator)[:routed]]
    room = count // routed
    for _ in range(_ROUNDS):
        label_I = _deal(torch.cdist(point_IC, center_EC), room)
        center_EC = torch.stack([point_IC[label_I == e].mean(0) for e in range(routed)])
    return torch.stack([(label_I == e).nonzero().flatten() for e in range(routed)])


def _deal(distance_IE: torch.Tensor, room: int) -> torch.Tensor:
    """Return a cluster each, near and none over full; whoever would regret most goes first."""
    near_IE = distance_IE.sort(1)
    regret_I = near_IE.values[:, 1] - near_IE.values[:, 0]
    wish_IE, left = near_IE.indices.tolist(), [room] * distance_IE.shape[1]
    label_I = torch.empty(len(distance_IE), dtype=torch.int64)
    for i in regret_I.argsort(descending=True).tolist():
        label_I[i] = next(e for e in wish_IE[i] if left[e])
        left[int(label_I[i])] -= 1
    return label_I


def _affinity(logit_NE: torch.Tensor, family: Family) -> torch.Tensor:
    """Return affinities as `student.moe` makes them."""
    return torch.sigmoid(logit_NE) if family == "mla" else F.softplus(logit_NE).sqrt()


def _slope(family: Family) -> float:
    """Return by how much an affinity grows with a logit near 0."""
    return 1 / 4 if family == "mla" else 1 / (4 * math.sqrt(math.log(2)))


def _router(
    x_ND: torch.Tensor, adds_NE: torch.Tensor, how: Carving, slope: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight `[E, D]` and bias `[E]` that order experts as a ridge regression of `adds_NE`.

    An affinity is, at logits near 0, the slope times the logit and a constant; so a bias is the
    slope times what it would be on the logit.
    """
    mean_D, mean_E = x_ND.mean(0), adds_NE.mean(0)
    centred_ND = x_ND - mean_D
    moment_DD = centred_ND.T @ centred_ND
    moment_DD.diagonal().add_(_RIDGE * float(moment_DD.diagonal().mean()))
    weight_ED = torch.linalg.solve(moment_DD, centred_ND.T @ (adds_NE - mean_E)).T
    offset_E = mean_E - weight_ED @ mean_D
    scale = how.spread / float((x_ND @ weight_ED.T + offset_E).std().clamp_min(1e-30))
    return weight_ED * scale, (offset_E - offset_E.mean()) * scale * slope


def _balance(
    affinity_NE: torch.Tensor, bias_E: torch.Tensor, how: Carving, slope: float
) -> torch.Tensor:
    """Move the bias, in place, until no expert serves many more tokens than another."""
    step = how.spread * slope
    for round_ in range(_BALANCE_ROUNDS):
        chosen_NK = (affinity_NE + bias_E).topk(how.active, 1).indices
        load_E = torch.bincount(chosen_NK.flatten(), minlength=how.routed).double()
        load_E /= load_E.mean()
        if float(load_E.max()) < 1.2:
            break
        bias_E -= step * 0.98**round_ * 0.2 * (load_E - 1)
    return load_E
