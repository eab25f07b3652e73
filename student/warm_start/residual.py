"""Hyper-connections that are a plain residual (arXiv 2606.19348, section 2.2).

All streams hold the teacher's residual: each sub-layer reads their mean, writes to all alike, and
mixing equal streams changes nothing. Equal they would stay, for their gradients are equal too, so
that a little noise in what the gates read is what makes several streams of one.

Shapes: M streams, W = M D with the hidden size D, J mixing numbers, C = M M of mixing.
"""

import math

import torch

from student.config import V4Config
from student.sinkhorn import sinkhorn


def plain(config: V4Config, noise: float, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return the weights of every hyper-connection and the last reading, float32, by their names.

    Args:
        config: of the student.
        noise: deviation of the gates' logits; 0 leaves the streams equal for ever.
        seed: of the noise.
    """
    m, width = config.hc_streams, config.hc_streams * config.hidden_size
    generator = torch.Generator().manual_seed(seed)
    deviation = noise / max(config.hc_initial_gate, 1e-30) / math.sqrt(width)
    read_M = torch.full((m,), _logit(1 / m - config.hc_eps), dtype=torch.float64)
    kept = _kept(config)
    weights = {}

    def connect(at: str, base_J: torch.Tensor, scales: int) -> None:
        fn_JW = torch.randn(len(base_J), width, generator=generator) * deviation
        weights[f"{at}.fn"] = fn_JW
        weights[f"{at}.base"] = base_J.float()
        weights[f"{at}.scale"] = torch.full((scales,), float(config.hc_initial_gate))

    for number in range(2 * config.num_layers):
        layer, part = divmod(number, 2)
        # Written as much smaller as the streams have become by then.
        write_M = torch.full_like(read_M, _logit(kept ** (number + 1) / 2))
        base_J = torch.cat((read_M, write_M, read_M.new_zeros(m * m)))
        connect(f"layers.{layer}.{('attn', 'ffn')[part]}_hc", base_J, 3)
    connect("stream_head", read_M, 1)
    return weights


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _kept(config: V4Config) -> float:
    """Return what is left of equal streams after one mixing: 1, less about `hc_eps`."""
    m = config.hc_streams
    even_1MM = torch.full((1, m, m), 1 / m, dtype=torch.float64)
    mixed_1MM = sinkhorn(even_1MM, config.hc_sinkhorn_iterations, config.hc_eps)
    return float(mixed_1MM[0, :, 0].sum())
