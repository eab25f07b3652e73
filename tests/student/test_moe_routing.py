"""Routers choose and weight as transformers' do; a hash table serves every expert alike."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import DeepseekV3Config, DeepseekV4Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4TopKRouter

from student.config import MLAConfig, V4Config
from student.moe import HashRouter, Router, Routing, hash_table

HIDDEN, EXPERTS, TOP_K = 12, 8, 3
SHAPE = {"hidden_size": HIDDEN, "num_routed_experts": EXPERTS, "num_experts_per_token": TOP_K}
V4 = V4Config(**SHAPE, routed_scaling_factor=1.7)
MLA = MLAConfig(**SHAPE, routed_scaling_factor=2.5)
TOKENS = torch.zeros(40, dtype=torch.int64)


def normal(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.to(dtype)


def filled(module, dtype=torch.float64):
    for seed, parameter in enumerate(module.parameters()):
        parameter.data = normal(*parameter.shape, seed=10 + seed, dtype=dtype)
    return module


def dense(routing: Routing) -> torch.Tensor:
    """Return `[N, E]`: what each expert counts for each token."""
    return torch.zeros_like(routing.affinity_NE).scatter(1, routing.expert_NK, routing.weight_NK)


def its_router(config, groups: int, taken: int):
    if isinstance(config, V4Config):
        return DeepseekV4TopKRouter(
            DeepseekV4Config(
                num_hidden_layers=1,
                hidden_size=HIDDEN,
                n_routed_experts=EXPERTS,
                num_experts_per_tok=TOP_K,
                routed_scaling_factor=config.routed_scaling_factor,
            )
        )
    return DeepseekV3TopkRouter(
        DeepseekV3Config(
            hidden_size=HIDDEN,
            n_routed_experts=EXPERTS,
            num_experts_per_tok=TOP_K,
            routed_scaling_factor=config.routed_scaling_factor,
            n_group=groups,
            topk_group=taken,
        )
    )


GROUPED = MLAConfig(**SHAPE, num_expert_groups=4, num_groups_per_token=2)


@pytest.mark.parametrize(
    ("config", "groups", "taken"), [(V4, 1, 1), (MLA, 1, 1), (GROUPED, 4, 2)], ids=str
)
@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_a_router_is_that_of_transformers(config, groups, taken, bias):
    own, other = filled(Router(config), torch.float32), its_router(config, groups, taken)
    other.weight.data = own.weight.data
    own.bias.copy_(bias * normal(EXPERTS, seed=1))
    other.e_score_correction_bias.copy_(own.bias)
    x_ND = normal(40, HIDDEN).float()
    routing, (_, weight_NK, expert_NK) = own(x_ND, TOKENS, None), other(x_ND)
    expected_NE = torch.zeros(40, EXPERTS).scatter(1, expert_NK, weight_NK)
    torch.testing.assert_close(dense(routing), expected_NE, rtol=1e-5, atol=1e-6)
    assert routing.weight_NK.sum(1).tolist() == pytest.approx([config.routed_scaling_factor] * 40)


def test_a_bias_steers_the_choice_and_leaves_the_weights_and_every_gradient_alone():
    own, x_ND = filled(Router(V4)), normal(40, HIDDEN)
    free = own(x_ND, TOKENS, None)
    own.bias[5] += 100
    own.bias[2] -= 100
    steered = own(x_ND, TOKENS, None)
    assert (steered.expert_NK == 5).any(1).all()
    assert (free.expert_NK == 2).any()
    assert not (steered.expert_NK == 2).any()
    assert torch.equal(steered.affinity_NE, free.affinity_NE)
    chosen_NK = F.softplus(x_ND @ own.weight.T).sqrt().gather(1, steered.expert_NK)
    expected_NK = 1.7 * chosen_NK / chosen_NK.sum(1, keepdim=True)
    torch.testing.assert_close(steered.weight_NK, expected_NK, rtol=1e-12, atol=0)
    assert {name for name, _ in own.named_parameters()} == {"weight"}
    assert own.bias.dtype == torch.float32
    replayed = own(x_ND, TOKENS, free.expert_NK)
    assert torch.equal(replayed.weight_NK, free.weight_NK)


def test_a_replayed_choice_replaces_the_own_and_is_weighted_by_present_affinities():
    given_NK = torch.stack([torch.randperm(EXPERTS)[:TOP_K] for _ in range(40)])
    for own in (filled(Router(V4)), filled(HashRouter(V4, 9)), filled(Router(GROUPED))):
        routing = own(normal(40, HIDDEN), TOKENS, given_NK)
        assert routing.expert_NK is given_NK
        chosen_NK = routing.affinity_NE.gather(1, given_NK)
        expected_NK = chosen_NK / chosen_NK.sum(1, keepdim=True) * own.factor
        torch.testing.assert_close(routing.weight_NK, expected_NK, rtol=1e-12, atol=0)
        routing.weight_NK[:, 0].sum().backward()
        assert own.weight.grad.norm() > 0


def test_a_hash_router_looks_its_token_up():
    own, token_N = filled(HashRouter(V4, 30)), torch.arange(40) % 30
    own.table.copy_(hash_table(30, EXPERTS, TOP_K, np.random.default_rng(0)))
    routing = own(normal(40, HIDDEN), token_N, None)
    assert torch.equal(routing.expert_NK, own.table[token_N])
    learned = filled(Router(V4))(normal(40, HIDDEN), token_N, routing.expert_NK)
    assert torch.equal(routing.weight_NK, learned.weight_NK)


@pytest.mark.parametrize("top_k", [1, 2, 7, 8])
@pytest.mark.parametrize("vocab", [1, 7, 8, 64, 1001])
def test_a_hash_table_gives_each_token_different_experts_and_each_expert_as_many(vocab, top_k):
    table = hash_table(vocab, 8, top_k, np.random.default_rng(0))
    assert table.shape == (vocab, top_k)
    assert all(len(set(row)) == top_k and set(row) <= set(range(8)) for row in table.tolist())
    for column in table.T.tolist():
        counts = [Counter(column)[expert] for expert in range(8)]
        assert max(counts) - min(counts) <= (vocab % 8 > 0)


def test_a_hash_table_is_its_seeds_and_mixes_tokens_and_experts():
    tables = [hash_table(4096, 8, 2, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert torch.equal(tables[0], tables[1])
    assert (tables[0] != tables[2]).any(1).float().mean() > 0.9
    # All 56 ordered pairs of experts occur, each 73 times on average.
    pairs = Counter(map(tuple, tables[0].tolist()))
    assert len(pairs) == 56
    assert max(pairs.values()) < 2 * 4096 / 56
    neighbours = (tables[0][1:, 0] == tables[0][:-1, 0]).float().mean()
    assert 0.08 < neighbours < 0.17


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("config", [V4, MLA], ids=["v4", "mla"])
def test_affinities_are_float32_whatever_surrounds_the_router(config, autocast):
    own, x_ND = filled(Router(config), torch.float32), normal(40, HIDDEN).bfloat16()
    expected = own(x_ND.float(), TOKENS, None)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        routing = own(x_ND, TOKENS, None)
    assert routing.affinity_NE.dtype == routing.weight_NK.dtype == torch.float32
    assert all(torch.equal(*pair) for pair in zip(routing, expected, strict=True))
