"""Latent attention is causal softmax attention within each document, as transformers does it."""

from dataclasses import replace

import pytest
import torch
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as v3

from student.config import MLAConfig, Yarn
from student.documents import Documents
from student.mla import MLAPositions, MLAttention, causal
from student.released_rotary import listed_frequencies
from student.rotary import frequencies, rotate
from tests.fakes.memory import Largest

CPU = torch.device("cpu")
CONFIG = MLAConfig(
    hidden_size=20,
    num_heads=3,
    q_lora_rank=10,
    kv_lora_rank=9,
    qk_rope_head_dim=4,
    qk_nope_head_dim=6,
    v_head_dim=5,
)
YARN = Yarn(factor=8.0, original_positions=16, mscale_all_dim=0.7)
CONFIGS = {
    "compressed": CONFIG,
    "plain queries": replace(CONFIG, q_lora_rank=None),
    "yarn": replace(CONFIG, yarn=YARN),
    "wide values": replace(CONFIG, v_head_dim=13),
    "biases": replace(CONFIG, attention_bias=True),
    "plain queries and biases": replace(CONFIG, q_lora_rank=None, attention_bias=True),
    "listed frequencies": replace(CONFIG, rope_frequencies=(0.5, 0.5)),
}
STREAMS = [(1,), (23,), (8, 8, 8), (9, 1, 13), (1, 1, 1)]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(config: MLAConfig, dtype=torch.float64) -> MLAttention:
    made = MLAttention(config)
    for seed, parameter in enumerate(made.parameters()):
        parameter.data = 0.5 * normal(*parameter.shape, seed=seed)
    return made.to(dtype)


def positions(config: MLAConfig, lengths) -> MLAPositions:
    frequency_R = frequencies(config.qk_rope_head_dim, config.rope_theta, config.yarn)
    if config.rope_frequencies is not None:
        frequency_R = torch.tensor(config.rope_frequencies)
    return MLAPositions.of(Documents(lengths, CPU), frequency_R)


def read(query_F, key_SF, value_SV, scale: float) -> torch.Tensor:
    return (scale * key_SF @ query_F).softmax(0) @ value_SV


def places(lengths) -> list[tuple[int, int]]:
    """Return, a token, where its document begins and its own place in the stream."""
    starts = [sum(lengths[:document]) for document in range(len(lengths))]
    return [
        (start, start + place)
        for start, length in zip(starts, lengths, strict=True)
        for place in range(length)
    ]


