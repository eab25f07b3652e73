"""Token ids and flags in few bits, any of which can be read without its neighbours.

An id is split into its low 16 bits and, where the vocabulary needs more, 1, 2, 4 or 8 high bits,
which are laid end to end from the lowest bit of the first byte on. A vocabulary of 131,072 tokens
so costs 17 bits an id.

Shapes: N values, M bytes, P places.
"""

import torch

LOW_BITS = 16
_WIDTHS = (0, 1, 2, 4, 8)  # those that no value straddles two bytes with


def high_bits(vocab_size: int) -> int:
    """Return how many bits an id of this vocabulary has beyond the low 16.

    Raises:
        ValueError: the vocabulary has more than 2^24 tokens.
    """
    needed = max(0, (vocab_size - 1).bit_length() - LOW_BITS)
    if needed > _WIDTHS[-1]:
        raise ValueError(f"a vocabulary of {vocab_size} tokens is too large; 2^24 is the most")
    return next(width for width in _WIDTHS if width >= needed)


def pack_ids(ids: torch.Tensor, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the low bits, uint16 of the shape of `ids`, and the high bits, uint8 `[M]`.

    Args:
        ids: integers on the CPU, of any shape.
        vocab_size: of the vocabulary they are from.

    Raises:
        ValueError: an id is not of the vocabulary.
    """
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise ValueError(f"ids from {int(ids.min())} to {int(ids.max())}, not below {vocab_size}")
    low = (ids & 0xFFFF).to(torch.uint16)
    return low, pack_bits(ids.flatten() >> LOW_BITS, high_bits(vocab_size))


def unpack_ids(
    low: torch.Tensor, high_M: torch.Tensor, place: torch.Tensor, vocab_size: int
) -> torch.Tensor:
    """Return the ids at `place`, int64 of its shape.

    Args:
        low: uint16 of any shape, as `pack_ids` gave it.
        high_M: its high bits.
        place: int64 of any shape, places in the flattened ids.
        vocab_size: the one they were packed with.
    """
    # As int16 they can be indexed on every device; the sign is masked off again.
    ids = low.view(torch.int16).flatten()[place].long() & 0xFFFF
    width = high_bits(vocab_size)
    return ids if width == 0 else ids | unpack_bits(high_M, place, width) << LOW_BITS


def pack_bits(value_N: torch.Tensor, width: int) -> torch.Tensor:
    """Return values of `width` bits (0, 1, 2, 4 or 8), several to a byte, uint8 `[M]`."""
    if width == 0:
        return torch.empty(0, dtype=torch.uint8)
    per_byte = 8 // width
    padded = torch.zeros(-(-len(value_N) // per_byte) * per_byte, dtype=torch.uint8)
    padded[: len(value_N)] = value_N
    shift = torch.arange(per_byte, dtype=torch.uint8) * width
    return (padded.view(-1, per_byte) << shift).sum(1).to(torch.uint8)


def unpack_bits(packed_M: torch.Tensor, place: torch.Tensor, width: int) -> torch.Tensor:
    """Return the values at `place`, int64 of its shape; `width` is 1 or more."""
    per_byte = 8 // width
    byte = packed_M[place // per_byte].long()
    return byte >> place % per_byte * width & (1 << width) - 1


def unpack_flags(packed_M: torch.Tensor, count: int) -> torch.Tensor:
    """Return the first `count` values of one bit, bool."""
    return unpack_bits(packed_M, torch.arange(count), 1).bool()
