"""One step's loss is one mean over all positions that count, however its batch was split."""

import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distill.batches import Batch, Part, Voice
from distill.loss.hidden_match import hidden_match
from distill.loss.objective import (
    ChunkLikelihood,
    CrossEntropy,
    Divergence,
    HiddenMatch,
    Prediction,
    Router,
    SampledReverseKL,
    SortedL1,
    over_vocabulary,
)
from distill.loss.step_loss import StepLoss, Terms
from distill.signals import Chunks, Dense, Mixture, Signal, Text
from distill.stopwatch import Stopwatch
from student.documents import Documents
from student.model import Ahead, Output
from tests.fakes.lessons import Heard
from tests.fakes.losses import (
    DIVERGENCES,
    ROWS,
    TEACHER_WIDTH,
    VOCAB,
    WIDTH,
    Inputs,
    drawn,
    hidden_teacher,
    inputs,
    plain,
    sparse_teacher,
    weighed,
)

CPU = torch.device("cpu")
LENGTHS = (9, 1, 14)
KEPT = inputs().kept_M
ODD, EVEN = KEPT[KEPT % 2 == 1], KEPT[KEPT % 2 == 0]
FIRST, REST = KEPT[:5], KEPT[5:]
MSE = HiddenMatch(kind="hidden_mse", weight=0.7)
COSINE = HiddenMatch(kind="hidden_cosine", weight=0.4)
DENSE = Dense(2 * drawn(5, ROWS, VOCAB))
SIGNALS: dict[str, Signal | None] = {
    "hidden": hidden_teacher(),
    "dense": DENSE,
    "mixture": Mixture(((0.3, hidden_teacher(seed=60)), (0.7, DENSE))),
    "sparse": sparse_teacher(6, 3),
    "text": Text(-drawn(6, ROWS).abs()),
    "none": None,
}
WHOLE = weighed((*DIVERGENCES, CrossEntropy(), SortedL1(), MSE, COSINE))


class Scene:
    """A student's side of a step, float64, with two prediction layers and a projector."""

    def __init__(self, lengths: Sequence[int] = LENGTHS) -> None:
        self.given = inputs(bias=False)
        self.lengths = tuple(lengths)
        self.projector = torch.nn.Linear(WIDTH, TEACHER_WIDTH, bias=False).double()
        self.projector.weight.data = drawn(7, TEACHER_WIDTH, WIDTH)
        self.balance, self.indexer = (drawn(8, 2) ** 2).requires_grad_().unbind()
        self.further = [self._further(depth) for depth in (1, 2)]

    def _further(self, depth: int) -> Ahead:
        cut = Documents(self.lengths, CPU).shortened(depth)
        made = drawn(20 + depth, len(cut.kept), WIDTH).requires_grad_()
        return Ahead(made, cut.kept_P + depth, cut.kept + depth)

    def batch(self, *parts: Part) -> Batch:
        return Batch(
            token_N=torch.zeros(ROWS, dtype=torch.int64),
            lengths=self.lengths,
            label_N=self.given.labels_N,
            parts=parts,
        )

    def loss(
        self, terms, *parts: Part, depths=0, weight=0.5, clock=None, dtype=torch.float64
    ) -> Terms:
        output = Output(
            hidden_ND=self.given.hidden_ND,
            ahead=tuple(self.further[:depths]),
            choices=None,
            loads=(),
            balance_loss=self.balance,
            index_loss=self.indexer,
            memory=(),
        )
        model = SimpleNamespace(head_weight=lambda: self.given.head.weight_VT)
        step = StepLoss(terms, model, self.projector, dtype=dtype)
        return step(self.batch(*parts), output, weight, clock or Stopwatch(CPU))

    def gradients(self, loss: torch.Tensor) -> list[torch.Tensor]:
        """Return the gradients of everything that takes one, 0 where it is not in the loss."""
        further = [made.hidden_PD for made in self.further]
        leaves = [*self.given.leaves(), self.projector.weight, *further]
        return list(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))


def part(at_M: torch.Tensor, signal: Signal | None = None, *, own: bool = False) -> Part:
    voices = () if signal is None else (Voice(weight=1.0, source=Heard(signal), row_M=at_M),)
    return Part(at_M=at_M, voices=voices, own=own)


