"""A student computes what transformers' model of the same weights does, forward and backward.

In float64 every number agrees but for rounding. In float32 so do logits and gradients; only the
few numbers that mix streams, whose gradients are small differences of large sums, keep no more
digits than theirs keep, and there the yardstick is float64.
"""

import copy
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import pytest
import torch

from student.choices import Choices
from student.config import MLAConfig, V4Config, Yarn
from student.documents import Documents, unpad
from student.model import Student
from tests.fakes.rivals import Noted, Theirs, in_float64, noting, ours_called, rival
from tests.fakes.students import CPU, MLA, V4, VOCABULARY, distance, stirred, text

YARN = Yarn(factor=4.0, original_positions=128)
ALONE = {"num_mtp_layers": 0, "initializer_range": 0.02, "hidden_size": 64}
V4_HERE = replace(V4, **ALONE, num_heads=8)
MLA_HERE = replace(MLA, **ALONE)

# Each with the lengths of a batch padded on the right.
TINY = {
    "v4": (V4_HERE, (61, 40, 3)),
    "v4 one token": (V4_HERE, (1,)),
    "v4 yarn, tied": (replace(V4_HERE, yarn=YARN, tie_word_embeddings=True), (70, 9)),
    "v4 two streams, odd windows, no table": (
        replace(
            V4_HERE,
            hc_streams=2,
            num_hash_layers=0,
            csa_compression=3,
            hca_compression=7,
            sliding_window=5,
        ),
        (61, 33),
    ),
    "v4 groups, tables, every entry": (
        replace(
            V4_HERE,
            o_groups=4,
            layer_types=("hca", "hca", "csa"),
            num_hash_layers=3,
            index_top_k=64,
            num_experts_per_token=3,
        ),
        (61,),
    ),
    "mla": (MLA_HERE, (61, 40, 3)),
    "mla yarn, tied": (
        replace(MLA_HERE, yarn=replace(YARN, mscale_all_dim=0.7), tie_word_embeddings=True),
        (70, 9),
    ),
    "mla groups, two shared, plain queries": (
        replace(
            MLA_HERE,
            q_lora_rank=None,
            num_routed_experts=8,
            num_expert_groups=4,
            num_groups_per_token=2,
            num_shared_experts=2,
        ),
        (61, 30),
    ),
    "mla all dense, wide values": (replace(MLA_HERE, num_dense_layers=3, v_head_dim=24), (33,)),
}
MEDIUM = {
    "v4": V4Config(
        layer_types=("swa", "swa", "csa", "hca", "csa", "hca"),
        num_heads=8,
        o_groups=4,
        num_routed_experts=16,
        num_experts_per_token=3,
        index_top_k=32,
        num_mtp_layers=0,
        yarn=replace(YARN, original_positions=512),
    ),
    "mla": MLAConfig(
        num_layers=6,
        num_routed_experts=16,
        num_experts_per_token=3,
        num_expert_groups=4,
        num_groups_per_token=2,
        yarn=replace(YARN, original_positions=512, mscale_all_dim=1.0),
    ),
}


class Batch(NamedTuple):
    """Rows padded on the right, the same as documents, and a gradient for every logit."""

    token_BS: torch.Tensor
    mask_BS: torch.Tensor
    documents: Documents
    place_N: torch.Tensor
    gradient_NV: torch.Tensor


class Run(NamedTuple):
    """Logits `[N, V]` and every parameter's gradient, by our names."""

    logit_NV: torch.Tensor
    gradients: dict[str, torch.Tensor | None]


def batch_of(lengths: tuple[int, ...], size: int) -> Batch:
    count, longest = len(lengths), max(lengths)
    mask_BS = torch.arange(longest) < torch.tensor(lengths)[:, None]
    token_BS = text(count * longest, size=size).view(count, longest)
    documents, place_N = unpad(mask_BS, CPU)
    generator = torch.Generator().manual_seed(1)
    gradient_NV = torch.randn(sum(lengths), size, generator=generator)
    return Batch(token_BS, mask_BS, documents, place_N, gradient_NV)


def forward_theirs(theirs: Theirs, batch: Batch) -> tuple[torch.Tensor, Noted]:
    with noting(theirs) as noted:
        output = theirs(batch.token_BS, attention_mask=batch.mask_BS.long(), use_cache=False)
    return output.logits.flatten(0, 1)[batch.place_N], noted


