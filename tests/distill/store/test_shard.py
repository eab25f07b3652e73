"""A shard says at every place what was said there, as closely as its format allows."""

from dataclasses import fields, replace

import pytest
import torch

from distill.signals import Dense, Hidden, Sparse, Text, sample, sparsify
from distill.store import shard as shards
from distill.store.shard import Key, Sequences, decode, decode_text, indexed, join, load
from tests.fakes import stores
from tests.fakes.stores import HEAD, MODES, POSITIONS, VOCAB


def encode(key, text, signal):
    return indexed(shards.encode(key, text, signal))


EVERY = torch.arange(POSITIONS)
SOME = torch.tensor([14, 3, 3, 0, 15])


def shard(mode, number=0, vocab=VOCAB):
    key = stores.key(mode, vocab)
    signal = stores.signal(number, mode, vocab)
    return key, signal, encode(key, stores.text(number, vocab), signal)


def same(one, other) -> bool:
    names = [field.name for field in fields(one) if field.name != "head"]
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    return all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in pairs)


@pytest.mark.parametrize("vocab", [VOCAB, 70_000, 200_000])
def test_a_head_and_its_tail_come_back_ids_exactly_and_numbers_as_halves(vocab):
    key, said, tensors = shard("head_tail", vocab=vocab)
    found = decode(key, tensors, EVERY, None)
    assert torch.equal(found.head_ids_NH, said.head_ids_NH)
    assert torch.equal(found.tail_ids_NR, said.tail_ids_NR)
    assert torch.equal(found.head_p_NH, said.head_p_NH.half().float())
    assert torch.equal(found.tail_mass_N, said.tail_mass_N.half().float())
    assert torch.equal(found.entropy_N, said.entropy_N.half().float())


def test_top_k_keeps_the_mass_of_the_rest_and_no_draws():
    key, said, tensors = shard("topk")
    found = decode(key, tensors, EVERY, None)
    assert torch.equal(found.head_ids_NH, said.head_ids_NH)
    assert torch.equal(found.tail_mass_N, said.tail_mass_N.half().float())
    assert found.tail_ids_NR.shape == (POSITIONS, 0)


def dense(signal: Sparse, size: int) -> torch.Tensor:
    ids, weights = signal.targets()
    return torch.zeros(len(ids), size).scatter_add_(1, ids, weights)


@pytest.mark.parametrize("vocab", [VOCAB, 70_000])
def test_draws_come_back_as_the_shares_they_were(vocab):
    key, said, tensors = shard("sampled", vocab=vocab)
    found = decode(key, tensors, EVERY, None)
    torch.testing.assert_close(dense(found, vocab), dense(said, vocab))
    assert torch.equal(found.tail_mass_N, torch.zeros(POSITIONS))
    assert torch.equal(found.entropy_N, said.entropy_N.half().float())
    used = found.head_p_NH > 0
    assert used.any(0).all(), "no wider than the row that needs most"
    assert len(tensors["ids"]) == int((said.head_p_NH > 0).sum())


def test_rows_with_different_numbers_of_draws_are_taken_by_place():
    key, _, tensors = shard("sampled")
    every, some = decode(key, tensors, EVERY, None), decode(key, tensors, SOME, None)
    assert len(set(tensors["unique"].tolist())) > 1
    assert torch.equal(dense(some, VOCAB), dense(every, VOCAB)[SOME])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_hidden_states_come_back_exactly_with_the_head_that_is_given(dtype):
    key, said, _ = shard("hidden")
    said = Hidden(said.states_NT.to(dtype), HEAD)
    found = decode(key, encode(key, stores.text(0), said), SOME, HEAD)
    assert found.head is HEAD
    assert found.states_NT.dtype == dtype
    assert torch.equal(found.states_NT, said.states_NT[SOME])


def test_log_probabilities_come_back_exactly_and_unknown_ones_stay_unknown():
    key, said, tensors = shard("text")
    found = decode(key, tensors, EVERY, None).logp_N
    assert torch.equal(found.isnan(), said.logp_N.isnan())
    assert found.isnan().sum() == 1
    assert torch.equal(found.nan_to_num(), said.logp_N.nan_to_num())


def test_a_teacher_that_only_writes_says_nothing_but_the_text():
    key = replace(stores.key("text"), settings={})
    tensors = encode(key, stores.text(0), Text())
    assert decode(key, tensors, SOME, None) == Text(None)
    assert not {"logp", "entropy"} & set(tensors)


@pytest.mark.parametrize("mode", ["head_tail", "topk", "hidden", "text"])
def test_any_rows_in_any_order_are_those_of_the_whole(mode):
    key, _, tensors = shard(mode)
    every, some = decode(key, tensors, EVERY, HEAD), decode(key, tensors, SOME, HEAD)
    assert same(some, every.take(SOME))


@pytest.mark.parametrize("mode", MODES)
def test_every_shard_holds_its_own_text(mode):
    key, _, tensors = shard(mode)
    text, found = stores.text(0), decode_text(key, tensors)
    for field in fields(Sequences):
        assert torch.equal(getattr(found, field.name), getattr(text, field.name))
    assert found.sha256() == text.sha256()


def test_the_digest_of_a_text_is_of_all_it_says():
    text = stores.text(0)
    changed = [
        replace(text, token_K=text.token_K.flip(0)),
        replace(text, length_B=text.length_B.flip(0)),
        replace(text, counted_N=~text.counted_N),
        replace(text, start_N=text.counted_N),
    ]
    assert len({text.sha256(), *(other.sha256() for other in changed)}) == 5


