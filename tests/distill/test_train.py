"""A run is a function of its config: cut anywhere and resumed, it takes the same steps."""

from dataclasses import replace

import pytest
import torch

from distill.checkpoint import Checkpoints
from distill.config import OptimizerConfig, RunConfig, TextConfig, TrainConfig
from distill.errors import DistillError
from distill.heads import logits
from distill.loss.objective import CrossEntropy, Divergence, Prediction, Router
from distill.signals import sparsify
from distill.teachers.local import LocalTeacher
from distill.text import corpus, sources
from distill.train import Trainer, learning_rate, run
from student.catalogue import presets
from student.documents import Documents
from student.model import Student
from student.vocabulary import Vocabulary
from tests.fakes.lessons import random_signal, random_windows, reading
from tests.fakes.teachers import tiny_config

CPU = torch.device("cpu")
VOCAB, LENGTH, COUNT = 61, 16, 10
CONFIG = RunConfig(
    device="cpu",
    dtype="float32",
    text=TextConfig(sequence_length=LENGTH),
    student=presets()["tiny"],
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
    train=TrainConfig(steps=7, batch_size=4),
)
WINDOWS = random_windows(COUNT, LENGTH, VOCAB)
V4 = replace(presets()["v4-tiny"], sliding_window=4, index_top_k=2)
# Everything a step can do: prediction layers, both optimizers, delayed routing, two stages.
WHOLE = replace(
    CONFIG,
    student=V4,
    optimizer=OptimizerConfig(name="muon", learning_rate=1e-2, warmup_steps=2),
    train=TrainConfig(steps=7, batch_size=4, dense_steps=2, routing_delay=2),
)


def trainer(config: RunConfig = CONFIG, *, taught: bool = True, device=CPU) -> Trainer:
    vocabulary = Vocabulary(size=VOCAB, bos=0, eos=1, pad=2)
    model = Student.build(config.student, vocabulary, seed=config.seed, device=device)
    signal = random_signal(WINDOWS, VOCAB) if taught else None
    return Trainer(model, config, reading(WINDOWS, signal, config))


