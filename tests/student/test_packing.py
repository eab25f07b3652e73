"""A document is computed the same alone, beside others in a stream, and padded on either side.

transformers' V4 does neither padding on the left nor packing, so what a document is compared with
is itself alone: in our network, and in theirs, which does that case.
"""

from dataclasses import replace

import pytest
import torch

from student.choices import Choices
from student.config import MLAConfig, V4Config
from student.documents import unpad
from student.model import Output, Student
from tests.fakes.rivals import noting, ours_called, rival
from tests.fakes.students import CPU, MLA, V4, V4_SPARSE, distance, documents, split, stirred, text

# The first fills no window, the second one, the others many; none divides by the compressions.
LENGTHS = (1, 5, 43, 2, 30, 8, 27)
TOKENS = sum(LENGTHS)
FAMILIES = {
    "v4 every entry": replace(V4, index_top_k=64),
    "v4 top-k": V4_SPARSE,
    "v4 odd windows": replace(V4_SPARSE, sliding_window=5, csa_compression=3, hca_compression=7),
    "mla": MLA,
}
Config = MLAConfig | V4Config


def alone(student: Student, token_N: torch.Tensor, lengths=LENGTHS, **wanted) -> list[Output]:
    """Run each document of a stream by itself."""
    return [student(part, documents(len(part)), **wanted) for part in split(token_N, lengths)]


def worst(student: Student, packed_ND: torch.Tensor, token_N: torch.Tensor) -> float:
    """Return the largest difference from any document alone, as a share of its numbers' size."""
    pairs = zip(split(packed_ND, LENGTHS), alone(student, token_N), strict=True)
    return max(distance(part, one.hidden_ND) for part, one in pairs)


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
@torch.no_grad()
def test_a_document_in_a_stream_is_as_it_is_alone(config):
    student, token_N = stirred(config), text(TOKENS)
    packed = student(token_N, documents(*LENGTHS))
    assert worst(student, packed.hidden_ND, token_N) < 1e-6
    student.double()
    packed = student(token_N, documents(*LENGTHS))
    assert worst(student, packed.hidden_ND, token_N) < 1e-13


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
@torch.no_grad()
def test_another_order_of_documents_is_the_same_documents(config):
    student, token_N = stirred(config).double(), text(TOKENS)
    packed_ND = student(token_N, documents(*LENGTHS)).hidden_ND
    turned = torch.cat(list(split(token_N, LENGTHS))[::-1])
    turned_ND = student(turned, documents(*LENGTHS[::-1])).hidden_ND
    back_ND = torch.cat(list(split(turned_ND, LENGTHS[::-1]))[::-1])
    assert distance(back_ND, packed_ND) < 1e-13


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_gradients_of_a_stream_are_the_sums_of_its_documents(config):
    student, token_N = stirred(config).double(), text(TOKENS)
    generator = torch.Generator().manual_seed(1)
    weight_ND = torch.randn(TOKENS, config.hidden_size, generator=generator).double()
    (student(token_N, documents(*LENGTHS)).hidden_ND * weight_ND).sum().backward()
    packed = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
    student.zero_grad()
    for one, part in zip(alone(student, token_N), split(weight_ND, LENGTHS), strict=True):
        (one.hidden_ND * part).sum().backward()
    assert packed
    for name, parameter in student.named_parameters():
        if name in packed:
            assert distance(packed[name], parameter.grad) < 1e-11, name


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
@torch.no_grad()
def test_losses_of_a_stream_are_the_means_over_its_documents_tokens(config):
    student, token_N = stirred(config).double(), text(TOKENS)
    packed = student(token_N, documents(*LENGTHS), losses=True)
    ones = alone(student, token_N, losses=True)
    balance = sum(one.balance_loss * n for one, n in zip(ones, LENGTHS, strict=True)) / TOKENS
    torch.testing.assert_close(packed.balance_loss, balance, rtol=1e-12, atol=0)
    # An indexer learns from the tokens that see an entry, and only they count.
    span = config.csa_compression if isinstance(config, V4Config) else TOKENS
    seeing = [max(0, length - span + 1) for length in LENGTHS]
    index = sum(one.index_loss * n for one, n in zip(ones, seeing, strict=True))
    torch.testing.assert_close(packed.index_loss, index / max(sum(seeing), 1), rtol=1e-12, atol=0)
    assert bool(packed.index_loss) == isinstance(config, V4Config)


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
@torch.no_grad()
def test_counts_of_a_stream_are_the_sums_of_its_documents(config):
    student, token_N = stirred(config).double(), text(TOKENS)
    loads = student(token_N, documents(*LENGTHS)).loads
    ones = [one.loads for one in alone(student, token_N)]
    for layer, load_E in enumerate(loads):
        if load_E is not None:
            assert torch.equal(load_E, sum(one[layer] for one in ones))


