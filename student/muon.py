"""Muon, as DeepSeek-V4 trains with it, and which parameters it is for.

A matrix moves by its momentum with all singular values set to about 1: ten Newton-Schulz
iterations, eight that lift small values quickly and two that settle them (DeepSeek-V4 report,
arXiv 2606.19348, sections 2.4 and 4.2.2; the method is Jordan et al.'s, 2024). Embedding, head
and every vector stay with AdamW. Nothing in a step waits for the device.

Shapes: B matrices of N rows and M columns, batched; a parameter is one matrix or a stack of them.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch

from student.config import MLAConfig, V4Config
from student.errors import ConfigError

LIFT, SETTLE = (3.4445, -4.7750, 2.0315), (2.0, -1.5, 0.5)
COEFFICIENTS = (LIFT,) * 8 + (SETTLE,) * 2
# The root mean square an AdamW update usually has, so that both take one learning rate.
UPDATE_RMS = 0.18
# Elements orthogonalised at once, 4 MiB in float32: they stay in a CPU's cache through all
# iterations, and on an accelerator are work enough for a launch.
BATCH_ELEMENTS = 2**20
ADAMW_BETAS, ADAMW_EPS = (0.9, 0.95), 1e-20
MOMENTUM, WEIGHT_DECAY = 0.95, 0.1

Named = Iterable[tuple[str, torch.nn.Parameter]]
Group = dict[str, Any]


class Groups(NamedTuple):
    """Parameter groups for the two optimizers; together they hold every parameter once.

    Attributes:
        muon: groups for `Muon`; `matrices` says into how many row blocks each matrix splits.
        adamw: one group for `adamw`.
    """

    muon: list[Group]
    adamw: list[Group]


def parameter_groups(named_parameters: Named, config: MLAConfig | V4Config) -> Groups:
    """Give each parameter of a student (`model.named_parameters()`) its optimizer.

    AdamW has what the report names (embedding, head, norms, biases and gating factors of the
    hyper-connections) and the other vectors, the attention sinks. Muon has every other matrix;
    the position biases of compressors and the routers are not named there, and are matrices.
    """
    blocks: dict[int, list[torch.nn.Parameter]] = {}
    rest = []
    for name, parameter in named_parameters:
        if parameter.ndim < 2 or name in ("embed.weight", "head.weight"):
            rest.append(parameter)
        else:
            blocks.setdefault(_row_blocks(name, config), []).append(parameter)
    muon = [{"params": params, "matrices": count} for count, params in sorted(blocks.items())]
    return Groups(muon, [{"params": rest}])


def _row_blocks(name: str, config: MLAConfig | V4Config) -> int:
    """Return how many logically independent matrices lie under each other in one parameter."""
    if name.endswith(".experts.gate_up"):
        return 2
    if isinstance(config, V4Config) and name.endswith(".o_a.weight"):
        return config.o_groups
    return 1


def adamw(groups: list[Group], lr: float, *, fused: bool = False) -> torch.optim.AdamW:
    """Return the report's AdamW for `Groups.adamw`, weight decay on every parameter included.

    Where a gradient has always been 0 both moments are, and 0 / `ADAMW_EPS` moves nothing.
    """
    return torch.optim.AdamW(
        groups, lr=lr, betas=ADAMW_BETAS, eps=ADAMW_EPS, weight_decay=WEIGHT_DECAY, fused=fused
    )


def newton_schulz(x_BNM: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the nearest semi-orthogonal matrices: singular values become 1 to 1.0021.

    Those below 3e-5 of a matrix's Frobenius norm are lifted, but not all the way; a matrix of
    zeros stays one. The iterations run in `dtype`; the result has the dtype of `x_BNM`.
    """
    x_BNM = _unit(x_BNM)
    tall = x_BNM.shape[-2] > x_BNM.shape[-1]
    x_BSL = (x_BNM.mT if tall else x_BNM).to(dtype)  # S the smaller side: the products are S x S
    for a, b, c in COEFFICIENTS:
        gram_BSS = torch.bmm(x_BSL, x_BSL.mT)
        poly_BSS = torch.baddbmm(gram_BSS, gram_BSS, gram_BSS, beta=b, alpha=c)
        x_BSL = torch.baddbmm(x_BSL, poly_BSS, x_BSL, beta=a)
    return (x_BSL.mT if tall else x_BSL).to(x_BNM.dtype)


