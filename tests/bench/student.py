"""Cost of a training step: `python tests/bench/student.py --json PATH`, minutes on one thread.

A step is forward pass, cross-entropy and backward pass on one document of random tokens, in
float32. Ours computes what it trains with, the balance loss and, in v4, the indexers' own;
figures without them stand beside. transformers' class has neither. A loss that differs by more
than 1e-3 of itself ends the run, as the sides would not be doing the same work: past `index_top_k`
entries, scores that tie at 0 are chosen among differently, which moves the loss by about 1e-4
(`tests/student/test_parity.py` holds both sides to one choice).
"""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

# Python looks beside a script first, and there `student` is this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distill.loss.fused_loss import distillation_loss
from distill.loss.objective import CrossEntropy
from distill.signals import Head
from student import muon, v4_attention
from student.device import has_fused_adamw
from student.documents import Documents
from student.model import Student
from tests.bench import measure
from tests.bench.measure import CPU, RIVAL, Do, Figures, Task
from tests.fakes import students

if TYPE_CHECKING:
    from tests.fakes.rivals import Theirs

BALANCE, INDEXER = 1e-4, 1.0
TOLERANCE = 1e-3
ROUNDS = {1024: 5, 2048: 4, 4096: 2}
ALONE = (1024, 2048, 4096, 8192)


class Ours:
    """Our training step on a document of so many tokens."""

    def __init__(self, model: Student, tokens: int, *, losses: bool) -> None:
        self.model, self.losses = model, losses
        self.token_N = students.text(tokens, size=model.vocabulary.size)
        self.documents = Documents((tokens,), CPU)
        self.label_N, self.kept_M = self.token_N.roll(-1), torch.arange(tokens - 1)

    def __call__(self) -> float:
        self.model.zero_grad(set_to_none=True)
        made = self.model(self.token_N, self.documents, losses=self.losses)
        loss = distillation_loss(
            made.hidden_ND,
            Head(self.model.head_weight()),
            self.label_N,
            self.kept_M,
            None,
            [CrossEntropy()],
            dtype=torch.float32,
        )
        total = loss.total + BALANCE * made.balance_loss + INDEXER * made.index_loss
        (total if self.losses else loss.total).backward()
        return float(loss.parts[0])


class Others:
    """Transformers' training step with one of its expert implementations."""

    def __init__(self, model: "Theirs", token_N: torch.Tensor, experts: str) -> None:
        self.model, self.token_1N, self.experts = model, token_N[None], experts

    def __call__(self) -> float:
        self.model.set_experts_implementation(self.experts)
        self.model.zero_grad(set_to_none=True)
        made = self.model(input_ids=self.token_1N, labels=self.token_1N, use_cache=False)
        made.loss.backward()
        return float(made.loss.detach())


def compare(task: Task) -> Figures:
    """Time both sides on one length, having seen that they compute one loss."""
    case, tokens = measure.cases()[task["case"]], task["tokens"]
    model = case.student().train()
    rival = measure.theirs(model).train()
    ours, bare = (Ours(model, tokens, losses=losses) for losses in (True, False))
    tried = task["experts"] or measure.implementations(case.config, tokens)
    others = {name: Others(rival, ours.token_N, name) for name in tried}
    _warm_up(model, rival, tried)
    difference = _loss_difference(ours, others)
    first = measure.least_seconds(others, 1)
    fastest = min(first, key=lambda name: first[name])
    calls = {"ours": ours, "ours_without_losses": bare, fastest: others[fastest]}
    seconds = first | measure.least_seconds(calls, task["rounds"])
    name = f"{task['case']}_step_{tokens}" + task["suffix"]
    figures: Figures = {f"{name}_{who}_seconds": spent for who, spent in seconds.items()}
    figures |= {f"{name}_fastest": fastest, f"{name}_loss_difference": difference}
    without = measure.versus(
        f"{name}_without_losses", seconds["ours_without_losses"], seconds[fastest]
    )
    return figures | measure.versus(name, seconds["ours"], seconds[fastest]) | without


