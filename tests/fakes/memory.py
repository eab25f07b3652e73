"""How large the tensors are that a piece of work makes."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Largest(TorchDispatchMode):
    """While entered, notes the largest tensor made; a view counts as what it looks into.

    Attributes:
        numbers: elements of the largest storage so far.
    """

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, list | tuple) else [out]:
            if isinstance(made, torch.Tensor):
                held = made.untyped_storage().nbytes() // made.element_size()
                self.numbers = max(self.numbers, held)
        return out
