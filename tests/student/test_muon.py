"""Muon takes the steps the report describes, on the matrices it is for, batched as it may be."""

import copy
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import student.muon as muon
from student.catalogue import presets
from student.documents import Documents
from student.errors import ConfigError
from student.model import Student, Vocabulary
from student.muon import Muon, adamw, newton_schulz, parameter_groups

RATE = 0.02
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item", "unique")


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def parameter(*shape: int, seed: int = 0) -> torch.nn.Parameter:
    made = torch.nn.Parameter(random(*shape, seed=seed))
    made.grad = random(*shape, seed=seed + 1000)
    return made


def polar(x_NM: torch.Tensor) -> torch.Tensor:
    """Return the nearest semi-orthogonal matrix, by singular values, in float64."""
    u_NS, _, v_SM = torch.linalg.svd(x_NM.double(), full_matrices=False)
    return u_NS @ v_SM


def lifted(values_S: torch.Tensor) -> torch.Tensor:
    """Return what the report's ten polynomials make of singular values, in float64."""
    values_S = values_S.double() / values_S.double().square().sum().sqrt()
    for step in range(10):
        a, b, c = (3.4445, -4.7750, 2.0315) if step < 8 else (2.0, -1.5, 0.5)
        values_S = a * values_S + b * values_S**3 + c * values_S**5
    return values_S


def iterated(x_NM: torch.Tensor) -> torch.Tensor:
    """Return the report's iteration by way of the singular value decomposition, in float64."""
    u_NS, values_S, v_SM = torch.linalg.svd(x_NM.double(), full_matrices=False)
    return u_NS @ torch.diag(lifted(values_S)) @ v_SM


def by_hand(weight, grads, count, *, rate=RATE, momentum=0.95, decay=0.1):
    """Return a weight after one step a gradient, in float64, each of `count` blocks alone."""
    weight = weight.detach().double().reshape(-1, weight.shape[-2] // count, weight.shape[-1])
    speed = torch.zeros_like(weight)
    for grad in grads:
        grad = grad.double().reshape(weight.shape)  # noqa: PLW2901
        speed = momentum * speed + grad
        ahead = grad + momentum * speed
        scale = 0.18 * math.sqrt(max(weight.shape[1:]))
        step = torch.stack([iterated(matrix) for matrix in ahead])
        weight = weight - rate * decay * weight - rate * scale * step
    return weight


@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 8, 24), (3, 24, 8), (2, 1, 9), (2, 9, 1)])
@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1.0, 1e25])
def test_singular_values_become_one_and_the_singular_vectors_stay(shape, scale):
    x_BNM = random(*shape) * scale
    got_BNM = newton_schulz(x_BNM)
    values = torch.linalg.svdvals(got_BNM.double())
    assert values.min() > 0.9999
    assert values.max() < 1.0022
    for got_NM, x_NM in zip(got_BNM, x_BNM, strict=True):
        torch.testing.assert_close(got_NM.double(), polar(x_NM), rtol=0, atol=2.2e-3)


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (7, 7)])
def test_the_iteration_is_the_reports_ten_polynomials_of_the_singular_values(shape):
    x_NM = random(*shape, dtype=torch.float64)
    got_NM = newton_schulz(x_NM[None], torch.float64)[0]
    torch.testing.assert_close(got_NM, iterated(x_NM), rtol=1e-9, atol=1e-9)


def test_singular_values_of_a_thirty_thousandth_and_above_are_set_to_one():
    values_S = torch.tensor([1.0, 0.3, 1e-2, 1e-3, 1e-4, 3e-5], dtype=torch.float64)
    u_SS, _, v_SM = torch.linalg.svd(random(6, 10, dtype=torch.float64), full_matrices=False)
    small = (u_SS * values_S) @ v_SM
    got = torch.linalg.svdvals(newton_schulz(small[None], torch.float64)[0])
    assert got.min() > 0.9999
    assert got.max() < 1.0022
    faint = (u_SS * values_S.clamp_min(0).where(values_S > 3e-5, values_S / 30)) @ v_SM
    least = torch.linalg.svdvals(newton_schulz(faint[None], torch.float64)[0]).min()
    assert 1e-6 < least < 0.5


def test_bfloat16_products_set_singular_values_to_one_within_a_hundredth():
    x_BNM = random(2, 24, 40)
    got_BNM = newton_schulz(x_BNM, torch.bfloat16)
    assert got_BNM.dtype == torch.float32
    values = torch.linalg.svdvals(got_BNM.double())
    assert (values - 1).abs().max() < 0.01
    assert not torch.equal(got_BNM, newton_schulz(x_BNM))


