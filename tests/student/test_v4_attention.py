"""A layer's attention needs memory in proportion to its length, and trains its indexer apart."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from student.config import V4Config
from student.documents import Documents
from student.rotary import frequencies
from student.v4_attention import Positions, V4Attention
from tests.fakes.memory import Largest

CPU = torch.device("cpu")
CONFIG = V4Config(
    hidden_size=32,
    num_heads=4,
    head_dim=32,
    qk_rope_head_dim=8,
    q_lora_rank=16,
    o_groups=2,
    o_lora_rank=8,
    index_num_heads=4,
    index_head_dim=8,
    index_top_k=8,
)
LAYERS = {
    "swa": ("swa", False),
    "csa": ("csa", False),
    "hca": ("hca", False),
    "csa dense": ("csa", True),
}


def layer(kind: str) -> V4Attention:
    made, generator = V4Attention(CONFIG, kind), torch.Generator().manual_seed(0)
    for name, parameter in made.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
        if name.endswith("norm.weight"):
            parameter.data.fill_(2.0)  # sharp attention, so that there is something to learn
    return made


def positions(lengths) -> Positions:
    plain_R, slow_R = (frequencies(CONFIG.qk_rope_head_dim, base, None) for base in (1e4, 1.6e5))
    return Positions.of(Documents(lengths, CPU), plain_R, slow_R)


def stream(total: int) -> torch.Tensor:
    return torch.randn(total, CONFIG.hidden_size, generator=torch.Generator().manual_seed(1))


class Softmaxes(TorchDispatchMode):
    """How many softmaxes were computed, and the most of them that were held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[weakref.ref] = []
        self.held = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._softmax.default and out.ndim == 3 and out.shape[1] > 64:
            self.made.append(weakref.ref(out))
            self.held = max(self.held, sum(ref() is not None for ref in self.made))
        return out


@pytest.mark.parametrize("lengths", [(2048,), (64,) * 32, (1500, 3, 545)], ids=["one", "32", "3"])
@pytest.mark.parametrize("name", LAYERS)
def test_no_tensor_of_a_layer_comes_near_n_by_n_numbers(name, lengths):
    kind, dense = LAYERS[name]
    attention, x_ND = layer(kind), stream(2048).requires_grad_()
    with Largest() as seen:
        made = attention(x_ND, positions(lengths), dense=dense, train_indexer=True)
        (made.output_ND.sum() + (made.index_loss or 0)).backward()
    # At most a tile; the least is the queries of all tokens.
    assert 2048 * 4 * 32 <= seen.numbers < 2**19 + 2**15 < 2048 * 2048 // 7
    assert x_ND.grad.norm() > 0


@pytest.mark.parametrize("name", LAYERS)
def test_the_softmax_is_kept_only_where_there_will_be_a_backward_pass(name):
    kind, dense = LAYERS[name]
    attention, x_ND, places = layer(kind), stream(4096), positions((4096,))
    with Softmaxes() as learning:
        attention(x_ND, places, dense=dense)
    with torch.no_grad(), Softmaxes() as reading:
        attention(x_ND, places, dense=dense)
    assert learning.held == len(learning.made) == len(reading.made) >= 5
    assert reading.held <= 2


@pytest.mark.parametrize("dense", [False, True])
def test_the_index_loss_moves_the_indexer_alone_and_all_of_it(dense):
    attention, x_ND = layer("csa"), stream(100).requires_grad_()
    made = attention(x_ND, positions((80, 20)), dense=dense, train_indexer=True)
    made.index_loss.backward()
    assert x_ND.grad is None
    for name, parameter in attention.named_parameters():
        if name.startswith("indexer."):
            assert parameter.grad.norm() > 0, name
        else:
            assert parameter.grad is None, name


@pytest.mark.parametrize("dense", [False, True])
def test_steps_on_one_batch_bring_the_index_loss_down(dense):
    attention, x_ND, places = layer("csa"), stream(140), positions((90, 50))
    optimizer = torch.optim.SGD(attention.indexer.parameters(), lr=1.0)
    losses = []
    for _ in range(25):
        made = attention(x_ND, places, dense=dense, train_indexer=True)
        optimizer.zero_grad()
        made.index_loss.backward()
        optimizer.step()
        losses.append(made.index_loss.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("dense", [False, True])
def test_the_output_moves_everything_but_the_indexer(dense):
    attention, x_ND = layer("csa"), stream(100).requires_grad_()
    attention(x_ND, positions((80, 20)), dense=dense).output_ND.square().sum().backward()
    assert x_ND.grad.norm() > 0
    for name, parameter in attention.named_parameters():
        still = name.startswith("indexer.")
        assert (parameter.grad is None) == still, name
        assert still or parameter.grad.norm() > 0, name


def test_there_is_an_index_loss_only_where_there_is_an_indexer_and_it_was_asked_for():
    x_ND, places = stream(40), positions((40,))
    assert layer("csa")(x_ND, places).index_loss is None
    for kind in ("swa", "hca"):
        assert layer(kind)(x_ND, places, train_indexer=True).index_loss is None
    # No document is long enough for an entry.
    none = layer("csa")(stream(9), positions((3, 3, 3)), train_indexer=True)
    assert none.index_loss is None
    assert none.output_ND.isfinite().all()


def test_a_choice_is_told_only_where_it_binds():
    attention = layer("csa")
    assert attention(stream(40), positions((35, 5))).choice_NK is None
    assert attention(stream(40), positions((36, 4))).choice_NK.shape == (40, 8)
    assert attention(stream(40), positions((36, 4)), dense=True).choice_NK is None
