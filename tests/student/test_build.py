"""A fresh student is a function of its config and seed alone, and begins as documented."""

import itertools
from dataclasses import replace

import pytest
import torch

from student.config import MLAConfig, V4Config
from student.documents import Documents
from student.errors import ConfigError
from student.model import Student
from student.moe import HashRouter, Mixture
from tests.fakes.students import CPU, MLA, V4, VOCABULARY, text

BOTH = pytest.mark.parametrize("config", [V4, MLA], ids=["v4", "mla"])


def fresh(config: V4Config | MLAConfig, seed: int = 0) -> Student:
    return Student.build(config, VOCABULARY, seed=seed, device=CPU)


@BOTH
def test_the_same_seed_gives_the_same_weights_and_tables(config):
    first, second = fresh(config).state_dict(), fresh(config).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@BOTH
def test_another_seed_gives_other_matrices_and_tables(config):
    first, second = fresh(config, 0).state_dict(), fresh(config, 1).state_dict()
    drawn = {name for name, tensor in first.items() if tensor.ndim >= 2}
    drawn -= {name for name in drawn if name.endswith("position_bias")}
    assert any(name.endswith("table") for name in drawn) == isinstance(config, V4Config)
    assert [name for name in drawn if torch.equal(first[name], second[name])] == []


@BOTH
def test_no_two_matrices_begin_alike(config):
    matrices = [p for p in fresh(config).parameters() if p.ndim > 1 and p.any()]
    pairs = itertools.combinations(matrices, 2)
    assert not [1 for a, b in pairs if a.shape == b.shape and torch.equal(a, b)]


@BOTH
def test_building_leaves_the_callers_random_state_alone(config):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fresh(config)
    assert torch.equal(torch.rand(3), expected)


@BOTH
def test_building_is_not_moved_by_the_callers_random_state(config):
    torch.manual_seed(1)
    first = fresh(config).state_dict()
    torch.manual_seed(2)
    second = fresh(config).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@BOTH
@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_weights_are_float32_on_the_device_whatever_the_default(config, default):
    expected = fresh(config).state_dict()
    torch.set_default_dtype(default)
    try:
        student = fresh(config)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert {b.dtype for b in student.buffers()} <= {torch.float32, torch.int64}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in student.state_dict().items())
    assert {t.device for t in (*student.parameters(), *student.buffers())} == {student.device}
    assert student.device == CPU


@BOTH
def test_weights_begin_as_documented(config):
    student = fresh(replace(config, hidden_size=256, initializer_range=0.05))
    wide, narrow = 0.05, 0.05 / (2 * config.num_layers) ** 0.5
    for name, parameter in student.named_parameters():
        match name.rpartition(".")[2]:
            case "weight" if parameter.ndim == 1:
                assert bool((parameter == 1).all()), name
            case "sinks" | "position_bias" | "base":
                assert not parameter.any(), name
            case "scale":
                assert bool((parameter == torch.tensor(0.01)).all()), name
            case _:
                writes = name.endswith((".o.weight", ".o_b.weight", "down", "down.weight"))
                std = 1 / 16 if name == "head.weight" else narrow if writes else wide
                spread = 6 * std / parameter.numel() ** 0.5
                assert abs(parameter.std() - std) < spread, name
                assert abs(parameter.mean()) < spread, name
    assert not [n for n, b in student.named_buffers() if n.endswith("router.bias") and b.any()]


@BOTH
@pytest.mark.parametrize("width", [32, 512])
def test_logits_begin_with_a_variance_of_one_at_any_width(config, width):
    student = fresh(replace(config, hidden_size=width))
    token_N, documents = text(60), Documents((60,), CPU)
    with torch.no_grad():
        logit_NV = student.logits(student(token_N, documents).hidden_ND)
    assert abs(logit_NV.var() - 1) < 0.15


@BOTH
def test_a_tied_head_begins_as_wide_as_embeddings(config):
    tied = replace(config, tie_word_embeddings=True, hidden_size=256, initializer_range=0.05)
    table = fresh(tied).head_weight()
    assert abs(table.std() - 0.05) < 6 * 0.05 / table.numel() ** 0.5


def test_tables_deal_every_expert_as_many_tokens():
    student = fresh(V4)
    tables = {name: b for name, b in student.named_buffers() if name.endswith("table")}
    assert set(tables) == {"layers.0.ffn.router.table"}
    counts = tables["layers.0.ffn.router.table"].flatten().bincount(minlength=6)
    assert len(counts) == 6 and counts.max() - counts.min() <= V4.num_experts_per_token


def test_the_network_has_the_layers_that_were_asked_for():
    student = fresh(replace(V4, num_mtp_layers=2))
    assert [block.attn.kind for block in student.blocks()] == [*V4.layer_types, "swa", "swa"]
    hashed = [isinstance(block.ffn.router, HashRouter) for block in student.blocks()]
    assert hashed == [True, False, False, False, False, False]
    student = fresh(replace(MLA, num_dense_layers=2, num_mtp_layers=2))
    mixtures = [isinstance(block.ffn, Mixture) for block in student.blocks()]
    assert mixtures == [False, False, True, True, True]


@BOTH
def test_a_tied_student_reads_with_its_embedding(config):
    student = fresh(replace(config, tie_word_embeddings=True))
    assert student.head_weight() is student.embed.weight
    assert "head.weight" not in student.state_dict()
    hidden_ND = torch.eye(config.hidden_size)
    torch.testing.assert_close(student.logits(hidden_ND), student.embed.weight.t())
    untied = fresh(config)
    torch.testing.assert_close(untied.logits(hidden_ND), untied.head.weight.t())


@BOTH
@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (1.5, r"seed is 1\.5; it must be a whole number"),
        ("x", "seed is 'x'; it must be a whole number"),
        (True, "seed is True; it must be a whole number"),
        (-1, "seed is -1; it must be at least 0"),
        (2**70, f"seed is {2**70}; it must be at most {2**63 - 1}"),
    ],
)
def test_a_seed_that_is_none_is_refused_in_both_families(config, seed, message):
    with pytest.raises(ConfigError, match=message):
        fresh(config, seed)


@BOTH
def test_the_largest_seed_is_one(config):
    assert not torch.equal(fresh(config, 2**63 - 1).embed.weight, fresh(config, 0).embed.weight)
