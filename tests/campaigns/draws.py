"""How much an estimate of head and draws varies, by how its bytes are divided between the two.

    python tests/campaigns/draws.py --json PATH

SmolLM2 reads 1,024 positions of Python's help topics. What a student's gradient sees of a signal is
its mean of the rows of a head, so the error is that of the teacher's own: the mean over positions
of the squared distance to the exact mean. Independent draws stand beside ours. A minute on a core.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from distill.heads import logits
from distill.signals import sparsify
from distill.teachers import embedded
from distill.teachers.local import LocalTeacher
from distill.text import corpus, sources

# Of about the same bytes where ids have 17 bits and probabilities 16.
SPLITS = ((24, 8), (20, 16), (16, 24), (12, 32), (8, 40))
WINDOWS, LENGTH, REPEATS = 4, 256, 8


@torch.inference_mode()
def said() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the teacher's logits `[N, V]` and its head `[V, T]`."""
    teacher = LocalTeacher(
        embedded.NAME, embedded.ensure(print), device=torch.device("cpu"), dtype=torch.float32
    )
    documents, _ = corpus.split(sources.load(("pydoc", "prompts")), 0.2)
    windows = corpus.pack(documents, teacher.tokenizer, LENGTH)
    few = windows.take(corpus.evenly(len(windows.tokens), WINDOWS))
    token_WS = torch.from_numpy(few.tokens[:, :-1].astype(np.int64))
    return logits(teacher.hidden(token_WS).flatten(0, 1), teacher.head), teacher.head.weight_VT


def error(
    logits_NV: torch.Tensor, head_VT: torch.Tensor, head: int, tail: int, ours: bool
) -> float:
    """Return the mean squared error of the estimate in the space of the head's rows."""
    p_NV = logits_NV.softmax(-1)
    exact_NT = p_NV @ head_VT
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(REPEATS):
        signal = sparsify(logits_NV, head=head, tail=tail, generator=generator)
        ids_NK, weight_NK = signal.targets()
        if not ours:
            rest_NV = p_NV.scatter(1, signal.head_ids_NH, 0.0)
            drawn_NR = torch.multinomial(rest_NV, tail, replacement=True, generator=generator)
            ids_NK = torch.cat([signal.head_ids_NH, drawn_NR], dim=1)
        found_NT = (weight_NK[:, :, None] * head_VT[ids_NK]).sum(1)
        errors.append(float((found_NT - exact_NT).square().sum(-1).mean()))
    return float(np.mean(errors))


def main() -> None:
    """Measure every split, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logits_NV, head_VT = said()
    figures = {}
    for head, tail in SPLITS:
        for name, ours in (("independent", False), ("ours", True)):
            figures[f"head_{head}_tail_{tail}_{name}"] = error(logits_NV, head_VT, head, tail, ours)
    given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
