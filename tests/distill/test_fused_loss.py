"""The fused loss is the plain one: same values, same gradients, without the logits."""

from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from distill import fused_loss
from distill.divergences import cross_entropy, sparse_forward_kl
from distill.fused_loss import Loss, distillation_loss
from distill.signals import Sparse, sparsify

ROWS, WIDTH, VOCAB = 24, 6, 37
KEPT = torch.tensor([i for i in range(ROWS) if i % 5])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def leaves(dtype: torch.dtype, rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor]:
    hidden = torch.randn(rows, WIDTH, generator=generator(0), dtype=torch.float64)
    head = torch.randn(VOCAB, WIDTH, generator=generator(1), dtype=torch.float64)
    return hidden.to(dtype).requires_grad_(), head.to(dtype).requires_grad_()


def labels(rows: int = ROWS) -> torch.Tensor:
    return torch.randint(0, VOCAB, (rows,), generator=generator(2))


def teacher(dtype: torch.dtype, rows: int = ROWS, head: int = 5) -> Sparse:
    logits = 2 * torch.randn(rows, VOCAB, generator=generator(3))
    signal = sparsify(logits, head=head, tail=3, generator=generator(4))
    return replace(
        signal,
        head_p_NH=signal.head_p_NH.to(dtype),
        tail_mass_N=signal.tail_mass_N.to(dtype),
        entropy_N=signal.entropy_N.to(dtype),
    )


def fused(hidden, head, signal, dtype, *, kl=0.7, ce=0.3, kept=KEPT) -> Loss:
    return distillation_loss(
        hidden, head, labels(len(hidden)), kept, signal, kl_weight=kl, ce_weight=ce, dtype=dtype
    )


def plain(hidden, head, signal, *, kl=0.7, ce=0.3, kept=KEPT) -> Loss:
    """Return the same loss by the definitions and torch's own gradients."""
    logq = (hidden @ head.t()).log_softmax(-1)
    hard = cross_entropy(labels(len(hidden)), logq)[kept].mean()
    if signal is None:
        return Loss(ce * hard, None, hard)
    soft = sparse_forward_kl(signal, logq)[kept].mean()
    return Loss(kl * soft + ce * hard, soft, hard)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("taught", [True, False])
def test_values_and_gradients_are_those_of_the_definitions(dtype, tolerance, taught):
    weights = {"kl": 0.7, "ce": 0.3} if taught else {"kl": 0.0, "ce": 0.8}
    exact, ours = leaves(torch.float64), leaves(dtype)
    expected = plain(*exact, teacher(torch.float64) if taught else None, **weights)
    found = fused(*ours, teacher(dtype) if taught else None, dtype, **weights)
    (3.0 * expected.total).backward()
    (3.0 * found.total).backward()
    limits = {"rtol": tolerance, "atol": tolerance}
    for left, right in zip(found, expected, strict=True):
        assert (left is None) == (right is None)
        if left is not None:
            torch.testing.assert_close(left.double(), right, **limits)
    for left, right in zip(ours, exact, strict=True):
        assert left.grad.dtype == dtype
        torch.testing.assert_close(left.grad.double(), right.grad, **limits)


@pytest.mark.parametrize(("kl", "ce"), [(1.0, 0.0), (0.0, 1.0), (0.4, 2.0)])
def test_each_term_counts_by_its_weight(kl, ce):
    exact = fused(*leaves(torch.float64), teacher(torch.float64), torch.float64, kl=kl, ce=ce)
    expected = kl * exact.forward_kl + ce * exact.cross_entropy
    torch.testing.assert_close(exact.total.detach(), expected)


def test_numeric_differences_confirm_the_gradient():
    signal = teacher(torch.float64)

    def total(hidden, head):
        return fused(hidden, head, signal, torch.float64).total

    assert torch.autograd.gradcheck(total, leaves(torch.float64))


@pytest.mark.parametrize("tile_rows", [1, 2, 7, 19, 1000])
def test_tiles_of_any_size_give_the_same(monkeypatch, tile_rows):
    whole, cut = leaves(torch.float64), leaves(torch.float64)
    expected = fused(*whole, teacher(torch.float64), torch.float64)
    monkeypatch.setattr(fused_loss, "TILE_ELEMENTS", tile_rows * VOCAB)
    found = fused(*cut, teacher(torch.float64), torch.float64)
    expected.total.backward()
    found.total.backward()
    torch.testing.assert_close(found.total, expected.total, rtol=1e-12, atol=1e-12)
    for left, right in zip(cut, whole, strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-12, atol=1e-12)


