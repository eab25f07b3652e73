"""What a token reads is dense attention over what it may see, without anything of N by N numbers.

The dense restatement holds all N by N + T + 1 logits, in float64.
"""

import random
from dataclasses import replace

import pytest
import torch

from student.documents import Documents
from student.sparse_attention import Plan, Pool, attend, plan

CPU = torch.device("cpu")
HEADS, WIDTH, SCALE, COMPRESSION, CHOSEN = 3, 6, 0.4, 4, 3
# One token; below, at and beside a block of 32; packed, with documents too short for an entry.
STREAMS = [(1,), (5,), (32,), (33,), (140,), (40, 3, 2, 90, 17), (4,) * 12]
POOLS = ["window", "all", "chosen"]


def normal(*shape: int, seed: int, dtype=torch.float64) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.to(dtype).requires_grad_()


def choices(documents: Documents, seed: int = 0) -> torch.Tensor:
    """Return for each token some of the entries it sees, in no order, among -1."""
    draw, entries = random.Random(seed), documents.entries(COMPRESSION)
    rows = []
    for first, end in zip(entries.first_N.tolist(), entries.end_N.tolist(), strict=True):
        taken = draw.sample(range(first, end), min(end - first, draw.randint(0, CHOSEN)))
        rows.append(draw.sample(taken + [-1] * (CHOSEN - len(taken)), CHOSEN))
    return torch.tensor(rows)