def _warm_up(model: Student, rival: "Theirs | None", tried: Sequence[str]) -> None:
    """Take a short step on either side: what is done once a process is nobody's cost."""
    short = Ours(model, 32, losses=True)
    short()
    for experts in tried:
        assert rival is not None
        Others(rival, short.token_N, experts)()


def _loss_difference(ours: Ours, others: dict[str, Others]) -> float:
    expected, found = next(iter(others.values()))(), ours()
    difference = abs(found - expected) / abs(expected)
    if difference > TOLERANCE:
        raise SystemExit(f"the loss is {found} here and {expected} in {RIVAL}; nothing was timed.")
    return difference


def memory(task: Task) -> Figures:
    """Measure the memory of one step of one side, in the process it is alone in."""
    case, tokens = measure.cases()[task["case"]], task["tokens"]
    small = measure.cases()["v4_quick"].student()
    rivals = measure.theirs(small) if task["experts"] else None
    _warm_up(small, rivals, task["experts"])  # else the libraries' own pages would count
    model = case.student().train()
    step: Callable[[], float] = Ours(model, tokens, losses=True)
    who = "ours"
    for experts in task["experts"]:
        token_N = students.text(tokens, size=case.vocabulary.size)
        step, who = Others(measure.theirs(model).train(), token_N, experts), RIVAL
    return {f"{task['case']}_step_{tokens}_{who}_peak_bytes": measure.peak_bytes(step)}


class Scoring:
    """`choose` of the indexer, with a clock on it."""

    def __init__(self) -> None:
        self.seconds, self.choose = 0.0, v4_attention.choose

    def __call__(self, *given: object) -> torch.Tensor:
        began = time.process_time()
        chosen = self.choose(*given)  # type: ignore[arg-type]
        self.seconds += time.process_time() - began
        return chosen


def alone(task: Task) -> Figures:
    """Time ours at growing lengths: cost a token, and the part that is quadratic by design."""
    model = measure.cases()[task["case"]].student().train()
    lengths, name = task["lengths"], task["case"]
    steps = {str(tokens): Ours(model, tokens, losses=True) for tokens in lengths}
    Ours(model, 32, losses=True)()
    seconds = measure.least_seconds(steps, task["rounds"])
    figures: Figures = {}
    for tokens in lengths:
        figures[f"{name}_alone_{tokens}_seconds"] = seconds[str(tokens)]
        figures[f"{name}_alone_{tokens}_tokens_per_second"] = tokens / seconds[str(tokens)]
    a, b = lengths[0], lengths[-1]
    growth = (seconds[str(b)] / b) / (seconds[str(a)] / a)
    figures[f"{name}_growth_of_cost_a_token_{a}_to_{b}"] = growth
    for tokens in lengths if name.startswith("v4") else ():
        figures[f"{name}_scoring_share_{tokens}"] = _scoring_share(steps[str(tokens)])
    return figures


def _scoring_share(step: Ours) -> float:
    clock = Scoring()
    with mock.patch.object(v4_attention, "choose", clock):
        began = time.process_time()
        step()
        return clock.seconds / (time.process_time() - began)


class Largest(TorchDispatchMode):
    """The largest tensor any operation makes; parameters and their transposes are none."""

    def __init__(self, model: Student) -> None:
        super().__init__()
        self.parameters = {tuple(sorted(parameter.shape)) for parameter in model.parameters()}
        self.elements, self.shape = 0, torch.Size()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if not isinstance(tensor, torch.Tensor) or tensor.numel() <= self.elements:
                continue
            if tuple(sorted(tensor.shape)) not in self.parameters:
                self.elements, self.shape = tensor.numel(), tensor.shape
        return made


