"""Tiny students of both families in which every term matters, and documents for them.

A fresh student begins with sinks, biases and norms at 0 or 1, where a term that is forgotten, or
taken twice, changes nothing; a stirred one does not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from student.config import MLAConfig, V4Config
from student.documents import Documents
from student.model import Student
from student.released_names import kept_in_float32
from student.vocabulary import Vocabulary

CPU = torch.device("cpu")
VOCABULARY = Vocabulary(size=97, bos=3, eos=4, pad=5)

# Windows and compressions that a document of some tens of tokens fills many times over.
V4 = V4Config(
    layer_types=("swa", "csa", "hca", "csa"),
    hidden_size=32,
    num_heads=4,
    head_dim=16,
    qk_rope_head_dim=8,
    q_lora_rank=16,
    o_groups=2,
    o_lora_rank=8,
    sliding_window=8,
    csa_compression=4,
    hca_compression=8,
    index_num_heads=4,
    index_head_dim=8,
    index_top_k=3,
    num_routed_experts=6,
    moe_intermediate_size=16,
    swiglu_limit=0.2,
    max_position_embeddings=512,
    num_mtp_layers=1,
    initializer_range=0.1,
)
V4_SPARSE = replace(V4, index_num_heads=24)  # so many heads that no two scores tie at 0
MLA = MLAConfig(
    hidden_size=32,
    num_layers=3,
    num_heads=2,
    q_lora_rank=16,
    kv_lora_rank=8,
    qk_rope_head_dim=8,
    qk_nope_head_dim=8,
    v_head_dim=12,
    intermediate_size=64,
    num_routed_experts=6,
    moe_intermediate_size=16,
    routed_scaling_factor=1.7,
    max_position_embeddings=512,
    num_mtp_layers=1,
    initializer_range=0.1,
)


def stirred(
    config: MLAConfig | V4Config, *, seed: int = 0, vocabulary: Vocabulary = VOCABULARY
) -> Student:
    """Return a student whose sinks, biases, gates and norms are off their beginnings.

    What its layers write is as wide as what they read; a fresh student's writes little.
    """
    student = Student.build(config, vocabulary, seed=seed, device=CPU)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if name.endswith(("sinks", "position_bias", "base", "scale")):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            elif name.endswith((".o.weight", ".o_b.weight", "down", "down.weight")):
                parameter.mul_((2 * config.num_layers) ** 0.5)
            elif parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in student.named_buffers():
            if name.endswith("router.bias"):
                buffer.add_(0.05 * torch.randn(buffer.shape, generator=generator))
    return student


def in_bfloat16(student: Student) -> None:
    """Round a student's matrices as `weights.load` does in bfloat16."""
    for name, parameter in student.named_parameters():
        if not kept_in_float32(name):
            parameter.data = parameter.data.bfloat16()


def documents(*lengths: int) -> Documents:
    """Return documents of these lengths on the CPU."""
    return Documents(lengths, CPU)


def text(count: int, *, seed: int = 0, size: int = VOCABULARY.size) -> torch.Tensor:
    """Return seeded random tokens of a vocabulary of `size`."""
    return torch.randint(0, size, (count,), generator=torch.Generator().manual_seed(seed))


def split(rows_N: torch.Tensor, lengths: Sequence[int]) -> Iterator[torch.Tensor]:
    """Yield each document's rows of a stream."""
    yield from rows_N.split(list(lengths))


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return |ours - theirs| / |theirs|, both norms over all numbers."""
    ours, theirs = ours.detach(), theirs.detach()
    return float((ours - theirs).double().norm() / theirs.double().norm().clamp_min(1e-30))