def _unit(x_BNM: torch.Tensor) -> torch.Tensor:
    """Divide each matrix by its Frobenius norm, whatever its scale, without dividing 0 by 0.

    The largest element is made 1 first: squares of gradients below 1e-19 would vanish in float32.
    """
    tiny = torch.finfo(x_BNM.dtype).tiny
    x_BNM = x_BNM / x_BNM.abs().amax((-2, -1), keepdim=True).clamp_min(tiny)
    return x_BNM / x_BNM.square().sum((-2, -1), keepdim=True).sqrt().clamp_min(1.0)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, with decoupled weight decay.

    With gradient G, momentum m and rate r, for each N x M matrix W of a parameter:
    `m = 0.95 m + G`, `O = newton_schulz(G + 0.95 m)`,
    `W = W (1 - r weight_decay) - r 0.18 sqrt(max(N, M)) O`.

    A group's `matrices` is the number of equal row blocks that each matrix of its parameters
    splits into; leading dimensions are stacks. State: `momentum`, float32, one a parameter.
    """

    def __init__(
        self,
        groups: list[Group],
        lr: float,
        *,
        momentum: float = MOMENTUM,
        weight_decay: float = WEIGHT_DECAY,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Take groups as `parameter_groups` makes them.

        Args:
            groups: each has `params` and `matrices`, and may override what follows.
            lr: rate of the first step; a schedule sets `param_groups` afterwards.
            momentum: what is kept of the momentum each step.
            weight_decay: per unit of rate.
            dtype: of the Newton-Schulz products; bfloat16 leaves singular values 1 within 0.01.

        Raises:
            ConfigError: a parameter is no float32 matrix that splits as its group says.
        """
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "matrices": 1}
        super().__init__(groups, defaults)
        self.dtype = dtype
        for group in self.param_groups:
            for parameter in group["params"]:
                _check(parameter, group["matrices"])

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameters in _batches(group["params"], group["matrices"]):
                self._move(parameters, group)

    def _move(self, parameters: list[torch.Tensor], group: Group) -> None:
        """Move parameters whose matrices have one shape; they are orthogonalised together."""
        wanted_BNM = torch.cat([self._wanted(p, group) for p in parameters])
        parts = wanted_BNM.split(max(1, BATCH_ELEMENTS // wanted_BNM[0].numel()))
        steps_BNM = torch.cat([newton_schulz(part_BNM, self.dtype) for part_BNM in parts])
        scale = UPDATE_RMS * max(steps_BNM.shape[-2:]) ** 0.5
        counts = [_stack(p, group["matrices"]).shape[0] for p in parameters]
        for parameter, step_BNM in zip(parameters, steps_BNM.split(counts), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(step_BNM.reshape(parameter.shape), alpha=-group["lr"] * scale)

    def _wanted(self, parameter: torch.Tensor, group: Group) -> torch.Tensor:
        """Take the gradient into the momentum; return Nesterov's look ahead as `[B, N, M]`."""
        state, grad = self.state[parameter], parameter.grad
        assert grad is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].mul_(group["momentum"]).add_(grad)
        ahead = torch.add(grad, state["momentum"], alpha=group["momentum"])
        return _stack(ahead, group["matrices"])


def _check(parameter: torch.Tensor, matrices: int) -> None:
    shape = tuple(parameter.shape)
    if len(shape) < 2 or shape[-2] % matrices:
        raise ConfigError(
            f"Muon got a parameter of shape {shape} to split into {matrices} row blocks; "
            "give it matrices that divide so, and the rest to AdamW."
        )
    if parameter.dtype != torch.float32:
        raise ConfigError(
            f"Muon got a parameter of shape {shape} in {parameter.dtype}; "
            "keep trained weights in float32."
        )


def _stack(x: torch.Tensor, matrices: int) -> torch.Tensor:
    """Return `[..., R, M]` as its `[B, R / matrices, M]` independent matrices."""
    rows, columns = x.shape[-2:]
    return x.reshape(-1, rows // matrices, columns)


def _batches(parameters: list[torch.Tensor], matrices: int) -> Iterator[list[torch.Tensor]]:
    """Yield parameters with gradients, matrices of one shape together, in a fixed order."""
    shapes: dict[torch.Size, list[torch.Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            shapes.setdefault(_stack(parameter, matrices).shape[1:], []).append(parameter)
    for alike in shapes.values():
        batch: list[torch.Tensor] = []
        for parameter in alike:
            if batch and sum(p.numel() for p in [*batch, parameter]) > BATCH_ELEMENTS:
                yield batch
                batch = []
            batch.append(parameter)
        yield batch
