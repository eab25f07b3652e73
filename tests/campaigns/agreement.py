"""How far a model is from itself when it is served otherwise than on disk, in nats a token.

    python tests/campaigns/agreement.py --json PATH

SmolLM2 reads 256 positions of Python's help topics in float32, and once more as servers would:
in less precision, at another temperature, after other tokens, one position late. The threshold of
`distill/teachers/agreement.py` stands between what precision does and what is wrong. A minute.
"""

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from distill.heads import logits
from distill.signals import Dense, Sparse
from distill.teachers import embedded
from distill.teachers.agreement import compare
from distill.teachers.local import LocalTeacher
from distill.text import corpus, sources

SEQUENCES, LENGTH = 4, 64
TOP = 20  # likeliest tokens a server names


def served(logits_NV: torch.Tensor) -> Sparse:
    """Return what a server would say of these logits: its likeliest tokens and their shares."""
    p_NH, ids_NH = logits_NV.softmax(-1).topk(TOP, dim=-1)
    none, rest_N = ids_NH.new_zeros(len(ids_NH), 0), 1 - p_NH.sum(-1)
    return Sparse(ids_NH, p_NH, none, rest_N, rest_N.new_full((len(rest_N),), torch.nan))


def eight_bits(weight: torch.Tensor) -> torch.Tensor:
    """Return rows rounded to 8-bit integers, one scale a row."""
    scale = weight.abs().amax(-1, keepdim=True) / 127
    return (weight / scale).round() * scale


def float8(values: torch.Tensor) -> torch.Tensor:
    """Return values rounded to float8 (e4m3), one scale a row."""
    return _float8(values, values.abs().amax(-1, keepdim=True))


def float8_at_once(values: torch.Tensor) -> torch.Tensor:
    """Return values rounded to float8 (e4m3), one scale a tensor."""
    return _float8(values, values.abs().amax())


def _float8(values: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    scale = largest / torch.finfo(torch.float8_e4m3fn).max
    return (values / scale).to(torch.float8_e4m3fn).to(values.dtype) * scale


def rounded(
    model: nn.Module,
    weights: Callable[[torch.Tensor], torch.Tensor],
    inputs: Callable[[torch.Tensor], torch.Tensor] | None,
) -> nn.Module:
    """Return a copy whose linear layers have rounded weights, and inputs where asked."""
    made = copy.deepcopy(model)
    for part in made.modules():
        if isinstance(part, nn.Linear):
            part.weight = nn.Parameter(weights(part.weight.data), requires_grad=False)
            if inputs is not None:
                part.register_forward_pre_hook(lambda _, given: (inputs(given[0]),))
    return made


@torch.inference_mode()
def measure() -> dict[str, float]:
    """Return the mean KL of the reference to each way of serving."""
    teacher = LocalTeacher(
        embedded.NAME, embedded.ensure(print), device=torch.device("cpu"), dtype=torch.float32
    )
    documents, _ = corpus.split(sources.load(("pydoc",)), 0.2)
    windows = corpus.pack(documents, teacher.tokenizer, LENGTH)
    few = windows.take(corpus.evenly(len(windows.tokens), SEQUENCES))
    token_WS = torch.from_numpy(few.tokens[:, :-1].astype(np.int64))

    def said(model: nn.Module, before: list[int]) -> torch.Tensor:
        first = torch.tensor(before, dtype=torch.int64).expand(SEQUENCES, len(before))
        made: torch.Tensor = model(torch.cat([first, token_WS], dim=1)).logits
        return made[:, len(before) :].float().flatten(0, 1)

    exact_NV = logits(teacher.hidden(token_WS).flatten(0, 1), teacher.head)
    known = Dense(exact_NV)
    tokenizer = teacher.tokenizer
    message = tokenizer.apply_chat_template(
        [{"role": "system", "content": "You answer in one short sentence."}], return_dict=False
    )
    ways = {
        "bfloat16": said(copy.deepcopy(teacher.model).bfloat16(), []),
        "int8_weights": said(rounded(teacher.model, eight_bits, None), []),
        "fp8_by_row": said(rounded(teacher.model, float8, float8), []),
        "fp8_by_tensor": said(rounded(teacher.model, float8_at_once, float8_at_once), []),
        "a_begin_token_more": said(teacher.model, [tokenizer.bos_token_id]),
        "a_system_message_before": said(teacher.model, message),
        "temperature_0.9": exact_NV / 0.9,
        "temperature_0.7": exact_NV / 0.7,
        "temperature_0": exact_NV * 1e4,
        "one_position_late": exact_NV.roll(1, 0),
    }
    return {name: float(compare(served(way), known)[0].mean()) for name, way in ways.items()}


def main() -> None:
    """Measure every way, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    figures = measure()
    given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
