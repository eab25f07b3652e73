"""Prediction layers read what they may, predict what they should, and are the reports' layers."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers.modeling_layers import MtpLayer
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3DecoderLayer,
    DeepseekV3RMSNorm,
    DeepseekV3RotaryEmbedding,
)
from transformers.models.deepseek_v4.modeling_deepseek_v4 import (
    DeepseekV4DecoderLayer,
    DeepseekV4HyperHead,
    DeepseekV4RotaryEmbedding,
)

from student.config import MLAConfig, V4Config
from student.model import Ahead, Student
from tests.fakes.rivals import ours_called, theirs_config
from tests.fakes.students import MLA, V4, VOCABULARY, distance, documents, stirred, text

LENGTHS = (19, 1, 2, 40, 3)
TOKENS = sum(LENGTHS)
V4_DEEP, MLA_DEEP = replace(V4, num_mtp_layers=2), replace(MLA, num_mtp_layers=2)
BOTH = pytest.mark.parametrize("config", [V4_DEEP, MLA_DEEP], ids=["v4", "mla"])


def look(student: Student, token_N: torch.Tensor, *lengths: int, **wanted) -> tuple[Ahead, ...]:
    return student(token_N, documents(*lengths), ahead=True, **wanted).ahead


def places(depth: int, lengths=LENGTHS) -> list[int]:
    """Return the tokens that have `depth` known tokens after them in their document."""
    kept, start = [], 0
    for length in lengths:
        kept += range(start, start + max(0, length - depth))
        start += length
    return kept


# What is predicted


@BOTH
@torch.no_grad()
def test_depth_k_predicts_what_the_main_head_does_k_tokens_later(config):
    ahead = look(stirred(config), text(TOKENS), *LENGTHS)
    assert len(ahead) == 2
    for depth, made in enumerate(ahead, start=1):
        expected = [place + depth for place in places(depth)]
        assert made.target_P.tolist() == made.target.tolist() == expected
        assert made.hidden_PD.shape == (len(expected), config.hidden_size)


@BOTH
@torch.no_grad()
def test_documents_too_short_to_look_ahead_in_have_no_part(config):
    student = stirred(config)
    assert look(student, text(3), 1, 1, 1) == ()
    (only,) = look(student, text(5), 1, 2, 1, 1)
    assert only.target.tolist() == [2]
    assert len(student(text(3), documents(1, 1, 1), ahead=True).loads) == config.num_layers
    first, second = look(student, text(4), 3, 1)
    assert (first.target.tolist(), second.target.tolist()) == ([1, 2], [2])


@BOTH
@torch.no_grad()
def test_prediction_layers_run_when_asked_and_change_nothing_else(config):
    student, token_N, where = stirred(config), text(TOKENS), documents(*LENGTHS)
    without, asked = student(token_N, where), student(token_N, where, ahead=True)
    assert without.ahead == ()
    assert torch.equal(without.hidden_ND, asked.hidden_ND)
    assert len(asked.loads) == len(without.loads) + 2
    none = stirred(replace(config, num_mtp_layers=0))
    assert none(token_N, where, ahead=True).ahead == ()


@BOTH
def test_trained_to_count_a_student_predicts_the_tokens_after_the_next(config):
    student, size = stirred(replace(config, initializer_range=0.05)), 23
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    lengths = (20, 17, 11)
    begins = torch.Generator().manual_seed(0)
    for _ in range(45):
        token_N = torch.cat([count(n, begins, size) for n in lengths])
        output = student(token_N, documents(*lengths), ahead=True)
        # Every label is what the student says it is: the token after a row's target.
        rows = [(made.hidden_PD, made.target) for made in output.ahead]
        loss = sum(cross_entropy(student.logits(h), (token_N[t] + 1) % size) for h, t in rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        token_N = torch.cat([count(n, begins, size) for n in lengths])
        for depth, made in enumerate(look(student, token_N, *lengths), start=1):
            said_P = student.logits(made.hidden_PD).argmax(-1)
            assert torch.equal(said_P, (token_N[places(depth, lengths)] + depth + 1) % size)


def count(length: int, begins: torch.Generator, size: int) -> torch.Tensor:
    return (torch.randint(0, size, (1,), generator=begins) + torch.arange(length)) % size


# What is read


@BOTH
@torch.no_grad()
def test_depth_k_sees_k_tokens_further_and_none_beyond(config):
    student, token_N = stirred(config), text(TOKENS)
    before = student(token_N, documents(*LENGTHS), ahead=True)
    for place in (5, 18, 30, 61, TOKENS - 1):
        changed_N = token_N.clone()
        changed_N[place] = (token_N[place] + 1) % VOCABULARY.size
        after = look(student, changed_N, *LENGTHS, replay=before.choices.routing_only())
        for depth, (old, new) in enumerate(zip(before.ahead, after, strict=True), start=1):
            row = places(depth).index(place - depth)
            assert torch.equal(old.hidden_PD[:row], new.hidden_PD[:row])
            assert not torch.equal(old.hidden_PD[row], new.hidden_PD[row])


@BOTH
@torch.no_grad()
def test_documents_of_a_stream_look_ahead_as_they_do_alone(config):
    student, token_N = stirred(config).double(), text(TOKENS)
    packed = look(student, token_N, *LENGTHS)
    alone = [look(student, part, len(part)) for part in token_N.split(LENGTHS)]
    for depth in (1, 2):
        rows = [one[depth - 1].hidden_PD for one in alone if len(one) >= depth]
        assert distance(packed[depth - 1].hidden_PD, torch.cat(rows)) < 1e-13


@BOTH
def test_prediction_layers_teach_the_layers_below_them(config):
    student = stirred(config)
    student.logits(look(student, text(TOKENS), *LENGTHS)[1].hidden_PD).square().sum().backward()
    moved = {name for name, p in student.named_parameters() if p.grad is not None and p.grad.any()}
    names = {name for name, _ in student.named_parameters() if ".indexer." not in name}
    # In v4 a depth goes on from the streams, so what only reads them for a head is passed by.
    idle = {"norm.weight", "mtp.0.norm.weight"} | {n for n in names if "stream_head" in n}
    idle = {n for n in idle if "mtp.1" not in n} if isinstance(config, V4Config) else set()
    assert moved == names - idle


# What a layer computes


def load(module: torch.nn.Module, student: Student, prefix: str) -> torch.nn.Module:
    """Fill a module of transformers' with a student's weights under `prefix`."""
    state = student.state_dict()
    own = {name: state[prefix + ours(name)] for name in module.state_dict()}
    module.load_state_dict(own, strict=True)
    return module


def ours(name: str) -> str:
    if name == "eh_proj.weight":
        return name
    name = name.replace("mtp_block.", "block.").replace("post_norm.", "norm.")
    return ours_called(name).removeprefix("hc_")


@torch.no_grad()
def test_mla_layers_are_those_transformers_drafts_with():
    config: MLAConfig = replace(MLA_DEEP, initializer_range=0.02)
    student, token_N = stirred(config), text(40)
    theirs = theirs_config(config, VOCABULARY)
    output = student(token_N, documents(40), ahead=True)
    state_1SD = output.hidden_ND[None]
    for depth, made in enumerate(output.ahead, start=1):
        layer = MtpLayer(theirs, DeepseekV3DecoderLayer, DeepseekV3RMSNorm, config.num_layers)
        load(layer, student, f"mtp.{depth - 1}.")
        later_1SD = student.embed(token_N[depth:])[None]
        place_1S = torch.arange(depth, 40)[None]  # theirs stand where the later token does
        hidden = torch.full((40 - depth, 40 - depth), float("-inf")).triu(1)
        state_1SD = layer(
            inputs_embeds=later_1SD,
            previous_hidden_state=state_1SD[:, :-1],
            position_embeddings=DeepseekV3RotaryEmbedding(theirs)(later_1SD, place_1S),
            attention_mask=hidden[None, None],
            position_ids=place_1S,
            past_key_values=None,
        )
        assert distance(made.hidden_PD, state_1SD[0]) < 1e-5


@torch.no_grad()
def test_v4_layers_join_the_embedding_to_every_stream_and_read_with_a_head_of_their_own():
    config: V4Config = replace(V4_DEEP, initializer_range=0.02)
    student, token_N, streams = stirred(config), text(40), []
    student.stream_head.register_forward_pre_hook(lambda _, inputs: streams.append(inputs[0]))
    output = student(token_N, documents(40), ahead=True)
    (state_SMD,) = streams
    assert state_SMD.shape == (40, 4, 32)
    alone = replace(config, layer_types=("swa",), num_hash_layers=0, num_mtp_layers=0)
    theirs = theirs_config(alone, VOCABULARY)
    rotary = DeepseekV4RotaryEmbedding(theirs)
    for depth, made in enumerate(output.ahead, start=1):
        prefix = f"mtp.{depth - 1}."
        weight = {n.removeprefix(prefix): t for n, t in student.state_dict().items()}
        later_SD = normed(student.embed.weight[token_N[depth:]]) * weight["enorm.weight"]
        before_SMD = normed(state_SMD[:-1]) * weight["hnorm.weight"]
        joined_SMD = before_SMD @ weight["h_proj.weight"].t()
        joined_SMD = joined_SMD + (later_SD @ weight["e_proj.weight"].t())[:, None]
        block = load(DeepseekV4DecoderLayer(theirs, 0), student, prefix + "block.")
        place_S = torch.arange(40 - depth)
        turns = rotary(joined_SMD, place_S[None], layer_type="main")
        back_SS = place_S[:, None] - place_S
        hidden_SS = torch.zeros(back_SS.shape)
        hidden_SS[(back_SS < 0) | (back_SS >= config.sliding_window)] = float("-inf")
        state_SMD = block(
            joined_SMD[None],
            position_embeddings={"main": turns},
            position_ids=place_S[None],
            attention_mask=hidden_SS[None, None],
        )[0]
        head = load(DeepseekV4HyperHead(theirs), student, prefix + "stream_head.")
        read_SD = normed(head(state_SMD[None])[0]) * weight["norm.weight"]
        assert distance(made.hidden_PD, read_SD) < 1e-5


def normed(x_D: torch.Tensor) -> torch.Tensor:
    return x_D / (x_D.square().mean(-1, keepdim=True) + 1e-6).sqrt()