def largest(task: Task) -> Figures:
    """Find the largest tensor of forward and backward pass, up to what the head reads.

    The head's logits come in tiles of a fixed size, whatever the length, and are left out.
    """
    model = measure.cases()[task["case"]].student().train()
    tokens, name = task["tokens"], task["case"]
    step = Ours(model, tokens, losses=True)
    with Largest(model) as seen:
        made = model(step.token_N, step.documents, losses=True)
        (made.hidden_ND.sum() + made.balance_loss + made.index_loss).backward()
    return {
        f"{name}_largest_tensor_elements_{tokens}": seen.elements,
        f"{name}_largest_tensor_shape_{tokens}": str(tuple(seen.shape)),
        f"{name}_largest_tensor_share_of_S_times_S_{tokens}": seen.elements / tokens**2,
    }


def optimizers(task: Task) -> Figures:
    """Time the optimizers' step: the report's pair, and AdamW on everything."""
    model, name = measure.cases()[task["case"]].student(), task["case"]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3).normal_(0, 1e-3)
    groups = muon.parameter_groups(model.named_parameters(), model.config)
    fused = has_fused_adamw(CPU)
    rest, whole = muon.adamw(groups.adamw, 1e-4, fused=fused), list(model.parameters())
    steps = {
        "muon": muon.Muon(groups.muon, 1e-4).step,
        "adamw_for_the_rest": rest.step,
        "adamw_for_all": torch.optim.AdamW(whole, lr=1e-4, fused=fused).step,
    }
    measure.least_seconds(steps, 1)  # the first makes the moments
    seconds = measure.least_seconds(steps, task["rounds"])
    return {f"{name}_optimizer_{who}_seconds": spent for who, spent in seconds.items()}


def do(task: Task) -> Figures:
    """Do one task of this benchmark."""
    tasks = {
        "compare": compare,
        "memory": memory,
        "alone": alone,
        "largest": largest,
        "optimizers": optimizers,
    }
    return tasks[task["do"]](task)


def step(case: str, tokens: int, rounds: int, do: Do) -> Figures:
    """Measure one length of one case: time as it comes, peak memory, time with memory kept."""
    task: Task = {"case": case, "tokens": tokens, "rounds": rounds, "experts": [], "suffix": ""}
    figures = do(task | {"do": "compare"})
    name = f"{case}_step_{tokens}"
    fastest = figures[f"{name}_fastest"]
    task |= {"experts": [fastest], "suffix": "_memory_kept", "rounds": max(rounds, 2)}
    figures |= fresh(task | {"do": "compare"}, kept=True)
    figures |= fresh(task | {"do": "memory"}) | fresh(task | {"do": "memory", "experts": []})
    ours, theirs = (figures[f"{name}_{who}_peak_bytes"] for who in ("ours", RIVAL))
    figures[f"{name}_rss_ratio_vs_{RIVAL}"] = float(ours) / float(theirs)
    return figures


def ours(case: str, lengths: list[int], rounds: int, do: Do) -> Figures:
    """Measure what concerns our side alone."""
    task: Task = {"case": case, "lengths": lengths, "tokens": lengths[1], "rounds": rounds}
    figures: Figures = {}
    for what in ("alone", "largest", "optimizers"):
        figures |= do(task | {"do": what})
    return figures


def fresh(task: Task, *, kept: bool = False) -> Figures:
    """Do a task in a process of its own."""
    return measure.fresh(__file__, task, kept=kept)


def every(quick: bool) -> Figures:
    """Run the whole benchmark."""
    if quick:
        figures = step("v4_quick", 48, 1, do)
        return figures | ours("v4_quick", [48, 96], 1, do) | ours("mla_quick", [48, 96], 1, do)
    figures = {}
    for case in ("v4_tiny", "v4_large"):
        for tokens, rounds in ROUNDS.items():
            figures |= step(case, tokens, rounds, fresh)
        figures |= ours(case, list(ALONE), 3, fresh)
    for case in ("mla_tiny", "mla_large"):
        figures |= step(case, 1024, 6, fresh)
    return figures


if __name__ == "__main__":
    measure.command_line(__doc__, do, every)