def run_theirs(theirs: Theirs, batch: Batch) -> tuple[Run, Noted]:
    logit_NV, noted = forward_theirs(theirs, batch)
    logit_NV.backward(batch.gradient_NV.to(logit_NV.dtype))
    grads = {ours_called(name): p.grad for name, p in theirs.named_parameters()}
    return Run(logit_NV.detach(), grads), noted


def run_ours(ours: Student, batch: Batch, replay: Choices) -> Run:
    token_N = batch.token_BS.flatten()[batch.place_N]
    output = ours(token_N, batch.documents, replay=replay)
    logit_NV = ours.logits(output.hidden_ND)
    logit_NV.backward(batch.gradient_NV.to(logit_NV.dtype))
    return Run(logit_NV.detach(), {name: p.grad for name, p in ours.named_parameters()})


def missing(run: Run) -> set[str]:
    return {name for name, grad in run.gradients.items() if grad is None}


def compressions(config: MLAConfig | V4Config) -> tuple[int, int]:
    if isinstance(config, MLAConfig):
        return 0, 0
    return config.csa_compression, config.hca_compression


def mixes_streams(name: str) -> bool:
    return "_hc." in name or name.startswith("stream_head.")


def gaps(run: Run, to: Run) -> dict[str, float]:
    """Return |a - b| / |b| of every gradient theirs produce."""
    names = to.gradients.keys() - missing(to)
    return {name: distance(run.gradients[name], to.gradients[name]) for name in names}


def log_mean(errors: dict[str, float]) -> float:
    return float(torch.tensor(list(errors.values())).clamp_min(1e-9).log().mean())


def same_in_float32(config: MLAConfig | V4Config, lengths: tuple[int, ...], size: int) -> None:
    ours = stirred(config, vocabulary=replace(VOCABULARY, size=size))
    theirs, wide, batch = rival(ours), copy.deepcopy(ours).double(), batch_of(lengths, size)
    expected, noted = run_theirs(theirs, batch)
    replay = noted.choices(batch.documents, batch.mask_BS, config)
    found, exact = run_ours(ours, batch, replay), run_ours(wide, batch, replay)
    assert distance(found.logit_NV, expected.logit_NV) < 1e-5
    far = {name for name, gap in gaps(found, expected).items() if gap > 1e-5}
    assert [name for name in far if not mixes_streams(name)] == []
    # Farther off than theirs in one tensor is as likely as nearer: their worst is the measure of
    # each, and their mean of the mean.
    of_ours, of_theirs = gaps(found, exact), gaps(expected, exact)
    # From one draw of weights and one kind of CPU to the next the worst lies between 6e-6 and 3e-4,
    # of either side: that of a single number which is a small difference of large ones.
    bound = max(1e-3, 3 * max(of_theirs.values()))
    assert all(of_ours[name] < bound for name in far)
    assert log_mean(of_ours) < log_mean(of_theirs) + 0.3


@pytest.mark.parametrize(("config", "lengths"), TINY.values(), ids=TINY)
def test_logits_and_gradients_are_theirs_in_float32(config, lengths):
    same_in_float32(config, lengths, VOCABULARY.size)


@pytest.mark.parametrize("config", MEDIUM.values(), ids=MEDIUM)
def test_so_they_are_at_some_ten_million_parameters(config):
    same_in_float32(config, (300,), 4096)


@pytest.mark.parametrize(("config", "lengths"), TINY.values(), ids=TINY)
def test_every_number_is_theirs_in_float64(config, lengths):
    ours = stirred(config).double()
    batch = batch_of(lengths, VOCABULARY.size)
    with in_float64(rival(ours)) as theirs:
        expected, noted = run_theirs(theirs, batch)
    assert expected.logit_NV.dtype == torch.float64
    found = run_ours(ours, batch, noted.choices(batch.documents, batch.mask_BS, config))
    assert distance(found.logit_NV, expected.logit_NV) < 1e-12
    assert found.gradients.keys() == expected.gradients.keys()
    assert missing(found) == missing(expected)
    if max(lengths) > max(compressions(config)):
        assert all(".indexer." in name for name in missing(found))
    assert max(gaps(found, expected).values()) < 1e-10


