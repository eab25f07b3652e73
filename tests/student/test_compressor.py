"""An entry is the gated sum of its window, as the equations say one feature at a time."""

import math

import pytest
import torch
from transformers import DeepseekV4Config
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as v4

from student.compressor import Compressor
from student.documents import Documents
from student.rotary import Angles, angles, frequencies, rotate

CPU = torch.device("cpu")
HIDDEN, WIDTH, ROTARY, EPS = 12, 6, 4, 1e-6
# Whole windows, tokens left over, documents too short for an entry, and none long enough.
STREAMS = [(12,), (14,), (3, 9, 4, 2, 8), (8, 8, 8), (2, 1)]
KINDS = [(True, 4), (False, 4), (True, 1), (False, 8)]


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compressor(overlap: bool, compression: int) -> Compressor:
    made = Compressor(HIDDEN, WIDTH, compression, EPS, overlap=overlap).double()
    for number, parameter in enumerate(made.parameters()):
        parameter.data = normal(*parameter.shape, seed=10 + number)
    return made


def turn(documents: Documents, compression: int) -> Angles:
    place_T = documents.entries(compression).position_T
    return angles(place_T, frequencies(ROTARY, 10_000.0, None))


def entries_of(layer: Compressor, x_ND: torch.Tensor, lengths) -> torch.Tensor:
    documents = Documents(lengths, CPU)
    entries = documents.entries(layer.compression)
    return layer(*layer.project(x_ND), entries, turn(documents, layer.compression))


def one_entry(layer: Compressor, rows_LD: torch.Tensor, window: int) -> torch.Tensor:
    """Return one entry of a document, feature by feature, not yet turned."""
    size, values = layer.compression, []
    for feature in range(WIDTH):
        gates, found = [], []
        # The first series of the window before, then the last series of the window itself.
        for back in (1, 0) if layer.overlap else (0,):
            column = feature + (WIDTH if layer.overlap and not back else 0)
            for place in range(size) if window >= back else ():
                row_D = rows_LD[(window - back) * size + place]
                bias = layer.position_bias[place, column]
                gates.append(layer.gate.weight[column] @ row_D + bias)
                found.append(layer.kv.weight[column] @ row_D)
        share = torch.stack(gates).exp() / torch.stack(gates).exp().sum()
        values.append((share * torch.stack(found)).sum())
    entry_F = torch.stack(values)
    return entry_F / (entry_F.square().mean() + EPS).sqrt() * layer.norm.weight


def by_hand(layer: Compressor, x_ND: torch.Tensor, lengths) -> torch.Tensor:
    found, start = [torch.zeros(0, WIDTH).double()], 0
    for length in lengths:
        rows_LD = x_ND[start : start + length]
        for window in range(length // layer.compression):
            place = torch.tensor([window * layer.compression])
            where = angles(place, frequencies(ROTARY, 10_000.0, None))
            found.append(rotate(one_entry(layer, rows_LD, window)[None], where))
        start += length
    return torch.cat(found)


@pytest.mark.parametrize(("overlap", "compression"), KINDS)
@pytest.mark.parametrize("lengths", STREAMS, ids=str)
def test_entries_and_gradients_are_those_of_the_equations(lengths, overlap, compression):
    layer = compressor(overlap, compression)
    x_ND = normal(sum(lengths), HIDDEN, seed=0).requires_grad_()
    got, expected = entries_of(layer, x_ND, lengths), by_hand(layer, x_ND, lengths)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    if not len(expected):
        return
    weight, inputs = normal(*got.shape, seed=1), [x_ND, *layer.parameters()]
    grads = [
        torch.autograd.grad((out * weight).sum(), inputs, materialize_grads=True)
        for out in (got, expected)
    ]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("overlap", "compression"), KINDS)
def test_packed_documents_give_the_entries_each_gives_alone(overlap, compression):
    layer, lengths = compressor(overlap, compression), [9, 3, 16, 8]
    x_ND = normal(sum(lengths), HIDDEN, seed=0)
    alone = [entries_of(layer, part, (len(part),)) for part in x_ND.split(lengths)]
    packed = entries_of(layer, x_ND, lengths)
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-12, atol=1e-13)


