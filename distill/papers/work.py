"""Operations of a run's passes, as lines of its bill; a multiply-add is two.

The student's are those of `student.sizes`. A teacher's are counted from the shapes of its matrices
and a few sizes of its config: two for each weight that works on a token, plus the products of
attention; norms, softmax and activations are left out, as they are there.

Letters: S tokens of a sequence, E experts, K experts that work on a token.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from distill.papers.ledger import Line, worked_out
from student import sizes
from student.config import MLAConfig, V4Config

Shapes = Mapping[str, tuple[int, ...]]

_LOOKED_UP = re.compile(r"embed|\bwte\b|\bwpe\b|lm_head")
_EXPERTS = re.compile(r"\bexperts\b")
# What families call E, K, and the widths of a head that is unfolded from a latent.
_NUM_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_NUM_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_k")
_LATENT = ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")


def student_training(
    config: MLAConfig | V4Config,
    vocab_size: int,
    *,
    sequence_tokens: int,
    tokens: int,
    recompute: bool = False,
    text: str = "",
) -> Line:
    """Return what training took: forward, and backward as twice that.

    Args:
        config: the student's.
        vocab_size: rows of its head, which counts at every position.
        sequence_tokens: S, over which attention reaches; with documents apart it reaches less.
        tokens: positions trained on, counted or not.
        recompute: whether a block ran forward again in the backward pass.
        text: whose text it is, where that is not the run's.
    """
    trained = sizes.training_flops_per_token(config, vocab_size, sequence_tokens)
    inputs: dict[str, float | None] = {
        "tokens": tokens,
        "forward": trained / 3,
        "passes": 3 + recompute,
    }
    again = " + recompute" if recompute else ""
    return worked_out(
        "student_training",
        "operations",
        f"Student, training{text}",
        "FLOP",
        "tokens * forward * passes",
        inputs,
        source=f"a token's forward pass by the student's shapes (V {vocab_size:,}, mean over "
        f"sequences of {sequence_tokens:,}, head at every position); passes: forward + backward "
        f"as two{again}",
    )


def student_forward(
    config: MLAConfig | V4Config,
    vocab_size: int,
    *,
    sequence_tokens: int,
    positions: int,
    applied: int,
    doing: str,
) -> Line:
    """Return what forward passes without a backward one took: evaluating, or writing.

    Args:
        config: the student's; its prediction layers do not run.
        vocab_size: rows of its head.
        sequence_tokens: S, tokens of a sequence, over which attention reaches.
        positions: that it read, or wrote and read again.
        applied: positions to which its head was applied.
        doing: what it did, for the name of the line.
    """
    head = 2 * vocab_size * config.hidden_size
    trunk = replace(config, num_mtp_layers=0)
    both = sizes.training_flops_per_token(trunk, vocab_size, sequence_tokens) / 3
    return worked_out(
        "student_forward",
        "operations",
        f"Student, {doing}",
        "FLOP",
        "positions * body + applied * head",
        {"positions": positions, "body": both - head, "applied": applied, "head": head},
        source=f"a position's forward pass by the student's shapes (mean over sequences of "
        f"{sequence_tokens:,}), without prediction layers, and its head (V {vocab_size:,})",
    )


def teacher_forward(
    name: str,
    shapes: Shapes,
    config: Mapping[str, Any],
    *,
    sequence_tokens: int,
    tokens: int,
    applied: int | None = None,
    doing: str = "forward",
) -> Line:
    """Return what a local teacher's forward passes took.

    Args:
        name: the teacher's.
        shapes: of all its parameters, by name, as `named_parameters` has them.
        config: its config.json.
        sequence_tokens: S; attention reaches (S + 1) / 2 tokens on average, no window considered.
        tokens: positions it read.
        applied: positions to which its head was applied, read or kept; those it read by default.
        doing: what it did, for the name of the line.
    """
    config = config.get("text_config", config)
    inputs: dict[str, float | None] = {
        "tokens": tokens,
        "matrices": _matrices(shapes),
        "idle": _idle(shapes, config),
        "layers": _first(config, ("num_hidden_layers",)),
        "heads": _first(config, ("num_attention_heads",)),
        "widths": _widths(config),
        "reach": (sequence_tokens + 1) / 2,
        "applied": tokens if applied is None else applied,
        "head": _head(config),
    }
    missing = ", ".join(name for name, value in inputs.items() if value is None)
    return worked_out(
        "teacher_forward",
        "operations",
        f"{name}, {doing}",
        "FLOP",
        "tokens * (2 * (matrices - idle) + 2 * layers * heads * widths * reach)"
        " + applied * 2 * head",
        inputs,
        source="shapes of its matrices, without embeddings; idle: of experts that do not work on "
        "a token; widths: of a key and a value; applied: positions that its head was applied to",
        unknown=f"its config.json does not say what gives {missing}",
    )


def unrecorded(name: str, reason: str) -> Line:
    """Return the line of passes that were made, but that the run did not count.

    Args:
        name: whose passes, and for what.
        reason: what would make them known.
    """
    return worked_out(
        "unrecorded",
        "operations",
        name,
        "FLOP",
        "tokens * forward",
        {"tokens": None, "forward": None},
        source="passes that were made and not counted",
        unknown=reason,
    )


def served(name: str, tokens: int) -> Line:
    """Return the line of a teacher that is served: nobody here knows what it took."""
    return worked_out(
        "teacher_served",
        "operations",
        f"{name}, served",
        "FLOP",
        "tokens * forward",
        {"tokens": tokens, "forward": None},
        source="tokens as its endpoint counted them",
        unknown=f"{name} is served, so its size is not known here",
    )


def _matrices(shapes: Shapes) -> int:
    """Count the weights that are multiplied; the head and tables that are looked up left out."""
    return sum(
        math.prod(shape)
        for name, shape in shapes.items()
        if _is_matrix(name, shape) and not _LOOKED_UP.search(name)
    )


def _idle(shapes: Shapes, config: Mapping[str, Any]) -> float | None:
    """Count the weights of experts that do not work on a token: (E - K) / E of all experts'."""
    sizes_of = [math.prod(s) for n, s in shapes.items() if _is_matrix(n, s) and _EXPERTS.search(n)]
    if not sizes_of:
        return 0
    experts, chosen = _first(config, _NUM_EXPERTS), _first(config, _NUM_CHOSEN)
    if not experts or chosen is None:
        return None
    return sum(sizes_of) * (experts - chosen) / experts


def _is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    # Experts' biases are tables of a row an expert.
    return len(shape) >= 2 and not name.endswith("bias")


def _widths(config: Mapping[str, Any]) -> float | None:
    """Return the widths of a head's key and value together."""
    latent = [_first(config, (name,)) for name in _LATENT]
    if None not in latent:  # unfolded from a latent, as in DeepSeek-V3
        return sum(width for width in latent if width is not None)
    width = _first(config, ("head_dim",))
    if width:
        return 2 * width
    hidden, heads = _first(config, ("hidden_size",)), _first(config, ("num_attention_heads",))
    return 2 * hidden / heads if hidden and heads else None


def _head(config: Mapping[str, Any]) -> float | None:
    rows, width = _first(config, ("vocab_size",)), _first(config, ("hidden_size",))
    return None if rows is None or width is None else rows * width


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    """Return the first of these settings that the config has as a number."""
    values = (config.get(name) for name in names)
    return next((v for v in values if isinstance(v, int | float)), None)
