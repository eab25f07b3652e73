"""The discrete choices a forward pass made, so that another pass can make the same ones.

Routing and the indexer's top-k are discontinuous: two passes that differ by rounding, device or
weights can choose differently and then differ by much. Replaying fixes the choices: a rollout's
when it is trained on, one device's on another, or those of older weights (anticipatory routing,
DeepSeek-V4 report, section 4.2.3).

Shapes: N tokens, K experts or entries a token.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """One pass's choices, a place a layer, prediction layers after the others.

    Attributes:
        experts: int64 `[N, K]`, None in layers without a mixture.
        entries: int64 `[N, K]` places in the stream's entries, -1 for none; None in layers
            without an indexer or where its choice did not bind.
        family: of the student that chose; None is taken for either.
    """

    experts: tuple[torch.Tensor | None, ...]
    entries: tuple[torch.Tensor | None, ...]
    family: Literal["mla", "v4"] | None = None

    def at(self, place: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return a layer's experts and entries; none where the recorded pass had no such layer.

        A pass without prediction layers may be replayed in one that has them.
        """
        there = place < len(self.experts)
        return (self.experts[place], self.entries[place]) if there else (None, None)

    def to(self, device: torch.device) -> "Choices":
        """Return the same choices on another device."""
        moved = _moved(self.experts, device), _moved(self.entries, device)
        return replace(self, experts=moved[0], entries=moved[1])

    def routing_only(self) -> "Choices":
        """Return the choices of experts alone, leaving the indexer free."""
        return replace(self, entries=(None,) * len(self.entries))


def _moved(
    chosen: Iterable[torch.Tensor | None], device: torch.device
) -> tuple[torch.Tensor | None, ...]:
    return tuple(None if choice is None else choice.to(device) for choice in chosen)
