"""The indexer chooses the best entries a token sees, and learns which those are from attention.

Scores, choices and the divergence are restated a token at a time, in float64.
"""

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from transformers import DeepseekV4Config
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as v4

from student import device as devices
from student.config import V4Config
from student.documents import Documents
from student.indexer import Indexer, Queries, choose, index_loss
from student.rotary import Wheel, angles, frequencies
from student.sparse_attention import Plan, Pool, attend, plan

CPU = torch.device("cpu")
HEADS, WIDTH, COMPRESSION, TOP_K = 3, 4, 4, 3
STREAMS = [(70,), (40, 3, 2, 33, 16), (5, 4, 11), (8,) * 9]


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Case:
    """What is scored, which of it tokens see, and the weight that attention gave it."""

    def __init__(self, lengths, *, chosen: bool = False, tile_elements: int = 2**19) -> None:
        self.documents = Documents(lengths, CPU)
        self.entries = self.documents.entries(COMPRESSION)
        total, count = self.documents.num_tokens, self.entries.count
        given = normal(total, HEADS, WIDTH, seed=0), normal(total, HEADS, seed=1)
        self.queries = Queries(*given, normal(count, WIDTH, seed=2))
        for tensor in self.queries:
            tensor.requires_grad_()
        ends = zip(self.entries.first_N.tolist(), self.entries.end_N.tolist(), strict=True)
        self.seen = [list(range(first, end)) for first, end in ends]
        self.choice_NK = self.some_chosen() if chosen else None
        self.mass_NT = normal(total, count, seed=3).square() + 0.01
        pool = Pool(self.queries.key_TF, self.entries, self.choice_NK)
        cut = plan(self.documents, pool, window=5, heads=HEADS, device=CPU)
        self.cut = replace(cut, tile_elements=tile_elements)

    def some_chosen(self) -> torch.Tensor:
        draw = random.Random(0)
        self.seen = [draw.sample(row, min(len(row), draw.randint(1, TOP_K))) for row in self.seen]
        rows = [row + [-1] * (TOP_K - len(row)) for row in self.seen]
        return torch.tensor([draw.sample(row, TOP_K) for row in rows])

    def mass(self) -> list[torch.Tensor]:
        """Return the weights tile by tile, as `attend` does: nothing where nothing is seen."""
        tiles, seen_NT = [], torch.zeros_like(self.mass_NT)
        for n, places in enumerate(self.seen):
            seen_NT[n, places] = 1
        for tile in self.cut.tiles():
            rows = slice(tile.start, tile.stop)
            part = (self.mass_NT * seen_NT)[rows]
            if self.choice_NK is None:
                tiles.append(part[:, tile.low : tile.high])
            else:
                place = self.choice_NK[rows]
                tiles.append(part.gather(1, place.clamp_min(0)) * (place >= 0))
        return tiles

    def own(self) -> torch.Tensor:
        return index_loss(self.queries, self.choice_NK, self.mass(), self.cut)

    def score(self, n: int, places: list[int]) -> torch.Tensor:
        """Equation 16: weighted sum over heads of products, negative ones cut off."""
        q_NIF, weight_NI, key_TF = self.queries
        product_IE = q_NIF[n] @ key_TF[places].T
        return (weight_NI[n, :, None] * product_IE.clamp_min(0)).sum(0)

    def by_hand(self) -> torch.Tensor:
        losses = []
        for n, places in enumerate(self.seen):
            teacher = self.mass_NT[n, places]
            if teacher.sum() > 0:
                teacher = teacher / teacher.sum()
                student = self.score(n, places).log_softmax(0)
                losses.append((torch.xlogy(teacher, teacher) - teacher * student).sum())
        return torch.stack(losses).mean()


@pytest.mark.parametrize("tile_elements", [1, 2_000, 2**19])
@pytest.mark.parametrize("top_k", [1, TOP_K, 8, 100])
@pytest.mark.parametrize("lengths", STREAMS, ids=str)
def test_the_choice_is_the_best_of_what_each_token_sees(monkeypatch, lengths, top_k, tile_elements):
    monkeypatch.setattr(devices, "tile_elements", lambda device: tile_elements)
    case = Case(lengths)
    choice_NK = choose(case.queries, case.documents, case.entries, top_k)
    assert choice_NK.shape == (sum(lengths), min(top_k, case.entries.most))
    for n, (places, seen) in enumerate(zip(choice_NK.tolist(), case.seen, strict=True)):
        chosen = [place for place in places if place >= 0]
        assert set(places) - set(chosen) <= {-1}
        # Neither another document's nor the future's, and none twice.
        assert len(set(chosen)) == len(chosen) == min(top_k, len(seen))
        assert set(chosen) <= set(seen)
        # By score, so that equal scores, which all-negative products give, may swap.
        best = case.score(n, seen).sort(descending=True).values[:top_k]
        got = case.score(n, chosen).sort(descending=True).values
        torch.testing.assert_close(got, best, rtol=1e-12, atol=1e-13)