def test_sequences_are_split_where_they_were_joined():
    tokens = [torch.tensor([1, 2, 3]), torch.tensor([4, 5])]
    made = Sequences.of(tokens)
    assert [part.tolist() for part in made.split()] == [[1, 2, 3], [4, 5]]
    assert made.start_N.tolist() == [True, False, True]
    assert made.counted_N.tolist() == [True, True, True]


def test_the_sum_of_head_and_tail_is_one_without_a_bias_to_either_side():
    # 24 halves round up as often as down. Were the tail's mass what rounded heads leave of 1, no
    # error would be in the sum, but all of it in the tail.
    generator = torch.Generator().manual_seed(0)
    key = Key(mode="head_tail", teacher_sha256="", vocab_size=2000, settings={})
    errors, tails = [], []
    for spread in (1.0, 2.0, 3.0, 4.0):
        logits = spread * torch.randn(4000, 2000, generator=generator)
        said = sparsify(logits, head=24, tail=8, generator=generator)
        text = Sequences.of([torch.zeros(4001, dtype=torch.int64)])
        found = decode(key, encode(key, text, said), torch.arange(4000), None)
        total = found.head_p_NH.double().sum(1) + found.tail_mass_N.double()
        exact = said.head_p_NH.double().sum(1) + said.tail_mass_N.double()
        errors.append(total - exact)
        tails.append(found.tail_mass_N.double() / said.tail_mass_N.double() - 1)
    for error in (torch.cat(errors), torch.cat(tails)):
        standard_error = float(error.std()) / len(error) ** 0.5
        assert abs(float(error.mean())) < 4 * standard_error
        assert float(error.abs().max()) < 2**-9
        assert standard_error < 2e-6


@pytest.mark.parametrize(
    ("mode", "signal"),
    [
        ("hidden", stores.signal(0, "text")),
        ("text", Text()),
        ("head_tail", Dense(torch.zeros(POSITIONS, VOCAB))),
    ],
)
def test_a_signal_of_another_mode_is_refused(mode, signal):
    with pytest.raises(ValueError, match=f"cannot be kept in mode '{mode}'"):
        encode(stores.key(mode), stores.text(0), signal)


@pytest.mark.parametrize("mode", MODES)
def test_a_signal_of_fewer_positions_than_the_text_is_refused(mode):
    signal = stores.signal(0, mode).take(torch.arange(POSITIONS - 1))
    with pytest.raises(ValueError, match="not of the text's 16 positions"):
        encode(stores.key(mode), stores.text(0), signal)


@pytest.mark.parametrize("draws", [0, 256])
def test_a_count_that_no_byte_holds_is_refused(draws):
    key = replace(stores.key("sampled"), settings={"tail": draws})
    with pytest.raises(ValueError, match=f"{draws} draws; a count must fit a byte"):
        encode(key, stores.text(0), stores.signal(0, "sampled"))


def test_as_many_draws_as_a_byte_counts_may_fall_on_one_token():
    logits = torch.zeros(POSITIONS, VOCAB).index_fill(1, torch.tensor([7]), 100.0)
    said = sample(logits, draws=255, generator=torch.Generator().manual_seed(0))
    key = replace(stores.key("sampled"), settings={"tail": 255})
    found = decode(key, encode(key, stores.text(0), said), EVERY, None)
    assert found.head_ids_NH.tolist() == [[7]] * POSITIONS
    assert found.head_p_NH.tolist() == [[1.0]] * POSITIONS


@pytest.mark.parametrize("mode", MODES)
def test_signals_joined_are_one_after_another(mode):
    one, other = stores.signal(0, mode), stores.signal(1, mode)
    whole = join([one, other])
    assert same(whole.take(EVERY), one)
    assert same(whole.take(EVERY + POSITIONS), other)


def test_joined_heads_of_different_sizes_are_filled_up_with_nothing():
    one = sparsify(torch.randn(2, 9), head=3, tail=0, generator=torch.Generator())
    other = sparsify(torch.randn(2, 9), head=1, tail=0, generator=torch.Generator())
    whole = join([one, other])
    assert torch.equal(whole.head_p_NH[2:, :1], other.head_p_NH)
    assert torch.equal(whole.head_p_NH[2:, 1:], torch.zeros(2, 2))


def test_a_key_with_a_field_of_another_kind_is_refused():
    for change in ({"mode": "logits"}, {"vocab_size": "300"}, {"vocab_size": 0}, {"extra": 1}):
        with pytest.raises(ValueError, match="validation error"):
            Key(**{**stores.key().as_dict(), **change})


def test_a_shard_is_read_page_by_page(tmp_path):
    from safetensors.torch import save_file

    key = stores.key("hidden")
    wide = Hidden(torch.ones(POSITIONS, 2**20), HEAD)  # 64 MiB, 4 MiB a position
    save_file(encode(key, stores.text(0), wide), tmp_path / "wide")
    del wide
    before = _resident()
    tensors = load(tmp_path / "wide")
    found = decode(key, tensors, torch.tensor([3]), HEAD)
    assert float(found.states_NT.sum()) == 2**20
    assert _resident() - before < 24 * 2**20


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as stream:
        return int(stream.read().split()[1]) * 4096
