"""The fused loss is the plain one: same values, same gradients, without the logits."""

from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from distill.loss import fused_loss, tiles
from distill.loss.objective import CrossEntropy, Divergence, SampledReverseKL, SortedL1
from distill.signals import Dense, Head, Hidden, Mixture, Signal
from tests.fakes import losses
from tests.fakes.losses import (
    DIVERGENCES,
    ROWS,
    VOCAB,
    Inputs,
    assert_by_definition,
    drawn,
    fused,
    gradients,
    inputs,
)

FORWARD = Divergence(kind="forward_kl")
F64, F32 = torch.float64, torch.float32


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Seven rows a tile, so the last is ragged, in blocks of three."""
    monkeypatch.setattr(tiles, "CPU_ROWS", 7)
    monkeypatch.setattr(tiles, "CPU_ELEMENTS", 1)
    monkeypatch.setattr(tiles, "BLOCK_ELEMENTS", 3 * VOCAB // torch.get_num_threads())


def whole_signals(dtype: torch.dtype = F64) -> dict[str, Signal]:
    one, other = losses.hidden_teacher(dtype), losses.hidden_teacher(dtype, seed=20)
    dense = Dense(losses.logits(other.states_NT, other.head))
    return {"hidden": one, "dense": dense, "mixture": Mixture(((0.3, one), (0.7, dense)))}


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-10), (F32, 1e-5)])
@pytest.mark.parametrize("kind", ["hidden", "dense", "mixture"])
@pytest.mark.parametrize("term", DIVERGENCES, ids=lambda term: term.kind)
def test_values_and_gradients_are_those_of_the_definitions(term, kind, dtype, tolerance):
    exact, signal = whole_signals()[kind], whole_signals(dtype)[kind]
    assert_by_definition(
        (replace(term, weight=0.7),), signal, exact=exact, dtype=dtype, tolerance=tolerance
    )


@pytest.mark.parametrize("kind", ["hidden", "dense", "mixture"])
@pytest.mark.parametrize("term", [SortedL1(weight=0.3), SampledReverseKL(weight=0.3)])
def test_the_other_terms_are_their_definitions_too(term, kind):
    signal = whole_signals()[kind]
    assert_by_definition((term,), signal)
    assert_by_definition((CrossEntropy(), term, FORWARD), signal)


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-10), (F32, 1e-5)])
@pytest.mark.parametrize("kind", ["hidden", "dense"])
@pytest.mark.parametrize("weights", [(0.9, 0.1), (1.0, 0.0), (0.0, 1.0)])
def test_the_usual_two_terms_are_their_definitions_in_either_order(weights, kind, dtype, tolerance):
    soft, hard = replace(FORWARD, weight=weights[0]), CrossEntropy(weight=weights[1])
    exact, signal = whole_signals()[kind], whole_signals(dtype)[kind]
    assert_by_definition(
        (soft, hard), signal, exact=exact, dtype=dtype, tolerance=tolerance, softcap=2.0
    )
    assert_by_definition((hard, soft), signal, exact=exact, dtype=dtype, tolerance=tolerance)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
@pytest.mark.parametrize("squared", [False, True])
def test_a_temperature_divides_both_logits_and_leaves_the_text_alone(squared, temperature):
    warm = replace(FORWARD, temperature=temperature, squared=squared)
    signal = whole_signals()["hidden"]
    assert_by_definition((warm,), signal)
    assert_by_definition((warm, CrossEntropy()), signal)


@pytest.mark.parametrize("terms", [(FORWARD,), (FORWARD, CrossEntropy()), DIVERGENCES])
def test_a_constant_in_a_row_of_logits_changes_nothing(terms):
    """In float32, with a constant that leaves the logits four digits."""
    dense = drawn(4, ROWS, VOCAB).float()
    moved = (dense + 1000).sub(1000), dense + 1000
    given = inputs(F32)
    found, expected = (fused(given, Dense(logits), terms) for logits in moved)
    torch.testing.assert_close(found.parts, expected.parts, rtol=1e-5, atol=1e-6)
    for left, right in zip(gradients(found, given), gradients(expected, given), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("signal", [None, whole_signals()["hidden"]], ids=["alone", "taught"])
def test_cross_entropy_is_that_of_the_text(signal):
    assert_by_definition((CrossEntropy(weight=0.4),), signal)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_all_terms_at_once_at_several_temperatures(softcap, bias):
    warm = [replace(term, temperature=2.5, squared=True) for term in DIVERGENCES]
    others = [CrossEntropy(), SortedL1(), SampledReverseKL(), replace(FORWARD, temperature=0.5)]
    terms = losses.weighed([*DIVERGENCES, *warm, *others])
    signal = whole_signals()["mixture"]
    assert_by_definition(terms, signal, softcap=softcap, bias=bias)


def test_a_squared_term_is_larger_by_the_square_of_its_temperature():
    signal = whole_signals()["hidden"]
    warm = replace(FORWARD, temperature=3.0)
    found = fused(inputs(), signal, (warm, replace(warm, squared=True)))
    torch.testing.assert_close(found.parts[1], 9 * found.parts[0])


@pytest.mark.parametrize(("kind", "softcap"), [("hidden", 2.0), ("mixture", None)])
def test_numeric_differences_confirm_the_gradient(kind, softcap):
    terms = losses.weighed(
        [term for term in DIVERGENCES if term.kind != "adaptive_kl"]  # its weights are held fixed
        + [CrossEntropy(), SortedL1(), replace(FORWARD, temperature=2.0, squared=True)]
    )
    given, signal = inputs(rows=3, softcap=softcap), whole_signals()[kind]

    def total(hidden, weight, bias):
        head = Head(weight, bias, softcap)
        return fused(replace(given, hidden_ND=hidden, head=head), signal, terms).total

    assert torch.autograd.gradcheck(total, given.leaves())


def test_the_loss_scales_its_gradients():
    signal, given = whole_signals()["hidden"], inputs()
    once = gradients(fused(given, signal, (FORWARD,)), given)
    (-3.0 * fused(given, signal, (FORWARD,)).total).backward()
    for leaf, grad in zip(given.leaves(), once, strict=True):
        torch.testing.assert_close(leaf.grad, -3.0 * grad)


def test_a_graph_that_is_kept_gives_the_same_gradients_again():
    given = inputs()
    loss = fused(given, whole_signals()["hidden"], (FORWARD,)).total
    first = torch.autograd.grad(3 * loss, given.leaves(), retain_graph=True)
    second = torch.autograd.grad(3 * loss, given.leaves(), retain_graph=True)
    last = torch.autograd.grad(3 * loss, given.leaves())
    for grads in zip(first, second, last, strict=True):
        assert torch.equal(grads[0], grads[1])
        assert torch.equal(grads[0], grads[2])
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_the_gradient_of_the_head_is_never_held_twice():
    given = inputs()
    loss = fused(given, whole_signals()["hidden"], (FORWARD,)).total
    made = loss.grad_fn.saved_tensors[1].data_ptr()
    loss.backward()
    assert given.head.weight_VT.grad.data_ptr() == made


def test_a_second_derivative_is_refused():
    given = inputs()
    loss = fused(given, whole_signals()["hidden"], (FORWARD,)).total
    (first,) = torch.autograd.grad(loss * loss, given.hidden_ND, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("block", [1, 2, 1000])
@pytest.mark.parametrize("tile", [1, 2, 7, 19, 1000])
def test_tiles_of_any_size_give_the_same(monkeypatch, tile, block):
    terms = (FORWARD, DIVERGENCES[2], CrossEntropy())
    signal, given = whole_signals()["mixture"], inputs()
    expected = fused(given, signal, terms)
    monkeypatch.setattr(tiles, "CPU_ROWS", tile)
    monkeypatch.setattr(tiles, "BLOCK_ELEMENTS", block * VOCAB)
    found = fused(given, signal, terms)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for left, right in zip(gradients(found, given), gradients(expected, given), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["hidden", "dense", "mixture"])
def test_masked_positions_are_as_if_they_were_not_there(kind):
    given, signal = inputs(), whole_signals()[kind]
    terms = (FORWARD, CrossEntropy(), SampledReverseKL())
    kept = given.kept_M
    few = Inputs(
        given.hidden_ND.detach()[kept].requires_grad_(),
        given.head,
        given.labels_N[kept],
        torch.arange(len(kept)),
    )
    found, expected = fused(given, signal, terms), fused(few, signal.take(kept), terms)
    assert torch.equal(found.total, expected.total)
    ours, theirs = gradients(found, given), gradients(expected, few)
    assert torch.equal(ours[0][kept], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    masked = torch.ones(ROWS, dtype=torch.bool)
    masked[kept] = False
    assert masked.sum() == 5
    assert not ours[0][masked].any()


@pytest.mark.parametrize("kind", [None, "hidden", "dense", "mixture"])
def test_no_position_at_all_gives_nothing_and_no_gradient(kind):
    given = replace(inputs(), kept_M=torch.tensor([], dtype=torch.int64))
    signal = None if kind is None else whole_signals()[kind]
    terms = (CrossEntropy(),) if kind is None else (FORWARD, CrossEntropy(), SortedL1())
    found = fused(given, signal, terms)
    assert found.total == 0
    assert all(part == 0 for part in found.parts)
    assert all(not grad.any() and grad.isfinite().all() for grad in gradients(found, given))


def test_no_term_at_all_gives_nothing():
    given = inputs()
    found = fused(given, None, ())
    assert found.parts == ()
    (found.total + 0.0).backward()
    assert not given.hidden_ND.grad.any()


@pytest.mark.parametrize("term", [FORWARD, DIVERGENCES[1]])
@pytest.mark.parametrize("idle", [CrossEntropy(weight=0.0), Divergence(kind="tvd", weight=0.0)])
def test_a_term_without_weight_is_reported_and_moves_nothing(term, idle):
    given, signal = inputs(), whole_signals()["hidden"]
    alone, found = fused(given, signal, (term,)), fused(given, signal, (term, idle))
    torch.testing.assert_close(found.total, alone.total, rtol=1e-13, atol=1e-13)
    assert found.parts[1] > 0.01
    for left, right in zip(gradients(found, given), gradients(alone, given), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-13, atol=1e-13)


def test_only_reported_terms_have_a_gradient_of_zero():
    given = inputs()
    found = fused(given, whole_signals()["hidden"], (replace(FORWARD, weight=0.0),))
    assert found.parts[0] > 0.01
    assert not any(grad.any() for grad in gradients(found, given))


def test_parts_have_no_gradient_of_their_own():
    found = fused(inputs(), whole_signals()["hidden"], (FORWARD, CrossEntropy()))
    assert found.total.requires_grad
    assert not any(part.requires_grad for part in found.parts)


def test_a_teacher_takes_no_gradient_even_where_it_could():
    one = losses.hidden_teacher()
    for tensor in (one.states_NT, one.head.weight_VT, one.head.bias_V):
        tensor.requires_grad_()
    other = Dense(drawn(5, ROWS, VOCAB).requires_grad_())
    signal = Mixture(((0.5, one), (0.5, other)))
    fused(inputs(), signal, (FORWARD, DIVERGENCES[2])).total.backward()
    leaves = (one.states_NT, one.head.weight_VT, one.head.bias_V, other.logits_NV)
    assert all(leaf.grad is None for leaf in leaves)


def test_what_is_frozen_gets_no_gradient_and_the_rest_the_same():
    given, signal = inputs(), whole_signals()["hidden"]
    expected = gradients(fused(given, signal, (FORWARD,)), given)
    head = Head(given.head.weight_VT.detach(), given.head.bias_V.detach())
    frozen = fused(replace(given, head=head), signal, (FORWARD,))
    (found,) = torch.autograd.grad(frozen.total, [given.hidden_ND])
    assert torch.equal(found, expected[0])
    still = replace(given, hidden_ND=given.hidden_ND.detach())
    found = torch.autograd.grad(fused(still, signal, (FORWARD,)).total, given.leaves()[1:])
    assert all(torch.equal(left, right) for left, right in zip(found, expected[1:], strict=True))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", [None, "hidden", "sparse"])
def test_without_gradients_the_values_are_the_same(kind, mode):
    given = inputs()
    sparse = losses.sparse_teacher(5, 3)
    signal = {None: None, "sparse": sparse}.get(kind, whole_signals()["hidden"])
    terms = (CrossEntropy(),) if kind is None else (FORWARD, DIVERGENCES[2], CrossEntropy())
    expected = fused(given, signal, terms)
    with mode():
        found = fused(given, signal, terms)
    assert not found.total.requires_grad
    torch.testing.assert_close(found.parts, expected.parts, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("size", [1e4, 1e-4])
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_extreme_logits_give_numbers(size, softcap):
    terms = losses.weighed((*DIVERGENCES, CrossEntropy(), SortedL1(), SampledReverseKL()))
    terms += (replace(FORWARD, temperature=0.1),)
    given = inputs(F32, scale=size, softcap=softcap)
    loose = replace(losses.hidden_teacher(F32, scale=size).head, softcap=None)
    one = Hidden(drawn(6, ROWS, losses.TEACHER_WIDTH).float(), loose)
    for signal in (one, Mixture(((0.5, one), (0.5, Dense(size * drawn(7, ROWS, VOCAB)))))):
        found = fused(given, signal, terms)
        assert found.total.isfinite()
        assert all(part.isfinite() for part in found.parts)
        assert all(grad.isfinite().all() for grad in gradients(found, given))


@pytest.mark.parametrize("gap", [88.0, 104.0, 1e4])
def test_reverse_kl_sees_what_underflows_in_p(gap):
    logits = torch.zeros(1, VOCAB)
    logits[0, 0] = gap
    given = inputs(F32, rows=1, bias=False)
    given = replace(given, kept_M=torch.tensor([0]))
    given = replace(given, hidden_ND=torch.zeros_like(given.hidden_ND).requires_grad_())
    (found,) = fused(given, Dense(logits), (Divergence(kind="reverse_kl"),)).parts
    # An even q against a p that is all but one token: every other misses by the whole gap.
    expected = torch.tensor(gap * (VOCAB - 1) / VOCAB) - torch.log(torch.tensor(float(VOCAB)))
    torch.testing.assert_close(found, expected)


def test_where_student_and_teacher_tie_every_gradient_is_zero():
    # Products of whole numbers are exact, whichever way a CPU adds them up.
    given = inputs(F64, bias=False)
    with torch.no_grad():
        for whole in (given.hidden_ND, given.head.weight_VT):
            whole.copy_((4 * whole).round())
    same = Dense((given.hidden_ND @ given.head.weight_VT.t()).detach())
    found = fused(given, same, DIVERGENCES)
    assert all(abs(part) < 1e-14 for part in found.parts)
    (first, second) = gradients(found, given)
    assert first.abs().max() < 1e-14
    assert second.abs().max() < 1e-14


def test_the_head_of_the_adaptive_kl_takes_all_that_tie():
    # Four tokens of an eighth and 30 small ones: any three or all four hold "half of p".
    p = torch.full((1, VOCAB), 0.5 / (VOCAB - 4), dtype=F64)
    p[0, 3:7] = 0.125
    given = replace(inputs(F64, rows=1), kept_M=torch.tensor([0]))
    terms = (Divergence(kind="adaptive_kl"),)
    found, expected = (
        fused(given, Dense(p.log()), terms),
        losses.plain(given, Dense(p.log()), terms),
    )
    torch.testing.assert_close(found.total, expected.total, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["hidden", "sparse"])
def test_bfloat16_products_stay_close_and_keep_the_dtype_of_what_they_are_given(kind):
    hidden = losses.hidden_teacher(F32)
    signal = {"hidden": hidden, "sparse": losses.sparse_teacher(5, 3, F32)}[kind]
    terms = (FORWARD, CrossEntropy())
    wide, low = inputs(F32), inputs(F32)
    expected, found = fused(wide, signal, terms), fused(low, signal, terms, torch.bfloat16)
    assert found.total.dtype == F32
    torch.testing.assert_close(found.total, expected.total, rtol=0.02, atol=0.02)
    for left, right in zip(gradients(found, low), gradients(expected, wide), strict=True):
        assert left.dtype == F32
        assert torch.cosine_similarity(left.flatten(), right.flatten(), dim=0) > 0.999
        assert not torch.equal(left, right)


def test_bfloat16_parameters_take_gradients_summed_in_float32(monkeypatch):
    monkeypatch.setattr(fused_loss, "SLICE_ELEMENTS", 10 * losses.WIDTH)
    rows = 700  # a hundred tiles, whose sum in bfloat16 would stand still
    exact = inputs(F64, rows=rows)
    given = inputs(torch.bfloat16, rows=rows)
    signal = losses.hidden_teacher(torch.bfloat16, rows=rows)
    expected = gradients(losses.plain(exact, losses.hidden_teacher(rows=rows), (FORWARD,)), exact)
    found = fused(given, signal, (FORWARD,))
    assert found.total.dtype == F32
    for left, right in zip(gradients(found, given), expected, strict=True):
        assert left.dtype == torch.bfloat16
        assert (left.double() - right).norm() < 0.02 * right.norm()


def test_float64_states_are_computed_in_float64_whatever_dtype_is_asked():
    signal, given = whole_signals()["hidden"], inputs()
    found = fused(given, signal, (FORWARD,), torch.bfloat16)
    assert torch.equal(found.total, fused(given, signal, (FORWARD,)).total)


class Watch(TorchDispatchMode):
    """Notes the elements of every tensor made, views of older ones aside."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.most = max(self.most, out.numel())
        return out


