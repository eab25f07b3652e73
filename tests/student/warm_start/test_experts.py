"""The same neurons, dealt to experts: none lost, none twice, and the router knows who is needed."""

import pytest
import torch
import torch.nn.functional as F

from student.config import MLAConfig, V4Config
from student.moe import Router
from student.warm_start import calibration, dense
from student.warm_start.experts import Carving, carve
from tests.fakes.dense import teachers, text

MODEL = teachers()["llama"]
READ, SEEN = dense.read(MODEL), calibration.watch(MODEL, text(30, 32))
LAYER, X_ND = READ.layers[1], SEEN.network(READ, 1)
ROUTED = {
    "hidden_size": 48,
    "num_routed_experts": 5,
    "num_experts_per_token": 2,
    "routed_scaling_factor": 2.0,
}
CONFIGS = {"mla": MLAConfig(**ROUTED), "v4": V4Config(**ROUTED)}
SIZES = [Carving(shared=4, routed=8, active=4), Carving(shared=1, routed=2, active=1)]


def rows(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return every neuron's gate row, shared ones first."""
    width = weights["experts.gate_up"].shape[1] // 2
    return torch.cat((weights["shared.gate.weight"], *weights["experts.gate_up"][:, :width]))


@pytest.mark.parametrize("how", SIZES, ids=str)
def test_every_neuron_is_in_one_place(how):
    weights = carve(LAYER, X_ND, how).weights
    part = 96 // (how.shared + how.routed)
    assert weights["experts.down"].shape == (how.routed, 48, part)
    assert weights["shared.down.weight"].shape == (48, how.shared * part)
    found = {tuple(row) for row in rows(weights).tolist()}
    assert found == {tuple(row) for row in LAYER.gate_ID.tolist()}


@pytest.mark.parametrize("how", SIZES, ids=str)
def test_all_parts_together_are_the_dense_layer(how):
    weights = carve(LAYER, X_ND, how).weights
    x_ND = X_ND[:9].float()
    whole_ND = (F.silu(x_ND @ LAYER.gate_ID.T) * (x_ND @ LAYER.up_ID.T)) @ LAYER.down_DI.T
    gate, up, down = (weights[f"shared.{n}.weight"] for n in ("gate", "up", "down"))
    sum_ND = (F.silu(x_ND @ gate.T) * (x_ND @ up.T)) @ down.T
    for gate_up, down in zip(weights["experts.gate_up"], weights["experts.down"], strict=True):
        gate, up = gate_up.chunk(2)
        sum_ND = sum_ND + (F.silu(x_ND @ gate.T) * (x_ND @ up.T)) @ down.T
    torch.testing.assert_close(sum_ND, whole_ND, rtol=1e-3, atol=1e-3)


def adds(weights: dict[str, torch.Tensor], x_ND: torch.Tensor) -> torch.Tensor:
    """Return how much each expert adds, `[N, E]`."""
    found = []
    for gate_up, down in zip(weights["experts.gate_up"], weights["experts.down"], strict=True):
        gate, up = gate_up.chunk(2)
        found.append(((F.silu(x_ND @ gate.T) * (x_ND @ up.T)) @ down.T).norm(dim=1))
    return torch.stack(found, 1)


def test_the_experts_that_a_router_chooses_add_more_than_chance_would_have_it():
    how = Carving(shared=4, routed=8, active=4)
    weights = carve(LAYER, X_ND, how).weights
    other = calibration.watch(MODEL, text(20, 32, seed=9)).network(READ, 1).float()
    add_NE = adds(weights, other)
    score_NE = torch.sigmoid(other @ weights["router.weight"].T) + weights["router.bias"]
    chosen_NK = score_NE.topk(4, 1).indices
    share = float((add_NE.gather(1, chosen_NK).sum(1) / add_NE.sum(1)).mean())
    assert share > 0.52


def router(family: str) -> Router:
    """Return the router of a carving."""
    carved = carve(LAYER, X_ND, Carving(shared=1, routed=5, active=2), family)
    made = Router(CONFIGS[family])
    made.load_state_dict({name: carved.weights[f"router.{name}"] for name in ("weight", "bias")})
    return made


@pytest.mark.parametrize("family", CONFIGS)
def test_a_router_of_either_family_makes_the_choice_that_was_balanced(family):
    carved = carve(LAYER, X_ND, Carving(shared=1, routed=5, active=2), family)
    x_ND = X_ND.float()
    routing = router(family)(x_ND, torch.zeros(len(x_ND), dtype=torch.int64), None)
    load_E = torch.bincount(routing.expert_NK.flatten(), minlength=5).double()
    torch.testing.assert_close(load_E / load_E.mean(), carved.load_E, rtol=0.02, atol=0)
    torch.testing.assert_close(
        routing.weight_NK, torch.ones_like(routing.weight_NK), rtol=0.01, atol=0
    )


@pytest.mark.parametrize("family", CONFIGS)
def test_its_small_logits_are_as_fine_under_autocast(family):
    x_ND, token_N = X_ND.float(), torch.zeros(len(X_ND), dtype=torch.int64)
    routing = router(family)(x_ND, token_N, None)
    with torch.autocast("cpu", torch.bfloat16):
        low = router(family)(x_ND, token_N, None)
    assert torch.equal(low.expert_NK, routing.expert_NK)
    assert torch.equal(low.affinity_NE, routing.affinity_NE)


def test_loads_are_even_to_a_fifth_on_the_text_it_was_fitted_to():
    found = carve(LAYER, X_ND, Carving(shared=4, routed=8, active=4))
    assert float(found.load_E.mean()) == pytest.approx(1)
    assert float(found.load_E.max()) < 1.3


def test_the_shared_neurons_are_those_that_do_most():
    weights = carve(LAYER, X_ND, Carving(shared=4, routed=8, active=4)).weights
    x_ND = X_ND.float()
    act_NI = F.silu(x_ND @ LAYER.gate_ID.T) * (x_ND @ LAYER.up_ID.T)
    does_I = act_NI.square().mean(0).sqrt() * LAYER.down_DI.norm(dim=0)
    most = {tuple(row) for row in LAYER.gate_ID[does_I.topk(32).indices].tolist()}
    assert {tuple(row) for row in weights["shared.gate.weight"].tolist()} == most