def on(given: Inputs, at_M: torch.Tensor) -> Inputs:
    return replace(given, kept_M=at_M)


def expected(scene: Scene, at_M, signal, terms) -> torch.Tensor:
    """Return by the definitions the sum over positions of all that `terms` make of them."""
    over = over_vocabulary(terms)
    found = plain(on(scene.given, at_M), signal, over).total if over else torch.zeros(())
    for term in terms:
        if isinstance(term, HiddenMatch):
            states, projector = signal.states_NT, scene.projector.weight
            found = found + term.weight * hidden_match(
                term.kind, scene.given.hidden_ND, projector, states, at_M
            )
    return found * len(at_M)


def assert_equal(scene: Scene, found: torch.Tensor, wanted: torch.Tensor) -> list[torch.Tensor]:
    """Compare losses and gradients; return the gradients."""
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    ours, theirs = scene.gradients(found), scene.gradients(wanted)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    return ours


def served(name: str) -> tuple:
    """Return those of all the terms that a text taught by this signal has."""
    match name:
        case "hidden":
            return WHOLE
        case "text" | "none":
            return tuple(term for term in WHOLE if isinstance(term, CrossEntropy))
    return over_vocabulary(WHOLE)


# One part, and the same in several.


@pytest.mark.parametrize("name", SIGNALS)
def test_one_part_is_the_mean_of_its_terms_over_its_positions(name):
    scene, signal = Scene(), SIGNALS[name]
    found = scene.loss(WHOLE, part(KEPT, signal))
    assert_equal(scene, found.total, expected(scene, KEPT, signal, served(name)) / len(KEPT))


@pytest.mark.parametrize(
    "split", [(ODD, EVEN), (FIRST, REST), (REST, FIRST)], ids=["mixed", "cut", "turned"]
)
@pytest.mark.parametrize("name", SIGNALS)
def test_a_part_split_in_two_is_the_same_loss_with_the_same_gradients(name, split):
    scene, signal = Scene(), SIGNALS[name]
    whole = scene.loss(WHOLE, part(KEPT, signal), depths=2)
    halves = scene.loss(WHOLE, *(part(at_M, signal) for at_M in split), depths=2)
    assert_equal(scene, halves.total, whole.total)
    assert halves.values.keys() == whole.values.keys()
    torch.testing.assert_close(halves.values, whole.values, rtol=1e-12, atol=1e-12)


def test_positions_of_several_teachers_make_one_mean():
    scene = Scene()
    third, rest = KEPT[1::3], torch.cat([KEPT[0::3], KEPT[2::3]]).sort().values
    found = scene.loss(WHOLE, part(third, SIGNALS["hidden"]), part(rest, DENSE))
    sums = expected(scene, third, SIGNALS["hidden"], WHOLE)
    sums = sums + expected(scene, rest, DENSE, over_vocabulary(WHOLE))
    assert_equal(scene, found.total, sums / len(KEPT))


def test_a_term_is_reported_as_its_mean_over_the_positions_it_applied_to():
    scene, signal = Scene(), SIGNALS["hidden"]
    terms = (DIVERGENCES[0], CrossEntropy(weight=0.2), MSE)
    found = scene.loss(terms, part(FIRST, signal), part(REST))
    kl = plain(on(scene.given, FIRST), signal, terms[:1]).parts[0]
    ce = plain(on(scene.given, KEPT), None, terms[1:2]).parts[0]
    torch.testing.assert_close(found.values["forward_kl"], kl, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.values["cross_entropy"], ce, rtol=1e-12, atol=1e-12)
    mse = hidden_match(
        "hidden_mse", scene.given.hidden_ND, scene.projector.weight, signal.states_NT, FIRST
    )
    torch.testing.assert_close(found.values["hidden_mse"], mse.detach(), rtol=1e-12, atol=1e-12)
    # In the loss it counts for as many positions as it applied to.
    total = (kl * len(FIRST) + 0.7 * mse * len(FIRST) + 0.2 * ce * len(KEPT)) / len(KEPT)
    torch.testing.assert_close(found.total, total, rtol=1e-12, atol=1e-12)