class Case:
    """Inputs of one attention, with gradients to be collected."""

    def __init__(self, lengths, kind: str, window: int, dtype=torch.float64) -> None:
        self.documents = documents = Documents(lengths, CPU)
        total, entries = documents.num_tokens, documents.entries(COMPRESSION)
        self.q_NHF = normal(total, HEADS, WIDTH, seed=1, dtype=dtype)
        self.key_NF = normal(total, WIDTH, seed=2, dtype=dtype)
        self.sink_H = normal(HEADS, seed=3)
        self.entry_TF = normal(entries.count, WIDTH, seed=4, dtype=dtype)
        self.choice_NK = choices(documents) if kind == "chosen" else None
        self.kind, self.window, self.entries = kind, window, entries
        pool = None if kind == "window" else Pool(self.entry_TF, entries, self.choice_NK)
        self.pool = pool
        self.cut = plan(documents, pool, window=window, heads=HEADS, device=CPU)

    def inputs(self) -> list[torch.Tensor]:
        given = [self.q_NHF, self.key_NF, self.sink_H]
        return given if self.cut.entries is None else [*given, self.entry_TF]

    def own(self, cut: Plan | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what is read, and the mass of every entry laid out as `[N, T]`."""
        cut = cut or self.cut
        given = (self.q_NHF, self.key_NF, self.sink_H, self.pool, cut)
        out_NHF, mass = attend(*given, scale=SCALE, want_mass=True)
        mass_NT = torch.zeros(self.documents.num_tokens, self.entries.count, dtype=mass[0].dtype)
        for tile, part in zip(cut.tiles(), mass, strict=True):
            rows = mass_NT[tile.start : tile.stop]
            if self.choice_NK is None or not cut.chosen:
                rows[:, tile.low : tile.high] = part
            else:
                place = self.choice_NK[tile.start : tile.stop]
                assert not part[place < 0].any()
                rows.scatter_add_(1, place.clamp_min(0), part)
        return out_NHF, mass_NT

    def seen(self) -> torch.Tensor:
        """Return `[N, N + T]`: the keys and entries a token may look at."""
        place_N, document_N = torch.arange(self.documents.num_tokens), self.documents.document_N
        distance = place_N[:, None] - place_N
        near = (document_N[:, None] == document_N) & (distance >= 0) & (distance < self.window)
        place_T, entries = torch.arange(self.entries.count), self.entries
        pooled = (place_T >= entries.first_N[:, None]) & (place_T < entries.end_N[:, None])
        if self.choice_NK is not None:
            pooled = (self.choice_NK[:, :, None] == place_T).any(1)
        return torch.cat((near, pooled & (self.kind != "window")), dim=1)

    def dense(self) -> tuple[torch.Tensor, torch.Tensor]:
        rows_YF = torch.cat((self.key_NF, self.entry_TF))
        logit_NHY = SCALE * self.q_NHF @ rows_YF.T
        logit_NHY = logit_NHY.masked_fill(~self.seen()[:, None], float("-inf"))
        sink_NH1 = self.sink_H.to(logit_NHY.dtype)[None, :, None].expand(len(logit_NHY), -1, 1)
        weight_NHY = torch.cat((logit_NHY, sink_NH1), dim=-1).softmax(-1)[..., :-1]
        mass_NT = weight_NHY[..., self.documents.num_tokens :].sum(1)
        return weight_NHY @ rows_YF, mass_NT.detach()

    def gradients(self, out_NHF: torch.Tensor) -> list[torch.Tensor]:
        weight = normal(*out_NHF.shape, seed=5).detach().to(out_NHF.dtype)
        return list(torch.autograd.grad((out_NHF * weight).sum(), self.inputs(), retain_graph=True))


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("window", [1, 5, 16, 128])
@pytest.mark.parametrize("lengths", STREAMS, ids=str)
def test_output_mass_and_gradients_are_those_of_dense_attention(lengths, window, kind):
    case = Case(lengths, kind, window)
    (out, mass), (expected, expected_mass) = case.own(), case.dense()
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mass, expected_mass, rtol=1e-12, atol=1e-12)
    grads = case.gradients(out), case.gradients(expected)
    torch.testing.assert_close(*grads, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", POOLS)
def test_gradients_are_those_of_finite_differences(kind):
    case = Case((9, 2, 12), kind, 5)

    def read(*given: torch.Tensor) -> torch.Tensor:
        q_NHF, key_NF, sink_H, *entry = given
        pool = case.pool and case.pool._replace(entry_TF=entry[0])
        return attend(q_NHF, key_NF, sink_H, pool, case.cut, scale=SCALE)[0]

    assert torch.autograd.gradcheck(read, case.inputs())


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("window", [5, 128])
def test_how_the_stream_is_cut_changes_nothing(window, kind):
    case = Case((40, 3, 2, 90, 17), kind, window)
    cuts = [replace(case.cut, tile_elements=size) for size in (1, 2_000, 40_000, 10**9)]
    counts = [len(list(cut.tiles())) for cut in cuts]
    assert counts[0] == case.cut.padded // case.cut.block
    assert counts[-1] == 1
    assert len(set(counts)) >= 3
    outs = [case.own(cut) for cut in cuts]
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], rtol=1e-13, atol=1e-13)
        grads = case.gradients(out[0]), case.gradients(outs[0][0])
        torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


def test_a_window_beyond_the_text_costs_no_more_than_the_text():
    whole, wider = (Case((40, 3, 17), "all", window) for window in (40, 8192))
    assert wider.cut.reach == whole.cut.reach == 64
    assert torch.equal(wider.own()[0], whole.own()[0])


@pytest.mark.parametrize("kind", POOLS)
def test_tiles_cover_the_stream_in_order_and_fit_their_room(kind):
    case = Case((40, 3, 2, 90, 17) * 3, kind, 16)
    for size in (1, 10_000, 40_000):
        cut, start = replace(case.cut, tile_elements=size), 0
        for tile in cut.tiles():
            assert tile.start == start
            start = tile.stop
            columns = cut.reach + cut.block + 1 + (cut.chosen or tile.high - tile.low)
            blocks = -(-(tile.stop - tile.start) // cut.block)
            assert blocks == 1 or blocks * cut.block * columns * HEADS <= size
        assert start == case.documents.num_tokens


@pytest.mark.parametrize("kind", POOLS)
def test_packed_documents_read_what_they_read_alone(kind):
    lengths = (40, 3, 2, 90, 17)
    case = Case(lengths, kind, 16)
    out, start, first = case.own()[0], 0, 0
    for length in lengths:
        alone = Case((length,), kind, 16)
        count, rows = alone.entries.count, slice(start, start + length)
        alone.q_NHF, alone.key_NF, alone.sink_H = case.q_NHF[rows], case.key_NF[rows], case.sink_H
        if alone.pool is not None:
            choice_NK = None if case.choice_NK is None else case.choice_NK[rows]
            if choice_NK is not None:
                choice_NK = torch.where(choice_NK < 0, choice_NK, choice_NK - first)
            alone.choice_NK = choice_NK
            alone.pool = Pool(case.entry_TF[first : first + count], alone.entries, choice_NK)
        torch.testing.assert_close(alone.own()[0], out[rows], rtol=1e-13, atol=1e-13)
        start, first = start + length, first + count


@pytest.mark.parametrize("kind", POOLS)
def test_a_change_reaches_only_the_tokens_that_see_it(kind):
    case = Case((40, 50), kind, 16)
    before, seen = case.own()[0], case.seen()
    for place in (0, 13, 39, 40, 75):
        changed = Case((40, 50), kind, 16)
        changed.key_NF.data[place] += 1
        touched = (changed.own()[0] != before).flatten(1).any(1)
        assert torch.equal(touched, seen[:, place])


def test_a_place_of_minus_one_takes_no_part():
    case = Case((60,), "chosen", 16)
    out = case.own()[0]
    taken = torch.zeros(case.entries.count, dtype=torch.bool)
    taken[case.choice_NK[case.choice_NK >= 0]] = True
    case.choice_NK[case.choice_NK == 0] = -1
    case.entry_TF.data[0] = 1e6
    without_first = case.own()[0]
    touched = (out != without_first).flatten(1).any(1)
    assert 0 < touched.sum() < 40
    grad = case.gradients(without_first)[3]
    assert not grad[0].any()
    assert grad[1:][taken[1:]].any(1).all()


def test_a_sink_takes_weight_and_gives_nothing():
    case = Case((50,), "all", 16)
    case.sink_H.data[:] = torch.tensor([-1e9, 0.0, 1e9])
    out, _ = case.own()
    expected, _ = case.dense()
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    assert not out[:, 2].any()
    # Without a sink the first token reads its own key, whole.
    torch.testing.assert_close(out[0, 0], case.key_NF[0], rtol=1e-12, atol=0)
    assert (out[0, 1].norm() < 0.99 * case.key_NF[0].norm()).item()


def test_mass_is_asked_for_and_carries_no_gradient():
    case = Case((50,), "all", 16)
    given = (case.q_NHF, case.key_NF, case.sink_H, case.pool, case.cut)
    assert attend(*given, scale=SCALE)[1] == []
    mass = attend(*given, scale=SCALE, want_mass=True)[1]
    assert not any(part.requires_grad for part in mass)


@pytest.mark.parametrize("kind", POOLS)
def test_bfloat16_is_within_its_own_rounding_and_as_good_as_dense_attention_in_it(kind):
    low, exact = (Case((100, 60), kind, 16, dtype) for dtype in (torch.bfloat16, torch.float64))
    for name in ("q_NHF", "key_NF", "entry_TF"):
        vars(exact)[name].data = vars(low)[name].data.double()
    results = []
    for case, out in ((low, low.own()[0]), (low, low.dense()[0]), (exact, exact.dense()[0])):
        results.append([out, *case.gradients(out)])
    assert results[0][0].dtype == torch.bfloat16
    for place, (ours, dense, truth) in enumerate(zip(*results, strict=True)):
        ours_off, dense_off = ((x.double() - truth).norm() / truth.norm() for x in (ours, dense))
        # A sink's gradient is a sum of what nearly cancels: a digit less, in both.
        assert ours_off < (3 if place == 3 else 1) * torch.finfo(torch.bfloat16).eps
        assert place == 3 or ours_off < 1.5 * dense_off