def test_the_rate_rises_to_its_peak_and_falls_to_its_final_fraction():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10, final_fraction=0.1)
    rates = [learning_rate(config, step, 1000) for step in range(1, 1001)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert max(rates) == pytest.approx(1.0, abs=1e-3)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert rates[499] == pytest.approx(0.55, abs=5e-3)


def test_without_warm_up_the_first_step_has_the_peak_rate():
    config = OptimizerConfig(learning_rate=0.5, warmup_steps=0)
    assert learning_rate(config, 1, 10) == 0.5


def test_the_optimizer_is_given_the_scheduled_rate():
    trained = trainer()
    rates = [
        (row["learning_rate"], trained.optimizers[0].param_groups[0]["lr"])
        for row in trained.steps(1)
    ]
    expected = [learning_rate(CONFIG.optimizer, step, 7) for step in range(1, 8)]
    assert rates == [(rate, rate) for rate in expected]


def test_two_runs_of_one_config_are_equal_bit_for_bit():
    first, second = trainer(), trainer()
    losses = [[row["loss"] for row in t.steps(1)] for t in (first, second)]
    assert losses[0] == losses[1]
    assert_equal(first, second)


def assert_equal(first: Trainer, second: Trainer) -> None:
    left, right = first.state(), second.state()
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


@pytest.mark.parametrize("cut", [1, 3, 6])
@pytest.mark.parametrize("config", [CONFIG, WHOLE], ids=["mla", "v4"])
def test_steps_before_and_after_a_cut_are_those_of_an_uncut_run(tmp_path, cut, config):
    whole = trainer(config)
    expected = [row["loss"] for row in whole.steps(1)]
    first = trainer(config)
    steps = first.steps(1)
    taken = [next(steps)["loss"] for _ in range(cut)]
    Checkpoints(tmp_path, sync_seconds=1e9).save(cut, first.state())
    saved = Checkpoints(tmp_path, sync_seconds=1e9).load()
    second = trainer(config)
    second.restore(saved.tensors)
    taken += [row["loss"] for row in second.steps(saved.step + 1)]
    assert taken == expected
    assert_equal(second, whole)


def test_the_state_holds_weights_bias_and_both_moments_of_every_parameter():
    trained = trainer()
    list(trained.steps(1))
    found = trained.state()
    names = [name for name, _ in trained.model.named_parameters()]
    for name in names:
        assert f"model.{name}" in found
        assert {f"optimizer.{name}.{key}" for key in ("step", "exp_avg", "exp_avg_sq")} <= set(
            found
        )
    bias = [t for name, t in found.items() if name.endswith("router.bias")]
    assert bias
    assert all(t.any() for t in bias)


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator")
def test_a_run_restored_on_an_accelerator_goes_on():
    device = torch.accelerator.current_accelerator()
    first = trainer(device=device)
    steps = first.steps(1)
    next(steps)
    kept = {name: tensor.cpu() for name, tensor in first.state().items()}
    second = trainer(device=device)
    second.restore(kept)
    expected = [row["loss"] for row in steps]
    assert [row["loss"] for row in second.steps(2)] == pytest.approx(expected, rel=1e-4)


def test_a_row_tells_of_its_step():
    rows = list(trainer().steps(1))
    assert [row["step"] for row in rows] == list(range(1, 8))
    assert [row["tokens"] for row in rows] == [step * 4 * LENGTH for step in range(1, 8)]
    for row in rows:
        terms = row["terms"]
        total = 0.9 * terms["forward_kl"] + 0.1 * terms["cross_entropy"] + 1e-4 * terms["balance"]
        assert row["loss"] == pytest.approx(total, rel=1e-5)
        assert terms["indexer"] == 0.0
        assert "mtp" not in terms
        assert [sum(shares) for shares in row["expert_load"]] == pytest.approx([1.0])
        assert row["gradient_norm"] > 0
        assert row["seconds"] > 0


def test_a_v4_step_adds_prediction_balance_and_indexer_losses_by_their_weights():
    loss = weighed(balance=0.01, indexer=0.5, ahead=Prediction(late_from=0.5))
    rows = list(trainer(replace(WHOLE, loss=loss)).steps(1))
    for row in rows:
        ahead = 0.3 if row["step"] <= 3 else 0.1
        terms = row["terms"]
        total = 0.9 * terms["forward_kl"] + 0.1 * terms["cross_entropy"] + ahead * terms["mtp"]
        total += 0.01 * terms["balance"] + 0.5 * terms["indexer"]
        assert row["loss"] == pytest.approx(total, rel=1e-5)
        assert min(terms["mtp"], terms["balance"], terms["indexer"]) > 0
        # Three layers whose choice is learned: the hash layer is not balanced by a bias.
        assert [sum(shares) for shares in row["expert_load"]] == pytest.approx([1.0] * 4)


def weighed(*, balance: float, indexer: float, ahead: Prediction):
    return (
        Divergence(kind="forward_kl", weight=0.9),
        CrossEntropy(weight=0.1),
        Router(kind="balance", weight=balance),
        Router(kind="indexer", weight=indexer),
        ahead,
    )


def test_without_weight_the_prediction_layers_do_not_run():
    loss = weighed(balance=0.0, indexer=1.0, ahead=Prediction(weight=0.0, late_from=0.5))
    rows = list(trainer(replace(WHOLE, loss=loss)).steps(1))
    assert ["mtp" in row["terms"] for row in rows] == [False] * 3 + [True] * 4


def test_under_muon_every_parameter_has_one_optimizer_and_moves():
    trained = trainer(WHOLE)
    before = {name: p.detach().clone() for name, p in trained.model.named_parameters()}
    list(trained.steps(1))
    kinds = [type(optimizer).__name__ for optimizer in trained.optimizers]
    assert kinds == ["Muon", "AdamW"]
    held = [p for o in trained.optimizers for group in o.param_groups for p in group["params"]]
    assert len(held) == len(set(held)) == len(before)
    still = [n for n, p in trained.model.named_parameters() if torch.equal(p, before[n])]
    assert still == []


def test_delayed_routing_is_that_of_the_weights_of_its_delay_ago():
    delayed = replace(WHOLE, train=replace(WHOLE.train, routing_delay=3))
    first, plain = trainer(delayed), trainer(delayed)
    rows = first.steps(1)
    next(rows)
    batch = plain.course.batch(4)
    documents = Documents(batch.lengths, CPU)
    chosen = plain.model(batch.token_N, documents, ahead=True).choices.experts
    assert all(torch.equal(a, b) for a, b in zip(first.routed[4].experts, chosen, strict=True))
    next(rows), next(rows), next(rows)
    assert set(first.routed) == {4, 5, 6, 7}
    taken = [row["loss"] for row in rows]
    assert set(first.routed) == {7}
    assert taken != [row["loss"] for row in trainer(WHOLE).steps(1)][4:]


def test_recomputing_blocks_changes_no_step():
    again = replace(WHOLE, train=replace(WHOLE.train, recompute=True))
    losses = [[row["loss"] for row in trainer(config).steps(1)] for config in (WHOLE, again)]
    assert losses[0] == losses[1]


def test_a_control_learns_from_the_text_alone():
    config = replace(CONFIG, loss=(CrossEntropy(),))
    rows = list(trainer(config, taught=False).steps(1))
    assert all("forward_kl" not in row["terms"] for row in rows)
    assert [row["loss"] for row in rows] == [row["terms"]["cross_entropy"] for row in rows]
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_weight_decay_is_for_matrices_alone():
    groups = trainer().optimizers[0].param_groups
    decays = [(g["weight_decay"], {min(p.ndim, 2) for p in g["params"]}) for g in groups]
    assert decays == [(0.1, {2}), (0.0, {1})]


@pytest.mark.parametrize(("every", "kept"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6, 7])])
def test_a_run_records_every_step_and_keeps_the_state_when_due_and_at_the_end(every, kept):
    config = replace(CONFIG, checkpoint=replace(CONFIG.checkpoint, every_steps=every))
    events = []
    run(
        trainer(config),
        first=1,
        record=lambda row: events.append(("row", row["step"])),
        keep=lambda step: events.append(("state", step)),
    )
    assert [step for kind, step in events if kind == "row"] == list(range(1, 8))
    assert [step for kind, step in events if kind == "state"] == kept
    for step in kept:
        assert events.index(("row", step)) + 1 == events.index(("state", step))