def test_the_choice_binds_where_some_token_sees_more_than_it_may_choose():
    indexer = Indexer(V4Config(index_top_k=2))
    assert not indexer.binds(Documents((11, 9), CPU).entries(4))
    assert indexer.binds(Documents((3, 12), CPU).entries(4))


def test_scores_and_choices_are_those_of_transformers():
    shape = {"hidden_size": 16, "q_lora_rank": 8, "head_dim": 8, "index_head_dim": 8}
    config = V4Config(**shape, qk_rope_head_dim=4, index_num_heads=HEADS, index_top_k=5)
    its_config = DeepseekV4Config(
        **shape, num_hidden_layers=1, index_n_heads=HEADS, index_topk=5, partial_rotary_factor=0.5
    )
    own, other = Indexer(config), v4.DeepseekV4Indexer(its_config)
    names = ["q_b.weight", "weights.weight", "compressor.position_bias", "compressor.kv.weight"]
    names += ["compressor.gate.weight", "compressor.norm.weight"]
    theirs = ["q_b_proj", "scorer.weights_proj", "position_bias", "kv_proj", "gate_proj", "kv_norm"]
    for seed, (name, its) in enumerate(zip(names, theirs, strict=True)):
        mine = own.get_parameter(name)
        mine.data = normal(*mine.shape, seed=seed).float()
        its = its if its == "position_bias" else f"{its}.weight"  # noqa: PLW2901
        other.get_parameter(its).data = mine.data
    x_ND, latent_NR = normal(90, 16, seed=8).float(), normal(90, 8, seed=9).float()
    documents = Documents((90,), CPU)
    entries, frequency_R = documents.entries(4), frequencies(4, 160_000.0, None)
    turn = angles(documents.position_N, frequency_R)
    place = angles(entries.position_T, frequency_R)
    key_TF = own.compressor(*own.compressor.project(x_ND), entries, place)
    queries = Queries(*own.queries(x_ND, latent_NR, turn), key_TF)
    scored = []
    other.scorer.register_forward_hook(lambda module, given, out: scored.append(out[0]))
    expected_NK = other(x_ND[None], latent_NR[None], torch.arange(90)[None], None, 0)[0]
    product_NIT = torch.einsum("nif,tf->nit", queries.q_NIF, key_TF).relu()
    score_NT = torch.einsum("ni,nit->nt", queries.weight_NI, product_NIT)
    torch.testing.assert_close(score_NT, scored[0], rtol=1e-4, atol=1e-4)
    choice_NK = choose(queries, documents, entries, 5)
    assert torch.equal(choice_NK.sort().values, expected_NK.sort().values)

    # One more token at a time chooses as it does within the stream.
    hidden_NT = torch.zeros(90, 22).masked_fill(
        torch.arange(22) >= entries.end_N[:, None], -torch.inf
    )
    turn = Wheel(frequency_R, queries.q_NIF.shape[-1]).at(documents.position_N)
    step_NK = own.choose_step(x_ND, latent_NR, turn, key_TF.expand(90, -1, -1), hidden_NT)
    assert torch.equal(step_NK.sort().values, choice_NK.sort().values)


