"""What a store costs: `python tests/bench/store.py --json PATH`, minutes on one thread.

Bytes a token from the files of a store at DeepSeek's vocabulary, of a teacher as sure of itself as
a language model (2.7 nats); CPU-microseconds to make a position's signal from its logits, to write
it, and to read it back; and a whole step that reads the store (student forward, loss, backward)
against TRL's, whose teacher reads along. All CPU-seconds of one thread, medians of several rounds.
"""

import functools
import sys
import tempfile
from pathlib import Path
from typing import Any

# Python looks beside a script first, and there `store` is this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from distill.loss.fused_loss import distillation_loss
from distill.loss.objective import Divergence
from distill.signals import Head, Hidden, Signal, Text, sample, sparsify
from distill.store import capture
from distill.store.shard import Key, Mode, Sequences, join
from distill.store.store import Store
from distill.teachers.stored import Signals
from distill.text.corpus import Windows
from tests.bench import kd_rivals, measure
from tests.bench.measure import CPU, Figures, Task

VOCAB, QUICK_VOCAB = 129_280, 66_000
SHARD_TOKENS, WINDOW, WIDTH = 4096, 256, 512
ENTROPY = 2.7
ROUNDS = 5
# What the random teacher's head is multiplied by, and by how much the sampled loss may differ.
SURER, TOLERANCE = 10.0, 0.02
# Each kind of store, by the name its figures have: its mode and what that needs to be told.
STORES: dict[str, tuple[Mode, dict[str, Any]]] = {
    "head_24_tail_8": ("head_tail", {"head": 24, "tail": 8}),
    "head_8_tail_4": ("head_tail", {"head": 8, "tail": 4}),
    "topk_28": ("topk", {"head": 28}),
    "sampled_50": ("sampled", {"tail": 50}),
    "sampled_200": ("sampled", {"tail": 200}),
    f"hidden_{WIDTH}": ("hidden", {}),
    "text": ("text", {}),
    "text_logp": ("text", {"logp": True}),
}