def test_a_run_goes_on_from_where_it_is_told_to():
    steps = []
    run(trainer(), first=6, record=lambda row: steps.append(row["step"]), keep=lambda step: None)
    assert steps == [6, 7]


def test_a_loss_that_is_no_number_stops_the_run_before_anything_is_kept():
    broken = trainer()
    with torch.no_grad():
        broken.model.head.weight[0, 0] = float("nan")
    kept = []
    with pytest.raises(DistillError, match="the loss became nan at step 1; lower"):
        run(broken, first=1, record=kept.append, keep=kept.append)
    assert kept == []


def test_the_kl_to_a_tiny_teacher_falls(tmp_path):
    config = tiny_config(tmp_path, train=TrainConfig(steps=40, batch_size=8))
    teacher = LocalTeacher("tiny", tmp_path / "teacher", device=CPU, dtype=torch.float32)
    train, _ = corpus.split(sources.load(config.text.sources), config.text.held_out)
    windows = corpus.pack(train, teacher.tokenizer, config.text.sequence_length)
    with torch.inference_mode():
        hidden = teacher.hidden(torch.from_numpy(windows.tokens[:, :-1]).long()).flatten(0, 1)
        signal = sparsify(
            logits(hidden, teacher.head),
            head=config.signal.head,
            tail=config.signal.tail,
            generator=torch.Generator().manual_seed(0),
        )
    vocabulary = Vocabulary(size=teacher.vocab_size, bos=0, eos=1, pad=2)
    model = Student.build(config.student, vocabulary, seed=0, device=CPU)
    trained = Trainer(model, config, reading(windows, signal, config))
    kl = [row["terms"]["forward_kl"] for row in trained.steps(1)]
    first, last = sum(kl[:3]) / 3, sum(kl[-3:]) / 3
    assert last < 0.9 * first
