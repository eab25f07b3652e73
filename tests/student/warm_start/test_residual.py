"""Several streams are one residual, which only noise can part."""

import pytest
import torch

from student.config import V4Config
from student.documents import Documents
from student.hyper_connection import HyperConnection, StreamHead, expand
from student.model import Student
from student.warm_start import residual
from tests.fakes.dense import VOCABULARY, text

CPU = torch.device("cpu")
CONFIG = V4Config(
    layer_types=("swa",) * 3,
    hidden_size=12,
    num_heads=2,
    head_dim=8,
    qk_rope_head_dim=4,
    q_lora_rank=6,
    o_lora_rank=4,
    sliding_window=8,
    num_hash_layers=0,
    num_routed_experts=2,
    num_experts_per_token=2,
    moe_intermediate_size=4,
    hc_eps=1e-3,  # far larger than it ever is, so that it would be seen
    num_mtp_layers=0,
    max_position_embeddings=32,
)


def normal(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def part(weights: dict[str, torch.Tensor], at: str) -> dict[str, torch.Tensor]:
    return {name: weights[f"{at}.{name}"].double() for name in ("fn", "base", "scale")}


@pytest.mark.parametrize("streams", [1, 2, 4])
@torch.no_grad()
def test_what_is_read_at_the_end_is_the_sum_of_all_that_was_written(streams):
    config = V4Config(**{name: getattr(CONFIG, name) for name in CHANGED} | {"hc_streams": streams})
    weights = residual.plain(config, 0.0)
    plain_ND = normal(5, 12, seed=0)
    streams_NMD = plain_ND.unsqueeze(1).repeat(1, streams, 1)
    for number in range(6):
        connection = HyperConnection(config).double()
        layer, kind = divmod(number, 2)
        connection.load_state_dict(part(weights, f"layers.{layer}.{('attn', 'ffn')[kind]}_hc"))
        mixing = connection(streams_NMD)
        along_N = torch.cosine_similarity(mixing.input_ND, plain_ND, dim=1)
        torch.testing.assert_close(along_N, torch.ones_like(along_N), rtol=1e-9, atol=0)
        output_ND = normal(5, 12, seed=number + 1)
        streams_NMD, plain_ND = expand(mixing, output_ND), plain_ND + output_ND
    head = StreamHead(config).double()
    head.load_state_dict(part(weights, "stream_head"))
    read_ND = head(streams_NMD)
    ratio_ND = read_ND / plain_ND
    # One factor for all, which the last norm takes away: what mixing leaves of streams.
    torch.testing.assert_close(ratio_ND, ratio_ND[:1, :1].expand_as(ratio_ND), rtol=1e-6, atol=0)
    assert 0.99 < float(ratio_ND.mean()) < 1.0


CHANGED = ("layer_types", "hidden_size", "hc_eps", "num_hash_layers", "num_mtp_layers")


def gradients(noise: float) -> list[torch.Tensor]:
    """Return the gradients of what the joined streams are multiplied with, streams apart."""
    student = Student.build(CONFIG, VOCABULARY)
    state = student.state_dict() | residual.plain(CONFIG, noise)
    student.load_state_dict(state)
    token_N = text(1, 16).flatten()
    made = student(token_N, Documents([16], CPU))
    torch.nn.functional.cross_entropy(student.logits(made.hidden_ND), token_N).backward()
    return [
        parameter.grad.unflatten(1, (CONFIG.hc_streams, -1))
        for name, parameter in student.named_parameters()
        if name.endswith(".fn") and parameter.grad is not None
    ]


def apart(grad_JMD: torch.Tensor) -> float:
    """Return how far the first gates' gradients are from one another, relative to their size."""
    m = CONFIG.hc_streams
    of_gates_MMD = grad_JMD[:m]
    spread = of_gates_MMD - of_gates_MMD.mean((0, 1), keepdim=True)
    return float(spread.norm() / of_gates_MMD.norm())


def test_equal_streams_have_equal_gradients_and_noise_parts_them():
    even, noisy = gradients(0.0), gradients(0.1)
    assert len(even) == 7
    assert all(apart(grad_JMD) < 1e-3 for grad_JMD in even)
    assert all(apart(grad_JMD) > 1e-2 for grad_JMD in noisy)


def test_noise_is_the_deviation_of_the_gates_logits():
    weights = part(residual.plain(CONFIG, 0.25), "layers.0.attn_hc")
    x_NW = normal(2000, 48, seed=3)
    x_NW = x_NW * x_NW.square().mean(1, keepdim=True).rsqrt()
    logit_NJ = weights["scale"][0] * (x_NW @ weights["fn"].T)
    assert float(logit_NJ.std()) == pytest.approx(0.25, rel=0.15)