def test_a_tall_matrix_costs_no_more_than_a_wide_one():
    costs = []
    for shape in ((2, 8, 64), (2, 64, 8)):
        with FlopCounterMode(display=False) as counter:
            newton_schulz(random(*shape))
        costs.append(counter.get_total_flops())
    assert costs == [2 * 10 * 2 * (8 * 64 * 8 + 8 * 8 * 8 + 8 * 8 * 64)] * 2


@pytest.mark.parametrize("shape", [(5, 6, 20), (5, 20, 6)])
def test_a_batch_is_what_its_matrices_are_one_by_one(shape):
    x_BNM = random(*shape) * torch.tensor([1.0, 1e-6, 1e6, 0.0, 3.0])[:, None, None]
    together = newton_schulz(x_BNM)
    alone = torch.cat([newton_schulz(x_NM[None]) for x_NM in x_BNM])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    assert not together[3].any()


@pytest.mark.parametrize(
    ("shape", "count"), [((6, 10), 1), ((12, 5), 3), ((4, 6, 5), 1), ((4, 6, 5), 2)]
)
def test_three_steps_are_those_of_the_formula_in_float64(shape, count):
    trained = parameter(*shape)
    start = trained.detach().clone()
    optimizer = Muon([{"params": [trained], "matrices": count}], RATE)
    grads = [random(*shape, seed=seed) for seed in (1, 2, 3)]
    for step, grad in enumerate(grads, start=1):
        trained.grad = grad
        optimizer.step()
        expected = by_hand(start, grads[:step], count).reshape(shape)
        torch.testing.assert_close(trained.double(), expected, rtol=0, atol=2e-6)


def test_rate_momentum_and_decay_are_the_groups_own():
    first, second = parameter(6, 10), parameter(6, 10, seed=5)
    start = [p.detach().clone() for p in (first, second)]
    grads = [[random(6, 10, seed=s + k) for k in (0, 50)] for s in (1, 2)]
    own = {"params": [second], "lr": 0.5, "momentum": 0.5, "weight_decay": 0.0}
    optimizer = Muon([{"params": [first]}, own], RATE, momentum=0.8, weight_decay=0.3)
    for one, other in grads:
        first.grad, second.grad = one, other
        optimizer.step()
    expected = by_hand(start[0], [g[0] for g in grads], 1, momentum=0.8, decay=0.3)
    torch.testing.assert_close(first[None].double(), expected, rtol=0, atol=2e-6)
    expected = by_hand(start[1], [g[1] for g in grads], 1, rate=0.5, momentum=0.5, decay=0.0)
    torch.testing.assert_close(second[None].double(), expected, rtol=0, atol=2e-5)


def test_the_optimizer_iterates_in_the_dtype_it_is_given():
    low, full = parameter(6, 10), parameter(6, 10)
    Muon([{"params": [low]}], 1.0, dtype=torch.bfloat16).step()
    Muon([{"params": [full]}], 1.0).step()
    assert not torch.equal(low, full)
    torch.testing.assert_close(low, full, rtol=0, atol=0.02)


def moved(gradient: torch.Tensor, count: int) -> torch.Tensor:
    trained = torch.nn.Parameter(torch.zeros_like(gradient))
    trained.grad = gradient
    Muon([{"params": [trained], "matrices": count}], RATE).step()
    return trained.detach()


def test_gate_and_up_of_an_expert_move_without_knowing_of_each_other():
    gradient = random(3, 8, 6)
    louder = gradient.clone()
    louder[:, 4:] = random(3, 4, 6, seed=9) * 100  # the up halves
    louder[1] = 0  # and one expert without a token
    split, split_louder = moved(gradient, 2), moved(louder, 2)
    assert torch.equal(split[[0, 2], :4], split_louder[[0, 2], :4])
    assert not torch.equal(split[:, 4:], split_louder[:, 4:])
    assert not split_louder[1].any()
    whole, whole_louder = moved(gradient, 1), moved(louder, 1)
    assert (whole[0, :4] - whole_louder[0, :4]).abs().max() > 1e-3


