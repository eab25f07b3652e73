"""Cost of the loss: `python tests/bench/loss.py --json PATH`, half an hour on one thread.

Whole distillation steps of two Llamas and the loss alone, ours against TRL, Liger and all logits at
once (`kd_rivals`), in float32. CPU-seconds are medians, memory is what the first step adds to what
the process held before, gradients of the parameters included; every side has processes of its own.
Before, every side's loss and gradients are held to float64 on a small case.

The rivals come with the `bench` extra: `pip install -e '.[bench]'`.
"""

import sys
from collections.abc import Callable
from pathlib import Path

# Python looks beside a script first.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from tests.bench import kd_rivals, measure
from tests.bench.measure import Figures, Task

ROUNDS = 5
TOLERANCE = 1e-5
# Vocabulary and positions of whole steps; then student's and teacher's hidden sizes and `beta` of
# losses alone, and the share of positions that counts.
STEPS = {"step_129280": (129_280, 1024), "step_32000": (32_000, 2048)}
LOSSES = {
    "jsd": (32_000, 512, 256, 512, 0.5, 1.0),
    "half_masked": (32_000, 1024, 256, 512, 0.0, 0.5),
    "gemm_bound": (129_280, 512, 1024, 2048, 0.0, 1.0),
}
QUICK_STEPS = {"step_quick": (500, 32)}
QUICK_LOSSES = {"jsd_quick": (500, 32, 16, 24, 0.5, 0.5)}
CHECKED = ((0.0, 1.0), (0.0, 0.5), (0.5, 1.0), (1.0, 1.0))  # beta and share


def check(task: Task) -> Figures:
    """Hold one side's loss and gradients to float64, relative to the largest of each."""
    worst = 0.0
    for beta, share in CHECKED:
        given = kd_rivals.drawn(500, 64, 32, 48, beta, counted=share)
        wide = kd_rivals.Given(
            *(x.detach().double() for x in (given.student_ND, given.student_VD)),
            *(x.double() for x in (given.teacher_NT, given.teacher_VT)),
            given.counted_N,
            beta,
        )
        found, expected = _results(given, task["side"]), _results(wide, "naive")
        for left, right in zip(found, expected, strict=True):
            error = (left.double() - right).abs().max() / right.abs().max()
            worst = max(worst, float(error))
    if not worst <= TOLERANCE:
        raise SystemExit(f"{task['side']} is {worst:.1e} away from float64; nothing was timed.")
    return {f"check_{task['side']}_worst_error": worst}


def _results(task: kd_rivals.Given, side: str) -> list[torch.Tensor]:
    leaves = [task.student_ND.requires_grad_(), task.student_VD.requires_grad_()]
    loss = kd_rivals.SIDES[side](task)
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def cost(task: Task) -> Figures:
    """Measure one side in one case: memory of the first call, then time."""
    case, side = task["case"], task["side"]
    call = _call(case, side)
    _call("step_quick" if case in STEPS else "jsd_quick", side)()  # libraries take their pages
    peak = measure.peak_bytes(call)
    seconds = kd_rivals.median_seconds(call, task["rounds"])
    return {f"{case}_{side}_cpu_seconds": seconds, f"{case}_{side}_peak_bytes": peak}


def _call(case: str, side: str) -> Callable[[], object]:
    loss = kd_rivals.SIDES[side]
    steps, losses = STEPS | QUICK_STEPS, LOSSES | QUICK_LOSSES
    if case in steps:
        return kd_rivals.Step(*steps[case], loss)
    *sizes, share = losses[case]
    given = kd_rivals.drawn(*sizes, counted=share)

    def alone() -> None:
        given.student_ND.grad = given.student_VD.grad = None
        loss(given).backward()

    return alone


def do(task: Task) -> Figures:
    """Do one task of this benchmark."""
    return {"check": check, "cost": cost}[task["do"]](task)


def fresh(task: Task) -> Figures:
    """Do a task in a process of its own."""
    return measure.fresh(__file__, task)


def every(quick: bool) -> Figures:
    """Run the whole benchmark; the quick one with the rivals that are installed."""
    rivals = kd_rivals.installed()
    missing = [name for name in kd_rivals.NEEDS if name not in rivals]
    if missing and not quick:
        raise SystemExit(f"{' and '.join(missing)} not installed; pip install -e '.[bench]'.")
    cases, rounds = (QUICK_STEPS | QUICK_LOSSES, 1) if quick else (STEPS | LOSSES, ROUNDS)
    figures = Figures()
    for side in ("ours", *rivals):
        figures |= fresh({"do": "check", "side": side})
    for case in cases:
        for side in ("ours", *rivals):
            figures |= fresh({"do": "cost", "case": case, "side": side, "rounds": rounds})
        for rival in rivals:
            figures |= versus(figures, case, rival)
    return figures


def versus(figures: Figures, case: str, rival: str) -> Figures:
    """Return how ours compares with a rival in a case."""
    seconds, peaks = (
        [float(figures[f"{case}_{side}_{what}"]) for side in ("ours", rival)]
        for what in ("cpu_seconds", "peak_bytes")
    )
    made: Figures = {
        f"{case}_cpu_ratio_vs_{rival}": seconds[0] / seconds[1],
        f"{case}_speedup_vs_{rival}": seconds[1] / seconds[0],
        f"{case}_rss_ratio_vs_{rival}": peaks[0] / max(peaks[1], 1),
    }
    measure.show(made)
    return made


if __name__ == "__main__":
    measure.command_line(__doc__, do, every)