def padded(token_N: torch.Tensor, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the documents as rows padded on the left, the right or both sides, and their mask."""
    longest = max(LENGTHS) + 4
    token_BS = torch.full((len(LENGTHS), longest), 5)
    mask_BS = torch.zeros_like(token_BS)
    for row, part in enumerate(split(token_N, LENGTHS)):
        spare = longest - len(part)
        first = {"left": spare, "right": 0, "both": spare // 2}[side]
        token_BS[row, first : first + len(part)] = part
        mask_BS[row, first : first + len(part)] = 1
    return token_BS, mask_BS


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("side", ["left", "right", "both"])
@torch.no_grad()
def test_padding_on_any_side_leaves_every_document_as_it_is_alone(config, side):
    student, token_N = stirred(config).double(), text(TOKENS)
    token_BS, mask_BS = padded(token_N, side)
    found, place_N = unpad(mask_BS, CPU)
    assert found.lengths == LENGTHS
    hidden_ND = student(token_BS.flatten()[place_N], found).hidden_ND
    assert worst(student, hidden_ND, token_N) < 1e-13


@pytest.mark.parametrize("config", [V4_SPARSE, MLA], ids=["v4", "mla"])
def test_a_packed_stream_is_what_transformers_makes_of_each_document_alone(config):
    config = replace(config, num_mtp_layers=0, initializer_range=0.02)
    student, token_N = stirred(config), text(TOKENS)
    theirs, generator = rival(student), torch.Generator().manual_seed(1)
    expected, chosen = [], []
    for part in split(token_N, LENGTHS):
        with noting(theirs) as noted:
            expected.append(theirs(part[None], use_cache=False).logits[0])
        mask_1S = torch.ones(1, len(part))
        chosen.append(noted.choices(documents(len(part)), mask_1S, config))
    expected_NV = torch.cat(expected)
    gradient_NV = torch.randn(expected_NV.shape, generator=generator)
    expected_NV.backward(gradient_NV)
    packed = student(token_N, documents(*LENGTHS), replay=packed_choices(chosen, config))
    logit_NV = student.logits(packed.hidden_ND)
    logit_NV.backward(gradient_NV)
    assert distance(logit_NV, expected_NV) < 1e-5
    ours = {name: p.grad for name, p in student.named_parameters()}
    for name, parameter in theirs.named_parameters():
        mixing = "hc" in name  # small differences of large sums; test_parity.py has them exactly
        if parameter.grad is not None and not mixing:
            assert distance(ours[ours_called(name)], parameter.grad) < 1e-5, name


def packed_choices(chosen: list[Choices], config: Config) -> Choices:
    """Return the choices of documents alone as those of their stream."""
    experts = tuple(
        None if layer[0] is None else torch.cat(layer)
        for layer in zip(*(one.experts for one in chosen), strict=True)
    )
    if isinstance(config, MLAConfig):
        return Choices(experts=experts, entries=chosen[0].entries)
    counts = [length // config.csa_compression for length in LENGTHS]
    firsts = [sum(counts[:place]) for place in range(len(counts))]
    entries = []
    for layer in zip(*(one.entries for one in chosen), strict=True):
        if layer[0] is None:
            entries.append(None)
            continue
        moved = [torch.where(c < 0, c, c + first) for c, first in zip(layer, firsts, strict=True)]
        width = max(c.shape[1] for c in moved)
        filled = [torch.nn.functional.pad(c, (0, width - c.shape[1]), value=-1) for c in moved]
        entries.append(torch.cat(filled))
    return Choices(experts=experts, entries=tuple(entries))