def test_groups_of_an_output_projection_move_without_knowing_of_each_other():
    gradient = random(12, 10)
    other = torch.cat([gradient[:4], random(4, 10, seed=4), gradient[8:]])
    split, split_other = moved(gradient, 3), moved(other, 3)
    assert torch.equal(split[:4], split_other[:4])
    assert torch.equal(split[8:], split_other[8:])
    assert not torch.equal(split[4:8], split_other[4:8])
    # A block's scale is that of the block, not of the parameter.
    expected = RATE * 0.18 * math.sqrt(10) * polar(gradient[:4])
    torch.testing.assert_close(-split[:4].double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("elements", [1, 100, 2**24])
def test_a_step_is_the_same_however_matrices_are_batched(monkeypatch, elements):
    shapes = [(6, 10), (6, 10), (10, 6), (3, 6, 10), (6, 10)]
    alone = [parameter(*shape, seed=k) for k, shape in enumerate(shapes)]
    together = copy.deepcopy(alone)
    for one, other in zip(alone, together, strict=True):
        other.grad = one.grad
        Muon([{"params": [one]}], RATE).step()
    monkeypatch.setattr(muon, "BATCH_ELEMENTS", elements)
    Muon([{"params": together}], RATE).step()
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_a_parameter_without_a_gradient_stays_as_it_is():
    still, trained = parameter(4, 6), parameter(4, 6, seed=3)
    still.grad = None
    before, other = still.detach().clone(), trained.detach().clone()
    optimizer = Muon([{"params": [still, trained]}], RATE)
    optimizer.step()
    assert torch.equal(still, before)
    assert not torch.equal(trained, other)
    assert set(optimizer.state) == {trained}


def test_a_matrix_whose_gradient_is_zero_only_decays():
    trained = parameter(3, 4, 6)
    trained.grad[1] = 0
    before = trained.detach().clone()
    optimizer = Muon([{"params": [trained]}], RATE)
    optimizer.step()
    assert torch.equal(trained[1], before[1] * (1 - RATE * 0.1))
    trained.grad.zero_()
    for _ in range(3):
        optimizer.step()
    assert trained.isfinite().all()
    assert trained[0].ne(before[0]).all()  # its momentum still moves it


@pytest.mark.parametrize("fused", [False, True])
def test_adamw_leaves_finite_what_has_zero_or_tiny_gradients(fused):
    trained = parameter(5)
    before = trained.detach().clone()
    optimizer = adamw([{"params": [trained]}], RATE, fused=fused)
    for _ in range(3):
        trained.grad = torch.tensor([0.0, 1e-30, 1e-18, 1.0, -1.0])
        optimizer.step()
    steps = (before * (1 - RATE * 0.1) ** 3 - trained) / RATE
    assert steps[0].abs() < 1e-4
    assert steps.abs().max() < 3.01
    # At eps 1e-20 a gradient of 1e-18 still moves a weight at the full rate.
    torch.testing.assert_close(steps[2:], torch.tensor([3.0, 3.0, -3.0]), rtol=0.02, atol=0)
    group = optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.95), 1e-20, 0.1)