@pytest.mark.parametrize("tile_elements", [1, 2_000, 2**19])
@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize("lengths", STREAMS, ids=str)
def test_the_loss_and_its_gradients_are_those_of_the_divergence(lengths, chosen, tile_elements):
    case = Case(lengths, chosen=chosen, tile_elements=tile_elements)
    got, expected = case.own(), case.by_hand()
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    grads = [torch.autograd.grad(3 * loss, list(case.queries)) for loss in (got, expected)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("chosen", [False, True])
def test_its_gradients_are_those_of_finite_differences(chosen):
    case = Case((13, 3, 8), chosen=chosen)
    given, rest = tuple(case.queries), (case.choice_NK, case.mass(), case.cut)
    assert torch.autograd.gradcheck(lambda *queries: index_loss(Queries(*queries), *rest), given)


@pytest.mark.parametrize("chosen", [False, True])
def test_tokens_whose_attention_gave_entries_nothing_count_for_nothing(chosen):
    case = Case((40, 3, 33), chosen=chosen)
    case.mass_NT[20:60] = 0
    got = case.own()
    torch.testing.assert_close(got, case.by_hand(), rtol=1e-12, atol=0)
    got.backward()
    assert not case.queries.q_NIF.grad[20:60].any()
    assert all(tensor.grad.isfinite().all() for tensor in case.queries)
    case.mass_NT.zero_()
    nothing = case.own()
    assert nothing.item() == 0
    assert not any(grad.any() for grad in torch.autograd.grad(nothing, list(case.queries)))


def test_the_loss_is_zero_where_the_scores_are_the_logarithm_of_the_weights():
    case = Case((40, 9))
    case.queries.weight_NI.data[:] = 1
    case.mass_NT = torch.stack([case.score(n, range(12)) for n in range(49)]).detach().exp()
    assert abs(case.own().item()) < 1e-14
    case.mass_NT[:, 0] *= 2
    assert case.own().item() > 1e-3


def chose_all(entries) -> torch.Tensor:
    place_NK = entries.first_N[:, None] + torch.arange(entries.most)
    return place_NK.where(place_NK < entries.end_N[:, None], -1)


def test_choosing_everything_is_the_same_as_not_choosing():
    case = Case((40, 3, 33))
    q_NHF, key_NF = normal(76, HEADS, 6, seed=4), normal(76, 6, seed=5)
    entry_TF, sink_H = normal(case.entries.count, 6, seed=6), normal(HEADS, seed=7)
    results = []
    for choice_NK in (None, chose_all(case.entries)):
        pool = Pool(entry_TF, case.entries, choice_NK)
        cut = plan(case.documents, pool, window=5, heads=HEADS, device=CPU)
        out, mass = attend(q_NHF, key_NF, sink_H, pool, cut, scale=0.4, want_mass=True)
        loss = index_loss(case.queries, choice_NK, mass, cut)
        results.append([out, loss, *torch.autograd.grad(loss, list(case.queries))])
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-13)


def heads_weights(q_NHF, key_NF, sink_H, entry_TF, cut: Plan) -> torch.Tensor:
    """Return `[N, H, T]`: entries' weights in the softmax over window, entries and sink."""
    total = len(q_NHF)
    distance = torch.arange(total)[:, None] - torch.arange(total)
    seen_NT = torch.arange(len(entry_TF)) < cut.entries.end_N[:, None]
    seen = torch.cat(((distance >= 0) & (distance < cut.window), seen_NT), dim=1)[:, None]
    logit = (0.4 * q_NHF @ torch.cat((key_NF, entry_TF)).T).masked_fill(~seen, -torch.inf)
    logit = torch.cat((logit, sink_H[:, None].expand(total, -1, 1)), dim=-1)
    return logit.softmax(-1)[..., total:-1]


def test_the_teacher_is_the_weight_beside_window_and_sink_summed_over_heads_and_then_normalised():
    case = Case((60,))
    given = normal(60, HEADS, 6, seed=4), normal(60, 6, seed=5), 2 * normal(HEADS, seed=7)
    entry_TF = normal(case.entries.count, 6, seed=6)
    pool = Pool(entry_TF, case.entries, None)
    _, mass = attend(*given, pool, case.cut, scale=0.4, want_mass=True)
    got = index_loss(case.queries, None, mass, case.cut)
    weight_NHT = heads_weights(*given, entry_TF, case.cut)
    case.mass_NT = weight_NHT.sum(1)
    torch.testing.assert_close(got, case.by_hand(), rtol=1e-11, atol=0)
    # Heads that mostly look at the window have little say; normalised first, all would be equal.
    case.mass_NT = F.normalize(weight_NHT, p=1, dim=-1).sum(1)
    assert abs(case.by_hand() - got) > 1e-3


def test_bfloat16_queries_are_compared_in_float32():
    case = Case((40, 33))
    low = Queries(*(x.detach().bfloat16().requires_grad_() for x in case.queries))
    exact = Queries(*(x.detach().float().requires_grad_() for x in low))
    losses = []
    for queries in (low, exact):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=queries is low):
            loss = index_loss(queries, None, [m.float() for m in case.mass()], case.cut)
        loss.backward()
        losses.append(loss)
    assert losses[0].dtype == torch.float32
    assert torch.equal(*losses)
    for one, other in zip(low, exact, strict=True):
        assert torch.equal(one.grad, other.grad.bfloat16())