def by_hand(own: MLAttention, x_ND: torch.Tensor, where: MLAPositions) -> torch.Tensor:
    """Section 2.1.1 a token and a head at a time."""

    def normed(x_NF: torch.Tensor, weight_F: torch.Tensor) -> torch.Tensor:
        return x_NF / (x_NF.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight_F

    def affine(x_NF: torch.Tensor, linear: torch.nn.Linear) -> torch.Tensor:
        return x_NF @ linear.weight.T + (0 if linear.bias is None else linear.bias)

    nope, rope, value = own.nope, own.rope, own.value
    if own.compressed:
        q_NF = normed(affine(x_ND, own.q_a), own.q_norm.weight) @ own.q_b.weight.T
    else:
        q_NF = x_ND @ own.q.weight.T
    latent_NF = affine(x_ND, own.kv_a)
    made_NF = normed(latent_NF[:, : own.rank], own.kv_norm.weight) @ own.kv_b.weight.T
    shared_NR = rotate(latent_NF[:, own.rank :], where.turn)
    outs = []
    for head in range(own.heads):
        q_NP, q_NR = q_NF.split(nope + rope, 1)[head].split([nope, rope], 1)
        query_NF = torch.cat((q_NP, rotate(q_NR, where.turn)), 1)
        key_NP, value_NV = made_NF.split(nope + value, 1)[head].split([nope, value], 1)
        key_NF = torch.cat((key_NP, shared_NR), 1)
        outs.append(
            torch.stack(
                [
                    read(query_NF[n], key_NF[s : n + 1], value_NV[s : n + 1], own.scale)
                    for s, n in places(where.documents.lengths)
                ]
            )
        )
    return affine(torch.cat(outs, 1), own.o)


@pytest.mark.parametrize("lengths", STREAMS, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_output_and_gradients_are_those_of_the_equations(name, lengths):
    own, x_ND = layer(CONFIGS[name]), normal(sum(lengths), 20, seed=50).requires_grad_()
    where = positions(CONFIGS[name], lengths)
    outs = own(x_ND, where)[0], by_hand(own, x_ND, where)
    torch.testing.assert_close(*outs, rtol=1e-11, atol=1e-11)
    inputs, seen_ND = [x_ND, *own.parameters()], normal(*x_ND.shape, seed=51)
    grads = [torch.autograd.grad((out * seen_ND).sum(), inputs) for out in outs]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("width", [3, 7, 10])
@pytest.mark.parametrize("lengths", STREAMS, ids=str)
def test_each_token_reads_its_document_up_to_itself(lengths, width):
    total = sum(lengths)
    query_NHF, key_NHF = normal(total, 2, 7), normal(total, 2, 7, seed=1)
    value_NHV = normal(total, 2, width, seed=2)
    got = causal(query_NHF, key_NHF, value_NHV, Documents(lengths, CPU), 0.3)
    assert got.shape == (total, 2, width)
    for start, n in places(lengths):
        rows = slice(start, n + 1)
        for head in range(2):
            given = query_NHF[n, head], key_NHF[rows, head], value_NHV[rows, head]
            torch.testing.assert_close(got[n, head], read(*given, 0.3), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_documents_read_what_they_read_alone(name):
    own, lengths = layer(CONFIGS[name]), [9, 1, 13]
    x_ND = normal(23, 20, seed=50)
    packed = own(x_ND, positions(CONFIGS[name], lengths))
    parts = [own(part, positions(CONFIGS[name], (len(part),))) for part in x_ND.split(lengths)]
    for together, alone in zip(packed, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)


def test_a_change_reaches_only_later_tokens_of_its_document():
    own, x_ND, where = layer(CONFIG), normal(23, 20, seed=50), positions(CONFIG, (9, 14))
    before = own(x_ND, where)[0]
    x_ND[12] += 1
    touched = (own(x_ND, where)[0] != before).any(1)
    assert touched.nonzero().flatten().tolist() == list(range(12, 23))


@pytest.mark.parametrize("name", CONFIGS)
def test_one_document_is_attended_to_as_transformers_does_it(name):
    config = CONFIGS[name]
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.yarn is not None:
        rope |= {
            "rope_type": "yarn",
            "factor": YARN.factor,
            "original_max_position_embeddings": YARN.original_positions,
            "beta_fast": YARN.beta_fast,
            "beta_slow": YARN.beta_slow,
            "mscale": YARN.mscale_all_dim,
            "mscale_all_dim": YARN.mscale_all_dim,
        }
    if config.rope_frequencies is not None:
        rope |= listed_frequencies(config, config.rope_theta) | {"rope_type": "longrope"}
    its_config = DeepseekV3Config(
        hidden_size=20,
        num_attention_heads=3,
        num_key_value_heads=3,
        q_lora_rank=config.q_lora_rank,
        kv_lora_rank=9,
        qk_rope_head_dim=4,
        qk_nope_head_dim=6,
        v_head_dim=config.v_head_dim,
        attention_bias=config.attention_bias,
        max_position_embeddings=128,
        rope_parameters=rope,
        attn_implementation="eager",
    )
    own, other = layer(config, torch.float32), v3.DeepseekV3Attention(its_config, 0)
    names = {"q_b": "q_b_proj", "q_a": "q_a_proj", "q_norm": "q_a_layernorm", "q": "q_proj"}
    names |= {"kv_a": "kv_a_proj_with_mqa", "kv_norm": "kv_a_layernorm", "kv_b": "kv_b_proj"}
    names["o"] = "o_proj"
    state = own.state_dict()
    parts = {name: name.rpartition(".") for name in state}
    other.load_state_dict({f"{names[p[0]]}.{p[2]}": state[name] for name, p in parts.items()})
    x_ND = normal(100, 20, seed=50).float()
    turn = v3.DeepseekV3RotaryEmbedding(its_config)(x_ND, torch.arange(100)[None])
    mask = torch.full((100, 100), float("-inf")).triu(1)[None, None]
    expected = other(x_ND[None], turn, mask)[0][0]
    got = own(x_ND, positions(config, (100,)))[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert (own.scale > 10**-0.5) == (config.yarn is not None)


def test_what_is_cached_is_the_latent_and_the_shared_turned_key():
    own, x_ND, where = layer(CONFIG), normal(12, 20, seed=50), positions(CONFIG, (7, 5))
    _, cached_NF = own(x_ND, where)
    latent_NF = x_ND @ own.kv_a.weight.T
    scaled = latent_NF[:, :9] / (latent_NF[:, :9].square().mean(1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(cached_NF[:, :9], scaled * own.kv_norm.weight, rtol=1e-12, atol=0)
    assert torch.equal(cached_NF[:, 9:], rotate(latent_NF[:, 9:], where.turn))


@pytest.mark.parametrize("lengths", [(2048,), (512,) * 4, (1500, 3, 545)], ids=["one", "4", "3"])
def test_no_tensor_comes_near_n_by_n_numbers(lengths):
    own, x_ND = layer(CONFIG, torch.float32), normal(2048, 20).float().requires_grad_()
    with Largest() as seen:
        own(x_ND, positions(CONFIG, lengths))[0].sum().backward()
    # The width of all heads, keys and values made together, and little more.
    assert 2048 * 33 <= seen.numbers < 2048 * 100
    assert x_ND.grad.norm() > 0