def test_a_resumed_optimizer_takes_the_very_steps_of_one_that_went_on():
    went_on = [parameter(6, 10), parameter(3, 4, 5, seed=1)]
    optimizer = Muon([{"params": went_on, "matrices": 2}], RATE)
    optimizer.step()
    resumed = copy.deepcopy(went_on)
    other = Muon([{"params": resumed, "matrices": 1}], 9.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for seed in (1, 2):
        for one, same in zip(went_on, resumed, strict=True):
            one.grad = same.grad = random(*one.shape, seed=seed)
        optimizer.step()
        other.step()
    for one, same in zip(went_on, resumed, strict=True):
        assert torch.equal(one, same)
        assert torch.equal(optimizer.state[one]["momentum"], other.state[same]["momentum"])
        assert optimizer.state[one]["momentum"].dtype == torch.float32


class NoWaiting(TorchDispatchMode):
    """Refuses operations whose result the host must read from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in WAITS, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def test_the_host_waits_for_nothing_in_a_step():
    trained = [parameter(6, 10), parameter(3, 4, 5)]
    optimizer = Muon([{"params": trained, "matrices": 2}], RATE)
    with NoWaiting():
        optimizer.step()
        optimizer.step()
    with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
        trained[0].sum().item()


@pytest.mark.parametrize(
    ("made", "count", "said"),
    [
        (torch.zeros(5), 1, r"\(5,\) to split into 1 row"),
        (torch.zeros(5, 4), 2, r"\(5, 4\) to split into 2 row"),
        (torch.zeros(4, 4, dtype=torch.bfloat16), 1, r"\(4, 4\) in torch.bfloat16"),
    ],
)
def test_what_is_no_float32_matrix_that_splits_is_refused(made, count, said):
    with pytest.raises(ConfigError, match=said):
        Muon([{"params": [torch.nn.Parameter(made)], "matrices": count}], RATE)


def grouped(name: str) -> tuple[dict[str, int], set[str]]:
    """Return the matrices a parameter splits into, by name, and the names AdamW has."""
    config = presets()[name]
    vocabulary = Vocabulary(size=50, bos=0, eos=1, pad=2)
    model = Student.build(config, vocabulary, seed=0, device=torch.device("cpu"))
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model.named_parameters(), config)
    split = {names[id(p)]: g["matrices"] for g in groups.muon for p in g["params"]}
    rest = {names[id(p)] for g in groups.adamw for p in g["params"]}
    assert len(split) + len(rest) == len(names)
    assert set(split) | rest == set(names.values())
    return split, rest


@pytest.mark.parametrize("name", ["tiny", "v4-tiny"])
def test_adamw_has_embedding_head_and_vectors_and_muon_every_other_matrix(name):
    split, rest = grouped(name)
    vectors = ("norm.weight", ".base", ".scale", ".sinks")
    assert {"embed.weight", "head.weight", "norm.weight"} <= rest
    assert all(n in ("embed.weight", "head.weight") or n.endswith(vectors) for n in rest)
    assert not any(n.endswith(vectors) for n in split)
    assert any(n.endswith("router.weight") for n in split)


def test_hyper_connections_are_shared_between_both_and_position_biases_are_matrices():
    split, rest = grouped("v4-tiny")
    assert {"layers.0.attn_hc.fn", "layers.1.ffn_hc.fn", "stream_head.fn"} <= set(split)
    assert {"layers.0.attn_hc.base", "layers.0.attn_hc.scale", "stream_head.base"} <= rest
    assert "layers.1.attn.compressor.position_bias" in split
    assert "layers.1.attn.indexer.compressor.position_bias" in split
    assert "layers.3.attn.sinks" in rest


@pytest.mark.parametrize(("name", "groups"), [("tiny", 1), ("v4-tiny", 2)])
def test_only_experts_and_grouped_projections_are_split(name, groups):
    split, _ = grouped(name)
    several = {n: count for n, count in split.items() if count > 1}
    ends = {n.rpartition("ffn.")[2].rpartition("attn.")[2]: c for n, c in several.items()}
    assert ends == {"experts.gate_up": 2} | ({"o_a.weight": groups} if groups > 1 else {})
    assert len([n for n in split if n.endswith("experts.gate_up")]) == len(
        [n for n in split if n.endswith("experts.down")]
    )


def test_tied_tables_are_adamws_once():
    config = presets()["tiny"]
    table = torch.nn.Parameter(torch.zeros(5, 4))
    groups = parameter_groups([("embed.weight", table)], config)
    assert groups == ([], [{"params": [table]}])


@pytest.mark.parametrize("name", ["tiny", "v4-tiny"])
def test_a_student_learns_a_text_by_muon_and_adamw_with_every_parameter(name):
    config = presets()[name]
    vocabulary = Vocabulary(size=50, bos=0, eos=1, pad=2)
    model = Student.build(config, vocabulary, seed=0, device=torch.device("cpu"))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    groups = parameter_groups(model.named_parameters(), config)
    optimizers = Muon(groups.muon, RATE), adamw(groups.adamw, RATE)
    generator = torch.Generator().manual_seed(0)
    text_N = torch.randint(3, 50, (80,), generator=generator)
    documents = Documents((40, 40), torch.device("cpu"))
    losses = []
    for _ in range(12):
        made = model(text_N, documents, losses=True, ahead=True)
        loss = torch.nn.functional.cross_entropy(model.logits(made.hidden_ND[:-1]), text_N[1:])
        ahead = sum(model.logits(depth.hidden_PD).square().mean() for depth in made.ahead)
        (loss + ahead + made.index_loss + made.balance_loss).backward()
        losses.append(loss.item())
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert losses[-1] < 0.6 * losses[0]
    still = [n for n, p in model.named_parameters() if torch.equal(p, before[n])]
    assert still == []
    assert all(p.isfinite().all() for p in model.parameters())