@pytest.mark.parametrize("kind", [None, "hidden", "mixture", "sparse"])
def test_no_tensor_wider_than_a_tile_is_ever_made(kind):
    rows = 100
    given = replace(inputs(F32, rows=rows, softcap=5.0), kept_M=torch.arange(rows))
    one = losses.hidden_teacher(F32, rows=rows)
    mixture = Mixture(((0.5, one), (0.5, losses.hidden_teacher(F32, seed=30, rows=rows))))
    sparse = losses.sparse_teacher(3, 2, F32, rows=rows)
    signal = {"hidden": one, "mixture": mixture, "sparse": sparse, None: None}[kind]
    terms = (CrossEntropy(),) if kind is None else (*DIVERGENCES, CrossEntropy(), SortedL1())
    with Watch() as watch:
        fused(given, signal, terms).total.backward()
    assert watch.most < rows * 8  # states are rows x 6; a tile is 7 x 37
    with Watch() as watch:
        losses.plain(given, signal, terms).total.backward()
    assert watch.most >= rows * VOCAB  # what the check would see


def test_nothing_of_the_size_of_all_logits_is_kept_for_the_backward_pass():
    rows = 400
    given, signal = inputs(F32, rows=rows), losses.hidden_teacher(F32, rows=rows)
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = fused(given, signal, (FORWARD,))
        ours = list(kept)
        kept.clear()
        losses.plain(given, signal, (FORWARD,))
    assert max(kept) == len(given.kept_M) * VOCAB
    assert ours
    assert max(ours) == rows * losses.WIDTH
    loss.total.backward()