def test_a_vocabulary_wider_than_a_tile_is_taken_row_by_row(monkeypatch):
    monkeypatch.setattr(fused_loss, "TILE_ELEMENTS", VOCAB - 1)
    found = fused(*leaves(torch.float64), teacher(torch.float64), torch.float64)
    expected = plain(*leaves(torch.float64), teacher(torch.float64))
    torch.testing.assert_close(found.total, expected.total)


def test_masked_positions_have_no_gradient_and_no_part_in_the_loss():
    hidden, head = leaves(torch.float64)
    found = fused(hidden, head, teacher(torch.float64), torch.float64)
    found.total.backward()
    masked = torch.ones(ROWS, dtype=torch.bool)
    masked[KEPT] = False
    assert masked.sum() == 5
    assert not hidden.grad[masked].any()
    assert hidden.grad[~masked].any(-1).all()
    with torch.no_grad():
        changed = hidden.detach().clone()
        changed[masked] = 1e3
        again = fused(changed, head, teacher(torch.float64), torch.float64)
    assert torch.equal(again.total, found.total)


def test_the_same_token_in_head_tail_and_label_is_counted_each_time():
    signal = Sparse(
        torch.tensor([[3, 1]]),
        torch.tensor([[0.5, 0.2]], dtype=torch.float64),
        torch.tensor([[9, 9, 4]]),
        torch.tensor([0.3], dtype=torch.float64),
        torch.tensor([1.0], dtype=torch.float64),
    )
    kept = torch.tensor([0])
    exact, ours = leaves(torch.float64, rows=1), leaves(torch.float64, rows=1)
    plain(*exact, signal, kept=kept).total.backward()
    fused(*ours, signal, torch.float64, kept=kept).total.backward()
    for left, right in zip(ours, exact, strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-10, atol=1e-10)


def test_bfloat16_products_stay_close_and_keep_the_dtype_of_what_they_are_given():
    wide, low = leaves(torch.float32), leaves(torch.float32)
    expected = fused(*wide, teacher(torch.float32), torch.float32)
    found = fused(*low, teacher(torch.float32), torch.bfloat16)
    expected.total.backward()
    found.total.backward()
    assert found.total.dtype == torch.float32
    torch.testing.assert_close(found.total, expected.total, rtol=0.02, atol=0.02)
    for left, right in zip(low, wide, strict=True):
        assert left.grad.dtype == torch.float32
        cosine = torch.cosine_similarity(left.grad.flatten(), right.grad.flatten(), dim=0)
        assert cosine > 0.999
        assert not torch.equal(left.grad, right.grad)


def test_logits_of_a_thousand_do_not_overflow():
    hidden, head = leaves(torch.float32)
    found = fused(1000 * hidden, head, teacher(torch.float32), torch.float32)
    found.total.backward()
    assert torch.isfinite(found.total)
    assert torch.isfinite(head.grad).all()


def test_nothing_of_the_size_of_all_logits_is_kept_for_the_backward_pass():
    hidden, head = leaves(torch.float32, rows=400)
    kept: list[tuple[int, ...]] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = fused(
            hidden, head, teacher(torch.float32, 400), torch.float32, kept=torch.arange(400)
        )
        fused_saves = list(kept)
        kept.clear()
        plain(hidden, head, teacher(torch.float32, 400), kept=torch.arange(400))
    assert (400, VOCAB) in kept  # what the plain loss keeps, and this check would see
    assert fused_saves
    assert max(torch.Size(shape).numel() for shape in fused_saves) < 400 * VOCAB
    loss.total.backward()


def test_no_tensor_wider_than_a_tile_is_ever_made(monkeypatch):
    from torch.utils._python_dispatch import TorchDispatchMode

    made: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.shape[-1:] == (VOCAB,):
                made.append(out.shape[0] if out.ndim > 1 else 1)
            return out

    monkeypatch.setattr(fused_loss, "TILE_ELEMENTS", 10 * VOCAB)
    hidden, head = leaves(torch.float32, rows=400)
    signal = teacher(torch.float32, 400)
    with Watch():
        found = fused(hidden, head, signal, torch.float32, kept=torch.arange(400))
        found.total.backward()
    rows = [count for count in made if count != WIDTH]  # the head, transposed, is [D, V]
    assert rows
    assert max(rows) == 10