class Said:
    """What a teacher says at many positions: ranked alike everywhere, the ranks' tokens not."""

    def __init__(self, vocab: int) -> None:
        self.vocab, self.generator = vocab, torch.Generator().manual_seed(0)
        rank_V = torch.arange(1, vocab + 1, dtype=torch.float64).log()
        self.logits_V = (-_slope(rank_V) * rank_V).float()

    def logits(self, count: int) -> torch.Tensor:
        """Return the logits of `count` positions."""
        place_V = torch.randperm(self.vocab, generator=self.generator)
        shift_N = torch.randint(0, self.vocab, (count, 1), generator=self.generator)
        return self.logits_V[(place_V + shift_N) % self.vocab]

    def thin(self, logits_NV: torch.Tensor, mode: Mode, settings: dict[str, Any]) -> Signal:
        """Return what a mode keeps of logits."""
        if mode == "sampled":
            return sample(logits_NV, draws=settings["tail"], generator=self.generator)
        head, tail = settings["head"], settings.get("tail", 0)
        return sparsify(logits_NV, head=head, tail=tail, generator=self.generator)

    def signal(self, count: int, mode: Mode, settings: dict[str, Any]) -> Signal:
        """Return what a mode keeps of `count` positions."""
        if mode == "hidden":
            return Hidden(torch.randn(count, WIDTH).bfloat16(), Head(torch.zeros(1, WIDTH)))
        if mode == "text":
            return Text(-torch.rand(count) if settings else None)
        rows = [64] * (count // 64) + [count % 64] * (count % 64 > 0)
        return join([self.thin(self.logits(n), mode, settings) for n in rows])


def _slope(rank_V: torch.Tensor) -> float:
    """Return the power of a Zipf distribution whose entropy is `ENTROPY`."""
    low, high = 1.0, 5.0
    for _ in range(50):
        middle = (low + high) / 2
        entropy = torch.distributions.Categorical(logits=-middle * rank_V).entropy()
        low, high = (middle, high) if float(entropy) > ENTROPY else (low, middle)
    return middle


def keep(task: Task) -> Figures:
    """Fill one kind of store with three shards; count its bytes, and time writing and reading."""
    name, vocab, tokens = task["store"], task["vocab"], task["tokens"]
    mode, settings = STORES[name]
    said, window = Said(vocab), min(WINDOW, tokens)
    token_N = torch.randint(0, vocab, (window + 1,), generator=said.generator)
    text = Sequences.of([token_N] * (tokens // window))
    signal = said.signal(tokens, mode, settings)
    key = Key(mode=mode, teacher_sha256="0" * 64, vocab_size=vocab, settings=settings)
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory), key)
        wrote = kd_rivals.median_seconds(lambda: store.append(text, signal, 1.0), task["rounds"])
        files = sum(file.stat().st_size for file in Path(directory).iterdir())
        signals = Signals(store, Head(torch.zeros(1, WIDTH)))
        row_P = _rows(store.tokens, window, said.generator)
        signals.at(row_P, CPU)  # opens and checks the shards
        read = kd_rivals.median_seconds(lambda: signals.at(row_P, CPU), 4 * task["rounds"])
    return {
        f"{name}_bytes_a_token": files / store.tokens,
        f"{name}_write_cpu_microseconds_a_token": 1e6 * wrote / tokens,
        f"{name}_read_cpu_microseconds_a_token": 1e6 * read / len(row_P),
    }


def _rows(tokens: int, window: int, generator: torch.Generator) -> torch.Tensor:
    """Return the places of eight whole windows anywhere in a store."""
    first_B1 = torch.randint(0, tokens // window, (8, 1), generator=generator) * window
    return (first_B1 + torch.arange(window)).flatten()


def thin(task: Task) -> Figures:
    """Time what becomes of logits."""
    said, figures = Said(task["vocab"]), Figures()
    logits_NV = said.logits(64)
    for name in ("head_24_tail_8", "topk_28", "sampled_50"):
        mode, settings = STORES[name]
        call = functools.partial(said.thin, logits_NV, mode, settings)
        call()
        seconds = kd_rivals.median_seconds(call, task["rounds"])
        figures[f"{name}_thin_cpu_microseconds_a_token"] = 1e6 * seconds / len(logits_NV)
    return figures


class Models(kd_rivals.Step):
    """Student and teacher of a whole step, the teacher as sure of itself as a language model."""

    def __init__(self, vocab: int, positions: int) -> None:
        super().__init__(vocab, positions, kd_rivals.trl)
        self.teacher.lm_head.weight.mul_(SURER)
        self.head = Head(self.teacher.lm_head.weight)

    def hidden(self, token_BS: torch.Tensor, start_BS: torch.Tensor | None = None) -> torch.Tensor:
        """Return the teacher's last hidden states."""
        return self.teacher.model(token_BS).last_hidden_state


class Offline:
    """The same step without the teacher: what it would say is read from a store."""

    def __init__(self, models: Models, directory: Path) -> None:
        """Have the teacher say once what it has to say, of four times the text a step needs."""
        vocab = models.student.config.vocab_size
        self.student, self.ids = models.student, models.ids
        settings = {"head": 24, "tail": 8, "shard_tokens": self.ids.numel()}
        key = Key(mode="head_tail", teacher_sha256="0" * 64, vocab_size=vocab, settings=settings)
        store = Store(directory, key)
        token_WK = torch.cat([self.ids, self.ids[:, :1]], dim=1).repeat(4, 1).int().numpy()
        mark_WS = np.ones((len(token_WK), token_WK.shape[1] - 1))
        text = Windows(tokens=token_WK, weights=mark_WS.astype(np.float32), sizes=mark_WS)
        capture.fill(models, text, store, lambda *_: None)
        self.signals, self.row_N = Signals(store), torch.arange(self.ids.numel())

    def __call__(self) -> float:
        """Take the step; return its loss."""
        self.student.zero_grad(set_to_none=True)
        student_ND = self.student.model(self.ids).last_hidden_state.flatten(0, 1)
        loss = distillation_loss(
            student_ND,
            Head(self.student.lm_head.weight),
            self.ids.flatten(),
            self.row_N,
            self.signals.at(self.row_N, CPU),
            [Divergence(kind="forward_kl")],
            dtype=torch.float32,
        )
        loss.total.backward()
        return float(loss.total.detach())


def step(task: Task) -> Figures:
    """Measure a whole step of one side."""
    side, vocab, positions = task["side"], task["vocab"], task["positions"]
    with tempfile.TemporaryDirectory() as directory:
        models = Models(vocab, positions)
        call = Offline(models, Path(directory)) if side == "ours" else models
        if side == "ours":
            del models
        kd_rivals.Step(500, 32, kd_rivals.ours)()  # the libraries take their pages
        peak = measure.peak_bytes(call)
        name = f"offline_step_{vocab}_{side}"
        figures: Figures = {
            f"{name}_loss": call(),
            f"{name}_cpu_seconds": kd_rivals.median_seconds(call, task["rounds"]),
            f"{name}_peak_bytes": peak,
        }
        if isinstance(call, Offline):
            read = kd_rivals.median_seconds(lambda: call.signals.at(call.row_N, CPU), 20)
            figures[f"{name}_reading_cpu_seconds"] = read
    return figures


def versus(figures: Figures, vocab: int) -> Figures:
    """Return how the offline step compares with TRL's, having seen that both have one loss."""
    name = f"offline_step_{vocab}"
    ours, theirs = (
        [float(figures[f"{name}_{side}_{what}"]) for what in ("loss", "cpu_seconds", "peak_bytes")]
        for side in ("ours", "trl")
    )
    difference = abs(ours[0] - theirs[0]) / theirs[0]
    if difference > TOLERANCE:
        raise SystemExit(f"the loss is {ours[0]} from the store and {theirs[0]} by TRL.")
    return {
        f"{name}_loss_difference": difference,
        f"{name}_cpu_ratio_vs_trl": ours[1] / theirs[1],
        f"{name}_speedup_vs_trl": theirs[1] / ours[1],
        f"{name}_rss_ratio_vs_trl": ours[2] / max(theirs[2], 1),
    }


def do(task: Task) -> Figures:
    """Do one task of this benchmark."""
    return {"keep": keep, "thin": thin, "step": step}[task["do"]](task)


def fresh(task: Task) -> Figures:
    """Do a task in a process of its own."""
    return measure.fresh(__file__, task)


def every(quick: bool) -> Figures:
    """Run the whole benchmark; the quick one with TRL where it is installed."""
    work: Task = {"vocab": VOCAB, "tokens": SHARD_TOKENS, "positions": 1024, "rounds": ROUNDS}
    if quick:
        work = {"vocab": QUICK_VOCAB, "tokens": 64, "positions": 32, "rounds": 1}
    elif "trl" not in kd_rivals.installed():
        raise SystemExit("trl is not installed; pip install -e '.[bench]'.")
    run = do if quick else fresh
    figures: Figures = {}
    for name in STORES:
        figures |= run(work | {"do": "keep", "store": name})
    figures |= run(work | {"do": "thin"})
    figures |= run(work | {"do": "step", "side": "ours"})
    if "trl" in kd_rivals.installed():
        figures |= run(work | {"do": "step", "side": "trl"})
        made = versus(figures, work["vocab"])
        measure.show(made)
        figures |= made
    return figures


if __name__ == "__main__":
    measure.command_line(__doc__, do, every)
