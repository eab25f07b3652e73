"""A head says product, bias and cap; cut it keeps its rows; filled up it gives them nothing."""

import pytest
import torch

from distill.heads import fit, log_likelihood, logits
from distill.signals import Head


def heads() -> list[Head]:
    """Return heads of 7 rows: plain, with a bias, and with a cap too."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    bias = torch.randn(7, generator=generator, dtype=torch.float64)
    return [Head(weight), Head(weight, bias), Head(weight, bias, softcap=30.0)]


STATES = torch.randn(300, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("head", heads(), ids=["plain", "bias", "cap"])
def test_logits_are_the_product_then_bias_then_cap(head):
    expected = torch.einsum("nt,vt->nv", STATES, head.weight_VT)
    if head.bias_V is not None:
        expected = expected + head.bias_V
    if head.softcap is not None:
        expected = head.softcap * torch.tanh(expected / head.softcap)
    torch.testing.assert_close(logits(STATES, head), expected, atol=1e-12, rtol=0)


def test_the_product_runs_in_the_heads_dtype_and_the_rest_in_float32():
    weight = torch.tensor([[1.0, 1.0]], dtype=torch.bfloat16)
    made = logits(torch.tensor([[1.0, 2.0**-10]]), Head(weight, torch.tensor([2.0**-10])))
    assert made.dtype == logits(torch.ones(1, 2), Head(weight)).dtype == torch.float32
    assert made.item() == 1.0 + 2.0**-10


@pytest.mark.parametrize("head", heads(), ids=["plain", "bias", "cap"])
def test_a_head_that_is_cut_keeps_its_first_rows_and_copies_nothing(head):
    cut = fit(head, 5)
    torch.testing.assert_close(logits(STATES, cut), logits(STATES, head)[:, :5])
    assert cut.weight_VT.data_ptr() == head.weight_VT.data_ptr()
    assert fit(head, 7).weight_VT.shape == (7, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head", heads(), ids=["plain", "bias", "cap"])
def test_rows_that_are_filled_up_have_no_probability(head, dtype):
    bias = None if head.bias_V is None else head.bias_V.to(dtype)
    head = Head(head.weight_VT.to(dtype), bias, head.softcap)
    filled = fit(head, 10)
    p, before = logits(STATES, filled).softmax(-1), logits(STATES, head).softmax(-1)
    torch.testing.assert_close(p[:, :7], before)
    most = 0.0 if head.softcap is None else 1e-9
    assert p[:, 7:].max() <= most
    assert torch.isfinite(logits(STATES, filled).log_softmax(-1)).all()
    assert filled.weight_VT.dtype == dtype


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the most elements of any tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor):
                self.largest = max(self.largest, one.numel())
        return made


def test_log_likelihoods_are_those_of_the_whole_softmax_and_no_more_than_a_tile_is_held():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(300, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    bias = torch.randn(50, generator=generator, dtype=torch.float64)
    labels = torch.randint(50, (300,), generator=generator)
    head = Head(weight, bias, softcap=5.0)
    z = 5 * torch.tanh((states @ weight.t() + bias) / 5)
    expected = z.log_softmax(-1).gather(1, labels[:, None])[:, 0].float()
    seen = Largest()
    with seen:
        found = log_likelihood(states, head, labels)
    torch.testing.assert_close(found, expected)
    assert seen.largest < 300 * 50
    assert log_likelihood(states[:0], head, labels[:0]).shape == (0,)
