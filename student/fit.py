"""Whether tokens, documents and choices that a caller gives fit a student.

Types, shapes and devices are known on the host and always looked at. Values are looked at on the
CPU alone: elsewhere the host would have to wait for the device.

Shapes: N tokens, K experts or entries a token.
"""

from collections.abc import Sequence
from typing import Any

import torch

from student.cache import MLACache, V4Cache
from student.choices import Choices
from student.config import MLAConfig, V4Config
from student.documents import Documents
from student.errors import ShapeError


def check_tokens(name: str, tokens: Any, size: int, device: torch.device) -> None:
    """Refuse what are no tokens of a vocabulary of `size`.

    Raises:
        ShapeError: no int64 tensor, on another device, or an unknown token.
    """
    if not isinstance(tokens, torch.Tensor) or tokens.dtype != torch.int64:
        kind = tokens.dtype if isinstance(tokens, torch.Tensor) else type(tokens).__name__
        raise ShapeError(f"{name} is of type {kind}; give a tensor of type torch.int64.")
    _check_device(name, tokens, device)
    if _outside(tokens, size):
        raise ShapeError(
            f"{name} has a token outside the vocabulary of {size}; was it made by this student's "
            "tokenizer?"
        )


def check_documents(documents: Any, longest: int, device: torch.device) -> None:
    """Refuse documents with more tokens than a student has positions.

    Raises:
        ShapeError: one is too long, or they are on another device, or no `Documents`.
    """
    if not isinstance(documents, Documents):
        kind = type(documents).__name__
        raise ShapeError(f"documents is of type {kind}; make it with Documents(lengths, device).")
    _check_device("documents", documents.position_N, device)
    if max(documents.lengths) > longest:
        raise ShapeError(
            f"documents has one of {max(documents.lengths)} tokens, more than "
            f"max_position_embeddings ({longest}); cut it into shorter ones."
        )


def check_choices(choices: Choices, config: MLAConfig | V4Config) -> None:
    """Refuse choices of another family or of another number of layers.

    Raises:
        ShapeError: says which.
    """
    if choices.family not in (None, config.family):
        raise ShapeError(
            f"replay is of a student of the family {choices.family} and this one is "
            f"{config.family}; replay choices of the same family."
        )
    layers = config.num_layers
    most = layers + config.num_mtp_layers
    for name, given in (("experts", choices.experts), ("entries", choices.entries)):
        if not layers <= len(given) <= most:
            raise ShapeError(
                f"replay.{name} has {len(given)} places; this student needs {layers}, a place a "
                f"layer, and at most {most}, with its prediction layers."
            )


def check_experts(
    place: int, expert_NK: torch.Tensor, token_N: torch.Tensor, config: MLAConfig | V4Config
) -> None:
    """Refuse what are no experts for these tokens in the layer `place`.

    Raises:
        ShapeError: the layer is dense, or the experts are of another shape, device or number.
    """
    name, experts = f"replay.experts[{place}]", config.num_routed_experts
    if isinstance(config, MLAConfig) and place < config.num_dense_layers:
        raise ShapeError(f"{name} is given to a dense layer, which has no experts; make it None.")
    _check_rows(name, expert_NK, token_N, config.num_experts_per_token)
    if _outside(expert_NK, experts):
        raise ShapeError(
            f"{name} has an expert outside 0 to {experts - 1}; replay choices of this student or "
            "of one like it."
        )


def check_entries(
    place: int,
    entry_NK: torch.Tensor,
    token_N: torch.Tensor,
    documents: Documents,
    config: MLAConfig | V4Config,
) -> None:
    """Refuse what are no entries of a stream for these tokens in the layer `place`.

    Raises:
        ShapeError: the layer has no indexer, or the entries are of another shape or device, or
            not of a token's own past.
    """
    compression = _check_indexer(place, config)
    name = f"replay.entries[{place}]"
    _check_rows(name, entry_NK, token_N, None)
    entries = documents.entries(compression)
    _check_seen(name, entry_NK, entries.first_N, entries.end_N)


def check_step(
    choices: Choices, token_B: torch.Tensor, place_B: torch.Tensor, config: MLAConfig | V4Config
) -> None:
    """Refuse what are no entries for a step of decoding, at the positions `place_B`.

    Raises:
        ShapeError: as `check_choices` and `check_entries`; places are in a sequence's own entries.
    """
    check_choices(choices, config)
    for place, entry_BK in enumerate(choices.entries):
        if entry_BK is not None:
            compression, name = _check_indexer(place, config), f"replay.entries[{place}]"
            _check_rows(name, entry_BK, token_B, None)
            made_B = (place_B + 1) // compression
            _check_seen(name, entry_BK, torch.zeros_like(made_B), made_B)


def check_cache(cache: Sequence[MLACache | V4Cache], config: MLAConfig | V4Config) -> None:
    """Refuse a cache of another family or of another number of layers.

    Raises:
        ShapeError: it is of another student.
    """
    kind = MLACache if isinstance(config, MLAConfig) else V4Cache
    if len(cache) != config.num_layers or not isinstance(cache[0], kind):
        raise ShapeError(
            f"cache has {len(cache)} layers of {type(cache[0]).__name__}; this student needs "
            f"{config.num_layers} of {kind.__name__}, so make it with its own remember."
        )


def _check_indexer(place: int, config: MLAConfig | V4Config) -> int:
    """Return the tokens that an entry of the layer stands for."""
    kinds = () if isinstance(config, MLAConfig) else config.layer_types
    if isinstance(config, MLAConfig) or kinds[place : place + 1] != ("csa",):
        raise ShapeError(
            f"replay.entries[{place}] is given to a layer without an indexer; make it None."
        )
    return config.csa_compression


def _check_seen(
    name: str, entry_NK: torch.Tensor, first_N: torch.Tensor, end_N: torch.Tensor
) -> None:
    if entry_NK.device.type != "cpu":
        return
    unseen_NK = (entry_NK < first_N[:, None]) | (entry_NK >= end_N[:, None])
    if bool((unseen_NK & (entry_NK != -1)).any()):
        raise ShapeError(
            f"{name} has an entry that its token does not see; replay a pass over the same "
            "documents, with -1 where there is none."
        )


def _outside(values: torch.Tensor, end: int) -> bool:
    """Tell whether a value on the CPU is not in 0 to `end - 1`."""
    if values.device.type != "cpu" or not values.numel():
        return False
    least, most = torch.aminmax(values)
    return int(least) < 0 or int(most) >= end


def _check_rows(
    name: str, chosen_NK: torch.Tensor, token_N: torch.Tensor, width: int | None
) -> None:
    rows, columns = len(token_N), "K" if width is None else width
    fits = chosen_NK.ndim == 2 and len(chosen_NK) == rows
    if not fits or chosen_NK.dtype != torch.int64 or width not in (None, chosen_NK.shape[1]):
        raise ShapeError(
            f"{name} is {tuple(chosen_NK.shape)} of {chosen_NK.dtype}; these tokens need "
            f"({rows}, {columns}) of torch.int64."
        )
    _check_device(name, chosen_NK, token_N.device)


def _check_device(name: str, given: torch.Tensor, device: torch.device) -> None:
    if given.device != device:
        raise ShapeError(f"{name} is on {given.device} and the student on {device}; move one.")
