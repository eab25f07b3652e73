"""Run files to start from: the quick start, or any student of the catalogue drawn from scratch.

What explains a key is data: `presets/quickstart.yaml` is the quick start, whose student begins with
its teacher's weights; `presets/quick-scratch.yaml` every key, with an `mla` student from scratch;
`presets/student-v4.yaml` the section of the other family. Here the values are put in, and how
large the student is stands at the top, before anyone has waited for memory.
"""

import difflib
import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from distill.errors import InputError
from distill.resources import shipped
from student.catalogue import presets
from student.config import MLAConfig, V4Config
from student.sizes import count_parameters, kv_cache_bytes_per_token

QUICK_START = "quickstart"
QUICK_SCRATCH = "quick-scratch"
RELEASED_VOCABULARY = 129_280
EMBEDDED_VOCABULARY = 49_152
"""Tokens of the quick start's teacher, whose tokenizer its student shares."""

TRAINING_BYTES = 16  # a parameter's, in float32: weight, gradient and AdamW's two moments
CHECKPOINT_SHARE = 3 / 4  # of that: all but the gradient
LAPTOP_BYTES = 16 * 2**30

_FIRST = (
    "A spiritsafe run. Every key is optional; outside `student`, what is left out has the value "
    "shown here."
)
_LINE = re.compile(r"  (\w+): (.*?)(?:\s+(#.*))?")
_WIDTH = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How large a student of the catalogue is, with a vocabulary of some size.

    Attributes:
        name: in the catalogue.
        family: `mla` or `v4`.
        parameters: of the trunk, as the reports count.
        active_parameters: of these, those that work on one token.
        prediction_parameters: of the prediction layers.
        cache_bytes_per_token: by which bfloat16 decoding grows with each token, on average.
        training_bytes: weights, gradients and moments; activations come on top.
    """

    name: str
    family: str
    parameters: int
    active_parameters: int
    prediction_parameters: int
    cache_bytes_per_token: int | float
    training_bytes: int

    @property
    def fits_a_laptop(self) -> bool:
        """Whether training leaves some of 16 GiB free."""
        return self.training_bytes < LAPTOP_BYTES


def sizes(vocab_size: int = RELEASED_VOCABULARY) -> list[Size]:
    """Return every student of the catalogue, the smallest first."""
    found = [_size(name, config, vocab_size) for name, config in presets().items()]
    return sorted(found, key=lambda size: size.parameters)


def run_file(name: str = QUICK_START) -> str:
    """Return a commented run file with the student called `name`.

    `quickstart` is a file of its own, of a student that begins with its teacher's weights.

    Raises:
        InputError: the catalogue has no such student; names the nearest.
    """
    if name == QUICK_START:
        return shipped("presets/quickstart.yaml").read_text(encoding="utf-8")
    text = shipped("presets/quick-scratch.yaml").read_text(encoding="utf-8")
    if name == QUICK_SCRATCH:
        return text
    config = _named(name)
    before, _, after = text.partition("student:\n")
    section, _, after = after.partition("\n\n")
    if isinstance(config, V4Config):
        section = shipped("presets/student-v4.yaml").read_text(encoding="utf-8")
        section = section.partition("student:\n")[2].rstrip()
    _, _, usage, before = before.split("\n", 3)  # the first lines are of quick-scratch
    heading = f"{_comment(_FIRST)}{usage}\n#\n{_heading(name, config)}"
    return f"{heading}{before}student:\n{_fill(section, asdict(config))}\n\n{after}"


def table() -> str:
    """Return `sizes()` as lines of text for a terminal."""
    heads = ("name", "family", "parameters", "active", "cache a token", "training")
    rows = [
        (
            size.name,
            size.family,
            spoken(size.parameters),
            spoken(size.active_parameters),
            f"{round(size.cache_bytes_per_token):,} B",
            memory(size.training_bytes),
        )
        for size in sizes()
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [
        "  ".join(
            f"{cell:<{width}}" if place < 2 else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (heads, *rows)
    ]
    note = (
        f"Parameters are of the trunk with a vocabulary of {RELEASED_VOCABULARY:,} tokens, "
        "DeepSeek's; a student takes its teacher's. Training is the memory of weights, gradients "
        "and two moments, prediction layers included; activations come on top."
    )
    return "\n".join([*lines, "", *textwrap.wrap(note, _WIDTH)]) + "\n"


def too_large(name: str) -> str | None:
    """Return a sentence about a student that is too large to train on a laptop, or None."""
    if name == QUICK_START:
        return None
    size = _size(name, _named(name), EMBEDDED_VOCABULARY)
    if size.fits_a_laptop:
        return None
    return (
        f"{name} has {spoken(size.parameters)} parameters; training it takes "
        f"{memory(size.training_bytes)} of memory before activations, more than a laptop has."
    )


def spoken(count: int) -> str:
    """Return a count as a person says it, to three digits."""
    for name, unit in (("trillion", 10**12), ("billion", 10**9), ("million", 10**6)):
        if count >= 0.9995 * unit:
            return f"{_three_digits(count / unit)} {name}"
    return f"{count:,}"


def memory(size: int) -> str:
    """Return bytes in GiB, or in TiB from one on."""
    unit, name = (2**40, "TiB") if size >= 2**40 else (2**30, "GiB")
    return f"{_three_digits(size / unit)} {name}"


def _three_digits(value: float) -> str:
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f}"


def _named(name: str) -> MLAConfig | V4Config:
    known = presets()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"student {name!r} is unknown; {hint}`distill students` lists them.")
    return known[name]


def _size(name: str, config: MLAConfig | V4Config, vocab_size: int) -> Size:
    counted = count_parameters(config, vocab_size)
    return Size(
        name=name,
        family=config.family,
        parameters=counted.total,
        active_parameters=counted.active,
        prediction_parameters=counted.mtp,
        cache_bytes_per_token=kv_cache_bytes_per_token(config),
        training_bytes=TRAINING_BYTES * (counted.total + counted.mtp),
    )


def _heading(name: str, config: MLAConfig | V4Config) -> str:
    size = _size(name, config, EMBEDDED_VOCABULARY)
    ahead, checkpoint = size.prediction_parameters, round(size.training_bytes * CHECKPOINT_SHARE)
    story = (
        f"The student is {name} of the catalogue: {spoken(size.parameters)} parameters, "
        f"{spoken(size.active_parameters)} of them at work on a token"
        f"{f', and {spoken(ahead)} in prediction layers' if ahead else ''}, with the embedded "
        f"teacher's vocabulary of {EMBEDDED_VOCABULARY:,} tokens. Training holds "
        f"{memory(size.training_bytes)} (weights, gradients, two moments) and activations; a "
        f"checkpoint takes {memory(checkpoint)} of disk and three are kept."
    )
    if not size.fits_a_laptop:
        story += " That is more than a laptop has, and a run uses one device."
    rest = (
        "The other sections are quick-scratch's, whose run takes a minute; a longer one wants "
        "its own train.steps, train.batch_size, train.bias_update_speed, optimizer.learning_rate "
        "and checkpoint.every_steps."
    )
    return _comment(story) + _comment(rest)


def _comment(text: str) -> str:
    lines = textwrap.wrap(text, _WIDTH - 2, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def _fill(section: str, values: Mapping[str, Any]) -> str:
    """Return the lines of a section with `values` in place of what stands there."""
    lines = []
    for line in section.splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            lines.append(line)
            continue
        key, _, comment = found.groups()
        put = f"  {key}: {_plain(values[key])}"
        whole = f"{put:{line.index('#') - 2}}  {comment}" if comment else put
        if comment and len(whole) > _WIDTH:
            lines.append(f"  {comment}")
            whole = put
        lines += textwrap.wrap(whole, _WIDTH, subsequent_indent="    ") if whole == put else [whole]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    """Return a value as YAML on one line."""
    match value:
        case dict():
            return "{" + ", ".join(f"{key}: {_plain(inner)}" for key, inner in value.items()) + "}"
        case tuple():
            return "[" + ", ".join(value) + "]"
        case str():
            return value
    return json.dumps(value).replace("e-0", "e-")