def test_terms_of_one_kind_are_told_apart_by_their_numbers():
    scene = Scene()
    terms = (Divergence(kind="forward_kl"), Divergence(kind="forward_kl", temperature=2.0))
    values = scene.loss(terms, part(KEPT, DENSE)).values
    parts = plain(on(scene.given, KEPT), DENSE, terms).parts
    for name, wanted in zip(("forward_kl", "forward_kl_2"), parts, strict=True):
        torch.testing.assert_close(values[name], wanted, rtol=1e-12, atol=1e-12)


# Which terms are for which positions.

ANYWHERE, TEXT_ALONE, OWN_ALONE = (
    Divergence(kind="forward_kl"),
    Divergence(kind="reverse_kl", on="text"),
    Divergence(kind="tvd", on="own"),
)
APPLIES: list[tuple[object, set[str]]] = [
    (CrossEntropy(), {"text", "text of text", "text alone"}),
    (ANYWHERE, {"text", "own"}),
    (TEXT_ALONE, {"text"}),
    (OWN_ALONE, {"own"}),
    (SampledReverseKL(), {"own", "own of text"}),
    (SortedL1(), {"text", "own"}),
    (MSE, {"text", "own"}),
    (ChunkLikelihood(), set()),
]


@pytest.mark.parametrize(("term", "places"), APPLIES, ids=lambda value: getattr(value, "kind", ""))
def test_a_term_applies_to_these_positions_and_to_no_others(term, places):
    # Who wrote it, and what its teacher gives where that is not a whole distribution.
    given = {
        "text": part(KEPT, SIGNALS["hidden"]),
        "own": part(KEPT, SIGNALS["hidden"], own=True),
        "text of text": part(KEPT, SIGNALS["text"]),
        "own of text": part(KEPT, SIGNALS["text"], own=True),
        "text alone": part(KEPT),
        "own alone": part(KEPT, own=True),
    }
    scene = Scene()
    found = {name: scene.loss((term,), one) for name, one in given.items()}
    assert {name for name, made in found.items() if term.kind in made.values} == places
    assert {name for name, made in found.items() if made.total != 0} == places


def test_a_step_of_text_own_answers_and_untaught_text_weighs_each_by_its_positions():
    scene, signal = Scene(), SIGNALS["hidden"]
    text, own, alone = KEPT[:8], KEPT[8:11], KEPT[11:]
    terms = weighed((CrossEntropy(), ANYWHERE, TEXT_ALONE, OWN_ALONE, SampledReverseKL(), COSINE))
    ce, anywhere, on_text, on_own, sampled, cosine = terms
    found = scene.loss(
        terms, part(text, signal), part(own, signal, own=True), part(alone), depths=0
    )
    sums = [
        expected(scene, text, signal, (ce, anywhere, on_text, cosine)),
        expected(scene, own, signal, (anywhere, on_own, sampled, cosine)),
        expected(scene, alone, None, (ce,)),
    ]
    assert_equal(scene, found.total, sum(sums) / len(KEPT))


# Chunks, which speak across tokenizers.

CHUNKS = Chunks(
    chunk_N=torch.tensor([-1, 0, 0, 0, 1, 1, 2, -1, 3, 3, 3, 4] + [-1] * 12),
    logp_C=-drawn(9, 5).abs() * 3,
)
IN_CHUNKS = torch.arange(12)


def test_a_part_of_chunks_has_the_mean_over_its_chunks_weighed_by_its_positions():
    scene = Scene()
    terms = (ChunkLikelihood(weight=3.0, temperature=5.0), CrossEntropy(weight=0.3), ANYWHERE)
    rest = torch.arange(12, ROWS)
    found = scene.loss(terms, part(IN_CHUNKS, CHUNKS), part(rest))
    sums = expected(scene, IN_CHUNKS, CHUNKS, terms[:2]) + expected(scene, rest, None, terms[1:2])
    assert_equal(scene, found.total, sums / ROWS)
    assert found.values.keys() == {"chunk_likelihood", "cross_entropy", "balance", "indexer"}


