"""How the weights of a new student begin.

They are drawn on the CPU from a seed, so the same seed is the same student on every stack.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch

from student.config import MLAConfig, V4Config
from student.moe import hash_table

if TYPE_CHECKING:
    from student.model import Student


@torch.no_grad()
def initialise(student: "Student", seed: int) -> None:
    """Draw every weight of a student that is on the CPU.

    Matrices are normal, as wide as `deviation` says; norms begin at 1; sinks, position and stream
    biases at 0; the gates of hyper-connections small, as their paper asks; hash tables are dealt.
    """
    config = student.config
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in student.named_parameters():
        match name.rpartition(".")[2]:
            case "weight" if parameter.ndim == 1:
                parameter.fill_(1.0)
            case "sinks" | "position_bias" | "base" | "bias":
                parameter.zero_()
            case "scale":
                assert isinstance(config, V4Config)
                parameter.fill_(config.hc_initial_gate)
            case _:
                parameter.normal_(0.0, deviation(config, name), generator=generator)
    if isinstance(config, V4Config):
        rng = np.random.default_rng(seed)
        experts, top_k = config.num_routed_experts, config.num_experts_per_token
        for name, buffer in student.named_buffers():
            if name.endswith(".table"):
                buffer.copy_(hash_table(student.vocabulary.size, experts, top_k, rng))


def deviation(config: MLAConfig | V4Config, name: str) -> float:
    """Return the standard deviation a matrix begins with, by its name in the student.

    `initializer_range`, with two exceptions. The head takes `D ** -0.5`, as it reads D values of
    mean square 1: logits begin with a variance of 1 at every width, neither flat nor saturated
    (LeCun et al., Efficient BackProp, 1998, section 4.6); a tied head is the embedding and keeps
    the embedding's. What writes to the residual, attention's and feed-forward layers' last
    projection, is narrower by the root of how many write to it, so that depth does not widen the
    residual (Radford et al., GPT-2, 2019, section 2.3).
    """
    match name.removesuffix(".weight").rpartition(".")[2]:
        case "head":
            return float(config.hidden_size**-0.5)
        case "o" | "o_b" | "down":
            return float(config.initializer_range * (2 * config.num_layers) ** -0.5)
    return config.initializer_range