def differing(ours_NK: torch.Tensor, theirs_NK: torch.Tensor) -> torch.Tensor:
    """Return which tokens have other choices, whatever their order."""
    return (ours_NK.sort(-1).values != theirs_NK.sort(-1).values).any(-1)


def excess(score_NE: torch.Tensor, ours_NK: torch.Tensor, theirs_NK: torch.Tensor) -> torch.Tensor:
    """Return by how much the scores of their choices exceed those of ours, a token each."""
    of_ours, of_theirs = (
        score_NE.gather(1, chosen.clamp_min(0)).masked_fill(chosen < 0, 0.0).sum(-1)
        for chosen in (ours_NK, theirs_NK)
    )
    return of_theirs - of_ours


@pytest.mark.parametrize("name", ["v4", "v4 two streams, odd windows, no table"])
@torch.no_grad()
def test_an_indexer_left_to_itself_chooses_entries_of_their_scores(name):
    config, lengths = TINY[name]
    ours, batch = stirred(config), batch_of(lengths[:1], VOCABULARY.size)
    _, noted = forward_theirs(rival(ours), batch)
    replay = noted.choices(batch.documents, batch.mask_BS, config)
    for layer, score_1NT in noted.entry_scores.items():
        free = list(replay.entries)
        free[layer] = None
        given = Choices(experts=replay.experts, entries=tuple(free))
        output = ours(batch.token_BS[0], batch.documents, replay=given)
        chosen, expected = output.choices.entries[layer], replay.entries[layer]
        score_NT, size = score_1NT[0], score_1NT.abs().max()
        assert excess(score_NT, chosen, expected).abs().max() < 1e-5 * size
        # Where every product of every head is negative scores tie at 0, and any choice will do.
        assert differing(chosen, expected).sum() <= len(chosen) // 10


@pytest.mark.parametrize("name", ["v4", "mla", "mla groups, two shared, plain queries"])
@torch.no_grad()
def test_a_router_left_to_itself_chooses_their_experts(name):
    config, lengths = TINY[name]
    ours, batch = stirred(config), batch_of(lengths[:1], VOCABULARY.size)
    _, noted = forward_theirs(rival(ours), batch)
    replay = noted.choices(batch.documents, batch.mask_BS, config)
    for layer, score_NE in noted.expert_scores.items():
        free = list(replay.experts)
        free[layer] = None
        given = Choices(experts=tuple(free), entries=replay.entries)
        output = ours(batch.token_BS[0], batch.documents, replay=given)
        chosen, expected = output.choices.experts[layer], replay.experts[layer]
        assert excess(score_NE, chosen, expected).abs().max() < 1e-6
        assert differing(chosen, expected).sum() <= 1


@pytest.mark.parametrize("name", ["v4", "v4 two streams, odd windows, no table"])
@torch.no_grad()
def test_the_index_loss_is_the_divergence_of_their_scores_from_their_attention(name):
    config, lengths = TINY[name]
    ours, batch = stirred(config), batch_of(lengths[:1], VOCABULARY.size)
    theirs, weights = rival(ours), {}
    for layer, block in enumerate(theirs.model.layers):
        note = partial(lambda at, _module, _inputs, out: weights.update({at: out[1][0]}), layer)
        block.self_attn.register_forward_hook(note)
    _, noted = forward_theirs(theirs, batch)
    replay = noted.choices(batch.documents, batch.mask_BS, config)
    expected = 0.0
    for layer, score_1NT in noted.entry_scores.items():
        mass_NT = weights[layer][..., lengths[0] :].sum(0)  # of all heads, keys of tokens aside
        chosen_NT = torch.zeros_like(mass_NT, dtype=torch.bool)
        for token, entries in enumerate(replay.entries[layer].tolist()):
            chosen_NT[token, [entry for entry in entries if entry >= 0]] = True
        losses = [
            divergence(mass_T[chosen_T], score_T[chosen_T])
            for mass_T, score_T, chosen_T in zip(mass_NT, score_1NT[0], chosen_NT, strict=True)
            if chosen_T.any()
        ]
        expected += sum(losses) / len(losses)
    found = ours(batch.token_BS[0], batch.documents, replay=replay, losses=True).index_loss
    assert expected > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def divergence(mass_T: torch.Tensor, score_T: torch.Tensor) -> torch.Tensor:
    share_T = mass_T / mass_T.sum()
    return (share_T * (share_T.log() - score_T.log_softmax(-1))).sum()