def test_a_prediction_layer_learns_only_chunks_it_predicts_whole():
    scene = Scene()
    terms = (ChunkLikelihood(temperature=5.0),)
    found = scene.loss(terms, part(IN_CHUNKS, CHUNKS), depths=1).values["mtp"]
    # Targets 0, 9 and 10 have too few tokens before them: chunk 3 is not whole.
    target_P = scene.further[0].target_P
    kept = torch.isin(target_P, IN_CHUNKS).nonzero()[:, 0]
    assert 9 not in target_P and 8 in target_P
    made = replace(
        scene.given,
        hidden_ND=scene.further[0].hidden_PD,
        labels_N=scene.given.labels_N[target_P],
        kept_M=kept,
    )
    whole = torch.where(CHUNKS.chunk_N == 3, -1, CHUNKS.chunk_N)
    wanted = plain(made, Chunks(whole[target_P], CHUNKS.logp_C), terms)
    torch.testing.assert_close(found, wanted.total.detach(), rtol=1e-12, atol=1e-12)


# Prediction layers.


def ahead(scene: Scene, depth: int, parts, terms) -> torch.Tensor:
    """Return by the definitions what a prediction layer is to minimise."""
    made = scene.further[depth]
    total, count = torch.zeros((), dtype=torch.float64), 0
    for at_M, signal in parts:
        kept = torch.isin(made.target_P, at_M).nonzero()[:, 0]
        layer = replace(
            scene.given,
            hidden_ND=made.hidden_PD,
            labels_N=scene.given.labels_N[made.target_P],
            kept_M=kept,
        )
        said = None if signal is None else signal.take(made.target_P)
        total = total + plain(layer, said, terms(signal)).total * len(kept)
        count += len(kept)
    return total / count


def by_signal(signal) -> tuple:
    return DIVERGENCES if signal is not None else (CrossEntropy(weight=2.0),)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_a_prediction_layer_learns_the_terms_at_the_positions_it_predicts(weight):
    scene, signal = Scene(), SIGNALS["hidden"]
    terms = (*(replace(term, on="all") for term in DIVERGENCES), CrossEntropy(weight=2.0))
    found = scene.loss(terms, part(ODD, signal, own=True), part(EVEN), depths=2, weight=weight)
    without = scene.loss(terms, part(ODD, signal, own=True), part(EVEN))
    layers = [ahead(scene, depth, ((ODD, signal), (EVEN, None)), by_signal) for depth in (0, 1)]
    mean = sum(layers) / 2
    assert_equal(scene, found.total, without.total + weight * mean)
    torch.testing.assert_close(found.values["mtp"], mean.detach(), rtol=1e-12, atol=1e-12)
    assert "mtp" not in without.values


def test_the_values_of_terms_are_the_main_heads_alone():
    scene = Scene()
    one, both = (scene.loss(WHOLE, part(KEPT, DENSE), depths=depths) for depths in (0, 2))
    assert set(both.values) - set(one.values) == {"mtp"}
    for name, value in one.values.items():
        assert torch.equal(both.values[name], value)


def test_hidden_states_are_matched_by_the_main_head_alone():
    scene, signal = Scene(), SIGNALS["hidden"]
    found = scene.loss((MSE, COSINE), part(KEPT, signal), depths=2)
    assert found.values["mtp"] == 0
    *_, first, second = scene.gradients(found.total)
    assert not first.any() and not second.any()


def test_a_prediction_layer_none_of_whose_targets_count_learns_nothing():
    scene = Scene()
    starts = torch.tensor([0, 9])  # no token before these
    found = scene.loss(WHOLE, part(starts, DENSE), depths=1)
    assert found.values["mtp"] == 0
    assert found.total.isfinite()


# Hidden states, and what comes from inside the network.


@pytest.mark.parametrize("term", [MSE, COSINE])
def test_a_term_of_hidden_states_moves_the_projector_and_the_student(term):
    scene, signal = Scene(), SIGNALS["hidden"]
    found = scene.loss((term,), part(ODD, signal), part(EVEN, DENSE))
    wanted = expected(scene, ODD, signal, (term,)) / len(KEPT)
    hidden_ND, _, projector_TD, *_ = assert_equal(scene, found.total, wanted)
    assert projector_TD.any()
    assert hidden_ND.any(-1).nonzero()[:, 0].tolist() == ODD.tolist()