def reached(layer: Compressor, lengths, place: int) -> list[int]:
    """Return the entries that a change of one token changes."""
    x_ND = normal(sum(lengths), HIDDEN, seed=0)
    before = entries_of(layer, x_ND, lengths)
    x_ND[place] += 1
    changed = (entries_of(layer, x_ND, lengths) != before).any(1)
    return changed.nonzero().flatten().tolist()


def test_a_token_reaches_its_own_window_and_with_overlap_the_next_of_its_document():
    lengths = (9, 8)  # entries 0 and 1, a token left over, entries 2 and 3
    places = [0, 4, 8, 9, 16]
    overlapping, apart = compressor(True, 4), compressor(False, 4)
    assert [reached(overlapping, lengths, place) for place in places] == [
        [0, 1], [1], [], [2, 3], [3],
    ]  # fmt: skip
    assert [reached(apart, lengths, place) for place in places] == [[0], [1], [], [2], [3]]


def test_equal_gates_make_the_mean_and_a_high_gate_takes_all():
    layer = compressor(False, 4)
    layer.gate.weight.data.zero_()
    layer.position_bias.data.zero_()
    x_ND, still = normal(4, HIDDEN, seed=0), angles(torch.zeros(1), torch.zeros(ROTARY // 2))
    value_4F = layer.kv(x_ND)
    entries = Documents((4,), CPU).entries(4)
    mean = layer.norm(value_4F.mean(0, keepdim=True))
    got = layer(value_4F, layer.gate(x_ND), entries, still)
    torch.testing.assert_close(got, mean, rtol=1e-12, atol=1e-12)
    layer.position_bias.data[2] = 1e4
    got = layer(value_4F, layer.gate(x_ND), entries, still)
    torch.testing.assert_close(got, layer.norm(value_4F[2:3]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("overlap", "theirs"),
    [(True, v4.DeepseekV4CSACompressor), (False, v4.DeepseekV4HCACompressor)],
)
def test_one_document_is_compressed_as_transformers_does_it(overlap, theirs):
    rates = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 4}
    config = DeepseekV4Config(
        num_hidden_layers=1,
        hidden_size=HIDDEN,
        head_dim=WIDTH,
        partial_rotary_factor=ROTARY / WIDTH,
        compress_rates=rates,
        compress_rope_theta=10_000.0,
        q_lora_rank=8,
        index_head_dim=WIDTH,
        index_n_heads=2,
    )
    layer, other = compressor(overlap, 4).float(), theirs(config)
    names = {"kv.weight": "kv_proj.weight", "gate.weight": "gate_proj.weight"}
    names |= {"norm.weight": "kv_norm.weight", "position_bias": "position_bias"}
    ours = {names[name]: value for name, value in layer.state_dict().items()}
    # An indexer has no part in the entries, but it runs.
    torch.nn.utils.vector_to_parameters(
        torch.zeros(sum(p.numel() for p in other.parameters())), other.parameters()
    )
    assert not other.load_state_dict(ours, strict=False).unexpected_keys
    x_ND = normal(18, HIDDEN, seed=0).float()
    given = (x_ND[None], torch.zeros(1, 18, 8), torch.arange(18)[None], None, 0)
    expected_TF = other(*given)[0][0, 0]
    torch.testing.assert_close(entries_of(layer, x_ND, (18,)), expected_TF, rtol=1e-5, atol=1e-5)


def test_gates_in_bfloat16_are_shared_out_in_float32():
    layer = compressor(False, 8).bfloat16()
    layer.norm.weight.data.fill_(1)
    value_8F, gate_8F = (normal(8, WIDTH, seed=seed).bfloat16() for seed in (0, 1))
    still = angles(torch.zeros(1), torch.zeros(ROTARY // 2))
    got = layer.pool(value_8F[None], gate_8F[None], still)
    share_8F = gate_8F.float().softmax(0).bfloat16()
    summed_F = (value_8F.double() * share_8F.double()).sum(0)
    exact = summed_F / math.sqrt(summed_F.square().mean() + EPS)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got[0].double(), exact, rtol=2**-7, atol=2**-8)
