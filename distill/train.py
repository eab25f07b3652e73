"""The training loop alone: batches in, a better student out, one row of metrics a step.

A batch is a function of seed and step (`batches.py`), so a resumed run takes the very steps an
uninterrupted one would have taken, bit for bit on a CPU.

Shapes: N positions of a batch, T teacher hidden size, E experts, K experts a token.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import nn

from distill.batches import Batch
from distill.config import OptimizerConfig, RunConfig
from distill.errors import DistillError
from distill.loss import objective
from distill.loss.step_loss import StepLoss, Terms
from distill.stopwatch import Stopwatch
from student import balance, muon
from student import device as devices
from student.choices import Choices
from student.documents import Documents
from student.model import Student

Row = dict[str, Any]

# On a device that works while the host goes on, one step in so many is split into stages.
_SPLIT_EVERY = 16


class Course(Protocol):
    """Where the batches come from."""

    def batch(self, step: int) -> Batch:
        """Return the batch of `step` (from 1)."""
        ...


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Return the rate of `step` (from 1): linear warm-up times a cosine down to the final one."""
    cosine = 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
    warm = min(1.0, step / max(config.warmup_steps, 1))
    final = config.final_fraction
    return config.learning_rate * warm * (final + (1 - final) * cosine)


class Trainer:
    """A student, its optimizers, and the step that joins them to the teacher's signal."""

    def __init__(
        self,
        model: Student,
        config: RunConfig,
        course: Course,
        *,
        teacher_width: int | None = None,
    ) -> None:
        """Train `model` on `course`.

        Args:
            model: on the device where it is trained.
            config: the run's.
            course: the batches.
            teacher_width: T, where the loss has a term of hidden states.
        """
        self.model = model
        self.config = config
        self.course = course
        self.device = model.device
        self.dtype = devices.compute_dtype(self.device, config.dtype)
        self.projector = _projector(model, teacher_width, config.seed)
        self.loss = StepLoss(config.loss, model, self.projector, dtype=self.dtype)
        self.optimizers = _optimizers(model, self.projector, config, self.dtype)
        # Routing computed `routing_delay` steps before it is used, by the step that will use it.
        self.routed: dict[int, Choices] = {}
        self.tokens = 0

    def state(self) -> dict[str, torch.Tensor]:
        """Return every tensor a resumed run needs: weights, routing bias, moments, routing."""
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        tensors["tokens"] = torch.tensor(self.tokens)
        if self.projector is not None:
            tensors["projector"] = self.projector.weight.detach()
        names = self._names()
        for optimizer in self.optimizers:
            for parameter, values in optimizer.state.items():
                for key, value in values.items():
                    tensors[f"optimizer.{names[parameter]}.{key}"] = value
        for step, choices in self.routed.items():
            for layer, expert_NK in enumerate(choices.experts):
                if expert_NK is not None:
                    tensors[f"routed.{step}.{layer}"] = expert_NK
        return tensors

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take back a `state`."""
        model = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
        self.model.load_state_dict(model, strict=True)
        self.tokens = int(tensors["tokens"])
        if self.projector is not None:
            self.projector.load_state_dict({"weight": tensors["projector"]})
        # Fused AdamW counts its steps where it computes; the plain loop counts on the host.
        counts_on = self.device if devices.has_fused_adamw(self.device) else torch.device("cpu")
        names = self._names()
        for optimizer in self.optimizers:
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                prefix = f"optimizer.{names[parameter]}."
                optimizer.state[parameter] = {
                    key.removeprefix(prefix): value.to(
                        counts_on if key == f"{prefix}step" else self.device
                    )
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }
        self.routed = self._routed_from(tensors)

    def _names(self) -> dict[torch.Tensor, str]:
        names: dict[torch.Tensor, str] = {p: n for n, p in self.model.named_parameters()}
        if self.projector is not None:
            names[self.projector.weight] = "projector"
        return names

    def _routed_from(self, tensors: dict[str, torch.Tensor]) -> dict[int, Choices]:
        layers = len(list(self.model.blocks()))
        steps = {int(name.split(".")[1]) for name in tensors if name.startswith("routed.")}
        found = {}
        for step in steps:
            experts = [tensors.get(f"routed.{step}.{layer}") for layer in range(layers)]
            there = tuple(None if e is None else e.to(self.device) for e in experts)
            found[step] = Choices(experts=there, entries=(None,) * layers)
        return found

    def steps(self, first: int) -> Iterator[Row]:
        """Take the steps from `first` to the last, yielding each step's metrics."""
        self.model.train()
        for step in range(first, self.config.train.steps + 1):
            yield self._step(step)

    def _step(self, step: int) -> Row:
        began = time.perf_counter()
        config = self.config
        clock = self._clock(step)
        with clock.stage("data"):
            batch = self.course.batch(step)
        for name, seconds in batch.spent.items():
            clock.add(name, seconds)
            clock.add("data", -seconds)
        rate = learning_rate(config.optimizer, step, config.train.steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        with clock.stage("student"):
            self._route_ahead(step)
        terms, loads = self._loss(batch, step, clock)
        with clock.stage("student"):
            norm = self._learn(terms, loads)
        # The first look at a value: everything above was queued without waiting for it.
        values = {name: float(value) for name, value in terms.values.items()}
        loss, seconds = float(terms.total.detach()), time.perf_counter() - began
        tokens = batch.label_N.numel()
        self.tokens += tokens
        return {
            "step": step,
            "tokens": self.tokens,
            "loss": loss,
            "terms": values,
            **batch.facts,
            **{name: float(value) for name, value in terms.sides.items()},
            "learning_rate": rate,
            "gradient_norm": float(norm),
            "tokens_per_second": tokens / seconds,
            "seconds": seconds,
            "seconds_by_stage": clock.spent if clock.waits else None,
            "expert_load": balance.shares(balance.learned_loads(self.model, loads)),
        }

    def _clock(self, step: int) -> Stopwatch:
        waits = devices.waits_are_free(self.device) or step % _SPLIT_EVERY == 1
        return Stopwatch(self.device, waits=waits)

    def _learn(self, terms: Terms, loads: tuple[torch.Tensor | None, ...]) -> torch.Tensor:
        """Take the gradient and the optimizers' step; return the gradient's norm."""
        self.model.zero_grad(set_to_none=True)
        parameters = list(self._names())
        if self.projector is not None:
            self.projector.zero_grad(set_to_none=True)
        terms.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.optimizer.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        balance.update_bias(self.model, loads, self.config.train.bias_update_speed)
        return norm

    def _route_ahead(self, step: int) -> None:
        """Choose the experts of a later step with the weights of this one.

        Anticipatory routing (DeepSeek-V4 report, section 4.2.3): routing that lags behind the
        weights breaks the loop in which both run away together. The first steps route as ever.
        """
        delay = self.config.train.routing_delay
        self.routed.pop(step - 1, None)
        if not delay or step + delay > self.config.train.steps:
            return
        later = self.course.batch(step + delay)
        token_N, documents = self._stream(later)
        with torch.no_grad(), devices.autocast(self.device, self.dtype):
            output = self.model(token_N, documents, ahead=self._looks_ahead(step + delay))
        self.routed[step + delay] = output.choices.routing_only()

    def _stream(self, batch: Batch) -> tuple[torch.Tensor, Documents]:
        return batch.token_N.to(self.device), Documents(batch.lengths, self.device)

    def _looks_ahead(self, step: int) -> bool:
        return len(self.model.mtp) > 0 and self._ahead_weight(step) > 0

    def _ahead_weight(self, step: int) -> float:
        return objective.prediction_weight(self.config.loss, step / self.config.train.steps)

    def _loss(
        self, batch: Batch, step: int, clock: Stopwatch
    ) -> tuple[Terms, tuple[torch.Tensor | None, ...]]:
        train = self.config.train
        with clock.stage("student"), devices.autocast(self.device, self.dtype):
            token_N, documents = self._stream(batch)
            output = self.model(
                token_N,
                documents,
                replay=self.routed.get(step),
                dense=step <= train.dense_steps,
                losses=True,
                ahead=self._looks_ahead(step),
                recompute=train.recompute,
            )
        return self.loss(batch, output, self._ahead_weight(step), clock), output.loads


def _projector(model: Student, width: int | None, seed: int) -> nn.Linear | None:
    """Return the map from the student's hidden states to the teacher's, T x D, or None."""
    if width is None:
        return None
    size = model.config.hidden_size
    made = nn.Linear(size, width, bias=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        made.weight.normal_(std=size**-0.5, generator=generator)
    return made.to(model.device)


def _optimizers(
    model: Student, projector: nn.Linear | None, config: RunConfig, dtype: torch.dtype
) -> list[torch.optim.Optimizer]:
    """AdamW alone, or Muon with AdamW for what Muon is not for, the projector among it."""
    fused = devices.has_fused_adamw(model.device)
    rate = config.optimizer.learning_rate
    extra = [] if projector is None else [projector.weight]
    if config.optimizer.name == "muon":
        groups = muon.parameter_groups(model.named_parameters(), model.config)
        groups.adamw[0]["params"] += extra
        return [
            muon.Muon(groups.muon, rate, dtype=dtype),
            muon.adamw(groups.adamw, rate, fused=fused),
        ]
    # Weight decay on matrices only; norms, gates and sinks are left alone.
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups_of = [
        {"params": matrices + extra, "weight_decay": config.optimizer.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = config.optimizer.beta1, config.optimizer.beta2
    return [torch.optim.AdamW(groups_of, lr=rate, betas=betas, fused=fused)]


def run(
    trainer: Trainer,
    *,
    first: int,
    record: Callable[[Row], None],
    keep: Callable[[int], None],
) -> None:
    """Take all remaining steps; after each, `record` its row, then `keep` the state when due."""
    every = trainer.config.checkpoint.every_steps
    for row in trainer.steps(first):
        if not math.isfinite(row["loss"]):
            raise DistillError(
                f"the loss became {row['loss']} at step {row['step']}; lower "
                "optimizer.learning_rate or set dtype: float32."
            )
        record(row)
        if row["step"] % every == 0 or row["step"] == trainer.config.train.steps:
            keep(row["step"])