def test_the_networks_own_terms_have_their_weights_and_are_reported_without():
    scene = Scene()
    terms = (
        CrossEntropy(weight=0.0),
        Router(kind="balance", weight=0.25),
        Router(kind="indexer", weight=3.0),
        Prediction(weight=9.0),
    )
    found = scene.loss(terms, part(KEPT))
    wanted = 0.25 * scene.balance + 3.0 * scene.indexer
    torch.testing.assert_close(found.total, wanted, rtol=1e-12, atol=1e-12)
    slopes = torch.autograd.grad(found.total, [scene.balance, scene.indexer])
    assert [float(slope) for slope in slopes] == [0.25, 3.0]
    assert found.values["balance"] == scene.balance
    assert found.values["indexer"] == scene.indexer
    assert scene.loss((CrossEntropy(),), part(KEPT)).values["balance"] == scene.balance


def test_values_have_no_gradient_and_the_total_has_one():
    found = Scene().loss(WHOLE, part(KEPT, SIGNALS["hidden"]), depths=2)
    assert found.total.requires_grad
    assert {name for name, value in found.values.items() if value.requires_grad} == set()


def test_a_batch_in_which_nothing_counts_has_the_networks_own_terms_alone():
    scene = Scene()
    found = scene.loss((*WHOLE, Router(kind="balance", weight=2.0)))
    assert found.total == 2 * scene.balance
    assert found.values.keys() == {"balance", "indexer"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_network_of_less_precision_is_summed_in_float32(dtype):
    scene, signal = Scene(), hidden_teacher(torch.float32)
    scene.projector.float()
    scene.balance, scene.indexer = torch.zeros(2).unbind()
    head = replace(scene.given.head, weight_VT=scene.given.head.weight_VT.detach().float())
    low = scene.given.hidden_ND.detach().to(dtype)
    totals = []
    for hidden in (low, low.float()):
        scene.given = replace(scene.given, hidden_ND=hidden, head=head)
        totals.append(scene.loss(WHOLE, part(KEPT, signal), dtype=torch.float32).total)
    assert totals[0].dtype == torch.float32
    assert torch.equal(*totals)


def test_reading_what_teachers_said_is_data_and_all_else_is_loss():
    watch = Stopwatch(CPU)
    asked = []

    class Slow(Heard):
        def at(self, row_M, device):
            asked.append(dict(watch.spent))
            return super().at(row_M, device)

    one = Part(at_M=KEPT, voices=(Voice(weight=1.0, source=Slow(DENSE), row_M=KEPT),))
    Scene().loss(WHOLE, one, clock=watch)
    assert asked[0] == {}
    assert watch.spent.keys() == {"data", "loss"}
    assert all(seconds > 0 for seconds in watch.spent.values())


def test_one_part_s_teachers_are_let_go_before_the_next_ones_are_heard():
    alive: list[weakref.ref] = []

    class Watched(Heard):
        def at(self, row_M, device):
            assert all(there() is None for there in alive)
            said = super().at(row_M, device)
            mine = replace(said, head=replace(said.head, weight_VT=said.head.weight_VT.clone()))
            alive.append(weakref.ref(mine.head.weight_VT))
            return mine

    parts = [
        Part(at_M=at_M, voices=(Voice(weight=1.0, source=Watched(signal), row_M=at_M),))
        for at_M, signal in ((KEPT[::2], hidden_teacher()), (KEPT[1::2], hidden_teacher(seed=31)))
    ]
    terms = weighed((*DIVERGENCES, CrossEntropy()))
    gc.disable()  # nothing may wait for it
    try:
        Scene().loss(terms, *parts, depths=2)
    finally:
        gc.enable()
    assert len(alive) == 6


def test_parts_share_one_gradient_of_the_head():
    made: list[tuple[int, ...]] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and func is torch.ops.aten.zeros.default:
                made.append(tuple(out.shape))
            return out

    scene = Scene()
    with Watch():
        scene.loss((CrossEntropy(),), part(KEPT[::2]), part(KEPT[1::2], DENSE))
    assert made.count((VOCAB, WIDTH)) == 1  # and zeros are what sums begin with
