"""Keep the experts evenly loaded without an auxiliary loss, and measure how evenly they are.

After each step a routing bias moves by a fixed speed towards the mean load (DeepSeek-V3 report,
arXiv 2412.19437, section 2.1.2; Wang et al., arXiv 2408.15664). The bias steers which experts are
chosen, never how much they count, and is no parameter of the optimizer. transformers' class has
the buffer but nothing moves it.

Shapes: N tokens, K experts a token, E routed experts, L mixture layers.
"""

from types import TracebackType

import torch
from torch import nn
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter


def routers(model: nn.Module) -> list[DeepseekV3TopkRouter]:
    """Return the routers of the mixture layers, from the first layer to the last."""
    return [module for module in model.modules() if isinstance(module, DeepseekV3TopkRouter)]


class LoadMeter:
    """Counts, while entered, how many tokens each expert of each layer is given.

    Attributes:
        counts_LE: float32 `[L, E]` on the model's device, in tokens.
    """

    def __init__(self, model: nn.Module) -> None:
        self.routers = routers(model)
        shape = (len(self.routers), self.routers[0].num_experts if self.routers else 0)
        device = self.routers[0].weight.device if self.routers else torch.device("cpu")
        self.counts_LE = torch.zeros(shape, device=device)
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> "LoadMeter":
        for layer, router in enumerate(self.routers):
            self._handles.append(router.register_forward_hook(self._counter(layer)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _counter(self, layer: int):  # type: ignore[no-untyped-def]
        def count(module: nn.Module, inputs: object, output: tuple[torch.Tensor, ...]) -> None:
            chosen_NK = output[2].reshape(-1)
            ones = torch.ones_like(chosen_NK, dtype=torch.float32)
            # scatter_add on floats: integer bincount and histc are missing on some devices.
            self.counts_LE[layer].scatter_add_(0, chosen_NK, ones)

        return count

    def reset(self) -> None:
        """Start counting from zero."""
        self.counts_LE.zero_()

    def shares(self) -> list[list[float]]:
        """Return each expert's share of its layer's tokens, rows that sum to 1."""
        total_L1 = self.counts_LE.sum(-1, keepdim=True).clamp_min(1.0)
        rows: list[list[float]] = (self.counts_LE / total_L1).tolist()
        return rows


@torch.no_grad()
def update_bias(meter: LoadMeter, speed: float) -> None:
    """Raise the bias of underloaded experts by `speed` and lower that of overloaded ones."""
    for router, load_E in zip(meter.routers, meter.counts_LE, strict=True):
        router.e_score_correction_bias += speed * torch.sign(load_E.mean() - load_E)
