"""Cached decoding of a batch of prompts of any lengths, greedy or sampled.

No padding is involved: prompts are run as documents of one stream, and each sequence has its own
clock from there on. Random numbers are drawn on the host from a seed, one a token, so the same
seed means the same draw on every device.

Shapes: B sequences, V vocabulary, N tokens of all prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from student import device as devices
from student.arguments import finite, listed, whole
from student.documents import Documents
from student.errors import ShapeError
from student.model import Student
from student.norm import widened

# Steps between looks at whether every sequence has ended; each look waits for the device.
_LOOK_EVERY = 8
# What a float32 can divide logits by, and tell from 0, with room to spare.
_LEAST = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How a token is picked.

    Attributes:
        temperature: 0, or less than a millionth, takes the likeliest token; otherwise logits are
            divided by it.
        top_p: only the likeliest tokens that together reach this probability are drawn from.
        seed: of the random numbers.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn from.

        Raises:
            ShapeError: names the field.
        """
        finite("temperature", self.temperature)
        finite("top_p", self.top_p)
        whole("seed", self.seed, 0)
        if self.temperature < 0:
            raise ShapeError(f"temperature is {self.temperature}; it must be at least 0.")
        if not 0 < self.top_p <= 1:
            raise ShapeError(f"top_p is {self.top_p}; it must be above 0 and at most 1.")


def generate(
    student: Student,
    prompts: Sequence[Sequence[int]] | torch.Tensor,
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    stop: Sequence[int] | None = None,
) -> list[list[int]]:
    """Return what the student writes after each prompt.

    Args:
        student: on any device, in any dtype; no gradient is kept.
        prompts: token ids; at least one each. A tensor `[B, S]` is B prompts.
        max_new_tokens: tokens to write at most, for each.
        sampling: greedy where it is None.
        stop: tokens that end a text and are not returned; the vocabulary's eos where it is None,
            none at all where it is empty.

    Raises:
        ShapeError: a prompt is empty, has unknown tokens, or leaves no room to write in.
    """
    size = student.vocabulary.size
    begun = _rows(prompts, size)
    _check_room(student, begun, max_new_tokens)
    how = sampling or Sampling()
    ends = [student.vocabulary.eos] if stop is None else _tokens("stop", stop, size)
    with devices.without_gradients(student.device):
        rows = _write(student, begun, max_new_tokens, how, ends)
    return [_until(row, ends) for row in rows]


def _write(
    student: Student, begun: list[list[int]], new: int, how: Sampling, ends: list[int]
) -> list[list[int]]:
    """Return the tokens picked, up to `new` a prompt, also those after an end."""
    device = student.device
    documents = Documents([len(row) for row in begun], device)
    token_N = torch.tensor([token for row in begun for token in row], dtype=torch.int64).to(device)
    hidden_BD, cache = student.remember(token_N, documents, max(documents.lengths) + new)
    random = torch.Generator().manual_seed(how.seed)
    draws = torch.rand(new, len(begun), generator=random).to(device)
    ended_B = torch.zeros(len(begun), dtype=torch.bool, device=device)
    written: list[torch.Tensor] = []
    for step in range(new):
        token_B = _pick(student.logits(hidden_BD), how, draws[step])
        written.append(token_B)
        for end in ends:
            ended_B |= token_B == end
        last = step + 1 == new
        if last or (ends and step % _LOOK_EVERY == _LOOK_EVERY - 1 and bool(ended_B.all())):
            break
        hidden_BD, _ = student.decode(token_B, cache)
    rows: list[list[int]] = torch.stack(written, dim=1).tolist()
    return rows


def _rows(prompts: Any, size: int) -> list[list[int]]:
    """Return the prompts as lists, whatever they came as."""
    values = prompts.tolist() if isinstance(prompts, torch.Tensor) else prompts
    given = listed("prompts", values, "a list of prompts, each a list of tokens")
    if not given:
        raise ShapeError("prompts is empty; give at least one.")
    rows = [_tokens(f"prompts[{place}]", prompt, size) for place, prompt in enumerate(given)]
    for place, row in enumerate(rows):
        if not row:
            raise ShapeError(f"prompts[{place}] is empty; begin it with the bos token.")
    return rows


def _tokens(name: str, tokens: Any, size: int) -> list[int]:
    values = tokens.tolist() if isinstance(tokens, torch.Tensor) else tokens
    given = listed(name, values, "a list of tokens")
    row = [whole(f"{name}[{place}]", token) for place, token in enumerate(given)]
    if row and not 0 <= min(row) <= max(row) < size:
        raise ShapeError(
            f"{name} has a token outside the vocabulary of {size}; was it made by this student's "
            "tokenizer?"
        )
    return row


def _check_room(student: Student, rows: list[list[int]], max_new_tokens: int) -> None:
    whole("max_new_tokens", max_new_tokens, 1)
    longest, limit = max(len(row) for row in rows), student.config.max_position_embeddings
    if longest + max_new_tokens > limit:
        raise ShapeError(
            f"a prompt of {longest} tokens and max_new_tokens of {max_new_tokens} exceed "
            f"max_position_embeddings ({limit})."
        )


def _pick(logit_BV: torch.Tensor, how: Sampling, draw_B: torch.Tensor) -> torch.Tensor:
    """Return a token a sequence: the likeliest, or the one whose share of [0, 1) the draw hits."""
    if how.temperature < _LEAST:
        return logit_BV.argmax(-1)
    share_BV = torch.softmax(widened(logit_BV) / how.temperature, dim=-1)
    if how.top_p == 1:
        return _hit(share_BV, draw_B)
    ranked_BV, token_BV = share_BV.sort(dim=-1, descending=True)
    # A token stays while those before it have not yet reached top_p; the first always does.
    before_BV = ranked_BV.cumsum(-1) - ranked_BV
    place_B = _hit(ranked_BV.masked_fill(before_BV >= max(how.top_p, _LEAST), 0.0), draw_B)
    return token_BV.gather(1, place_B[:, None]).squeeze(1)


def _hit(share_BV: torch.Tensor, draw_B: torch.Tensor) -> torch.Tensor:
    """Return the first place where the running sum exceeds draw times total."""
    reached_BV = share_BV.cumsum(-1)
    target_B1 = (draw_B * reached_BV[:, -1])[:, None]
    return (reached_BV <= target_B1).sum(-1).clamp_max(share_BV.shape[1] - 1)


def _until(row: list[int], ends: list[int]) -> list[int]:
    places = [row.index(end) for end in ends if end in row]
    return row[: min(places)] if places else row
