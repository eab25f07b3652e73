"""Experts, mixtures and the balance loss are what loops over tokens and experts say they are."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from student.config import MLAConfig, V4Config
from student.documents import Documents
from student.moe import (
    Experts,
    HashRouter,
    Mixture,
    Router,
    Routing,
    SwiGLU,
    balance_loss,
    dispatch,
    hash_table,
)

HIDDEN, WIDTH, EXPERTS, TOP_K = 12, 5, 8, 3
SHAPE = {"hidden_size": HIDDEN, "num_routed_experts": EXPERTS, "num_experts_per_token": TOP_K}
V4 = V4Config(**SHAPE, moe_intermediate_size=WIDTH, swiglu_limit=0.75)
MLA = MLAConfig(**SHAPE, moe_intermediate_size=WIDTH)


def normal(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.to(dtype)


def filled(module, dtype=torch.float64):
    for seed, parameter in enumerate(module.parameters()):
        parameter.data = normal(*parameter.shape, seed=10 + seed, dtype=dtype)
    return module


def experts(limit: float | None, dtype=torch.float64) -> Experts:
    return filled(Experts(EXPERTS, HIDDEN, WIDTH, limit), dtype)


def some_routing(count: int = 40, only: int = EXPERTS) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    order = [torch.randperm(only, generator=generator)[:TOP_K] for _ in range(count)]
    return torch.stack(order), normal(count, TOP_K, seed=3).abs().requires_grad_()


def send(expert_NK: torch.Tensor):
    counts = Counter(expert_NK.flatten().tolist())
    return dispatch(expert_NK, torch.tensor([float(counts[e]) for e in range(EXPERTS)]))


def by_hand(layer: Experts, x_ND, weight_NK, expert_NK, kept=lambda y: y) -> torch.Tensor:
    """Return the sum over experts, a token and an expert at a time; `kept` rounds each product."""
    outs = []
    for x_D, weight_K, expert_K in zip(x_ND, weight_NK, expert_NK.tolist(), strict=True):
        out_D = torch.zeros_like(x_D, dtype=weight_K.dtype)
        for weight, expert in zip(weight_K, expert_K, strict=True):
            gate_up_J = kept(kept(layer.gate_up[expert]) @ x_D)
            gate_I, up_I = gate_up_J[:WIDTH], gate_up_J[WIDTH:]
            if layer.limit is not None:
                gate_I = gate_I.clamp(max=layer.limit)
                up_I = up_I.clamp(-layer.limit, layer.limit)
            out_D = out_D + weight * kept(
                kept(layer.down[expert]) @ kept(kept(F.silu(gate_I)) * up_I)
            )
        outs.append(out_D)
    return torch.stack(outs)


@pytest.mark.parametrize("only", [TOP_K, 5, EXPERTS])
@pytest.mark.parametrize("limit", [None, 0.75])
def test_experts_and_their_gradients_are_those_of_the_loop(limit, only):
    layer, x_ND = experts(limit), normal(40, HIDDEN).requires_grad_()
    expert_NK, weight_NK = some_routing(only=only)
    outs = [
        layer(x_ND, weight_NK, send(expert_NK)),
        by_hand(layer, x_ND, weight_NK, expert_NK),
    ]
    torch.testing.assert_close(*outs, rtol=1e-12, atol=1e-12)
    inputs, seen_ND = [x_ND, weight_NK, layer.gate_up, layer.down], normal(40, HIDDEN, seed=7)
    grads = [torch.autograd.grad((out * seen_ND).sum(), inputs) for out in outs]
    torch.testing.assert_close(*grads, rtol=1e-11, atol=1e-11)
    # An expert without tokens has a gradient, of zeros.
    assert not grads[0][2][only:].any()
    assert not grads[0][3][only:].any()
    assert grads[0][2][:only].flatten(1).any(1).all()


@pytest.mark.parametrize("limit", [None, 0.75])
def test_their_gradients_are_those_of_finite_differences(limit):
    layer, x_ND = filled(Experts(3, 3, 2, limit)), normal(4, 3).requires_grad_()
    expert_NK, weight_NK = torch.tensor([[0, 2], [2, 0], [2, 1], [0, 1]]), normal(4, 2, seed=3)
    sent = dispatch(expert_NK, torch.tensor([3.0, 2.0, 3.0]))

    def served(x_ND, weight_NK, gate_up, down):
        given = {"gate_up": gate_up, "down": down}
        return torch.func.functional_call(layer, given, (x_ND, weight_NK, sent))

    given = (x_ND, weight_NK.requires_grad_(), layer.gate_up, layer.down)
    assert torch.autograd.gradcheck(served, given)


@pytest.mark.parametrize(
    ("x", "value", "slope"),
    [
        # silu(s) and its slope at 2: 1.761594, 1.090784; at -3: -0.142278, -0.088104.
        (2.0, 1.7615942 * 2.0, 1.0907843 * 2.0 + 1.7615942),  # on the limit: not yet cut
        (2.5, 1.7615942 * 2.0, 0.0),  # both cut
        (-3.0, -0.1422776 * -2.0, -0.0881041 * -2.0),  # up is cut below, gate is not
    ],
)
def test_gate_is_cut_above_the_limit_and_up_on_both_sides(x, value, slope):
    layer, shared = Experts(2, 1, 1, 2.0), SwiGLU(1, 1, 2.0)
    for parameter in (*layer.parameters(), *shared.parameters()):
        parameter.data.fill_(1)
    sent = dispatch(torch.tensor([[1]]), torch.tensor([0.0, 1.0]))
    for served in (lambda x_11: layer(x_11, torch.ones(1, 1), sent), shared):
        x_11 = torch.tensor([[x]], requires_grad=True)
        out = served(x_11)
        out.backward()
        assert out.item() == pytest.approx(value, rel=1e-5)
        assert x_11.grad.item() == pytest.approx(slope, rel=1e-5)


def test_of_bfloat16_products_are_bfloat16_and_the_sum_over_experts_float32():
    layer, x_ND = experts(0.75, torch.float32), normal(40, HIDDEN).bfloat16().requires_grad_()
    expert_NK, weight_NK = some_routing()
    out = layer(x_ND, weight_NK.float(), send(expert_NK))
    low = [x.detach().bfloat16().float() for x in (x_ND, layer.gate_up, layer.down)]
    layer.gate_up.data, layer.down.data = low[1:]
    exact = by_hand(layer, low[0], weight_NK.float(), expert_NK, lambda y: y.bfloat16().float())
    assert out.dtype == torch.float32
    # A sum in bfloat16 would be off by 2e-3; a product now and then rounds the other way.
    assert (out - exact).norm() < 3e-4 * exact.norm()
    out.sum().backward()
    assert {p.grad.dtype for p in layer.parameters()} == {torch.float32}
    assert x_ND.grad.dtype == torch.bfloat16


def test_on_a_cpu_autocast_leaves_products_in_the_dtype_of_their_input():
    layer, x_ND = experts(0.75, torch.float32), normal(40, HIDDEN).float()
    expert_NK, weight_NK = some_routing()
    plain = layer(x_ND, weight_NK.float(), send(expert_NK))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x_ND, weight_NK.float(), send(expert_NK)), plain)


MIXTURES = {
    "v4": lambda: filled(Mixture(V4, Router(V4), 7)),
    "hash": lambda: dealt(filled(Mixture(V4, HashRouter(V4, 50), 7))),
    "mla": lambda: filled(Mixture(MLA, Router(MLA), 7)),
}


def dealt(layer: Mixture) -> Mixture:
    layer.router.table.copy_(hash_table(50, EXPERTS, TOP_K, np.random.default_rng(0)))
    return layer


@pytest.mark.parametrize("kind", MIXTURES)
def test_a_mixture_adds_routed_and_shared_experts_and_counts_its_tokens(kind):
    layer, x_ND, token_N = MIXTURES[kind](), normal(40, HIDDEN), torch.arange(40)
    mixed = layer(x_ND, token_N, expert_NK=None, balanced_over=None)
    routing = layer.router(x_ND, token_N, None)
    routed = by_hand(layer.experts, x_ND, routing.weight_NK, routing.expert_NK)
    torch.testing.assert_close(mixed.output_ND, routed + layer.shared(x_ND), rtol=1e-11, atol=1e-11)
    assert torch.equal(mixed.expert_NK, routing.expert_NK)
    counts = Counter(routing.expert_NK.flatten().tolist())
    assert mixed.load_E.tolist() == [counts[expert] for expert in range(EXPERTS)]
    assert mixed.balance_loss is None
    other_NK = (routing.expert_NK + 1) % EXPERTS
    replayed = layer(x_ND, token_N, expert_NK=other_NK, balanced_over=None)
    assert replayed.expert_NK is other_NK
    assert (replayed.output_ND - mixed.output_ND).abs().max() > 0.1


@pytest.mark.parametrize("count", [1, 2, 5, 16, 17, 40])
@pytest.mark.parametrize("kind", MIXTURES)
def test_a_decoding_step_serves_its_tokens_as_a_whole_stream_does(kind, count):
    layer, x_ND, token_N = MIXTURES[kind](), normal(count, HIDDEN), torch.arange(count)
    mixed = layer(x_ND, token_N, expert_NK=None, balanced_over=None)
    out, expert_NK = layer.step(x_ND, token_N)
    torch.testing.assert_close(out, mixed.output_ND, rtol=1e-12, atol=1e-12)
    assert torch.equal(expert_NK, mixed.expert_NK)


def balance_by_hand(affinity_NE, expert_NK, lengths) -> torch.Tensor:
    """Equations 17 to 20 a document; documents count by their tokens."""
    total, start = torch.zeros((), dtype=torch.float64), 0
    for length in lengths:
        rows = slice(start, start + length)
        for expert in range(EXPERTS):
            given = sum(expert in row for row in expert_NK[rows].tolist())
            f = EXPERTS / (TOP_K * length) * given
            p = sum(affinity_E[expert] / affinity_E.sum() for affinity_E in affinity_NE[rows])
            total = total + length / sum(lengths) * f * p / length
        start += length
    return total


@pytest.mark.parametrize("lengths", [(40,), (20, 20), (1, 30, 9)], ids=str)
@pytest.mark.parametrize("kind", ["v4", "mla"])
def test_the_balance_loss_is_that_of_the_equations_a_document(kind, lengths):
    layer, x_ND, token_N = MIXTURES[kind](), normal(40, HIDDEN), torch.arange(40)
    documents = Documents(lengths, torch.device("cpu"))
    mixed = layer(x_ND, token_N, expert_NK=None, balanced_over=documents)
    routing = layer.router(x_ND, token_N, None)
    expected = balance_by_hand(routing.affinity_NE, routing.expert_NK, lengths)
    torch.testing.assert_close(mixed.balance_loss, expected, rtol=1e-12, atol=0)
    weight = [layer.router.weight]
    grads = [torch.autograd.grad(loss, weight) for loss in (mixed.balance_loss, expected)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-13)


def test_the_balance_loss_is_one_when_all_is_even_and_grows_to_e_over_k():
    expert_NK = torch.tensor([[(n + k) % EXPERTS for k in range(TOP_K)] for n in range(16)])
    hits_NE, documents = torch.zeros(16, EXPERTS), Documents((8, 8), torch.device("cpu"))
    hits_NE.scatter_(1, expert_NK, 1.0)
    even = Routing(expert_NK, torch.ones(16, TOP_K), torch.full((16, EXPERTS), 0.5))
    assert balance_loss(even, hits_NE, documents).item() == pytest.approx(1, rel=1e-6)
    # The same experts for every token, which have all the affinity.
    first_NE = (torch.arange(EXPERTS) < TOP_K).float().expand(16, -1)
    collapsed = Routing(expert_NK, torch.ones(16, TOP_K), first_NE)
    assert balance_loss(collapsed, first_NE, documents).item() == pytest.approx(EXPERTS / TOP_K)


def test_a_table_has_no_balance_loss():
    documents, layer = Documents((40,), torch.device("cpu")), MIXTURES["hash"]()
    mixed = layer(normal(40, HIDDEN), torch.arange(40), expert_NK=None, balanced_over=documents)
    assert mixed.balance_loss is None
