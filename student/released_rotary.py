"""Rotary positions in the released config.json: bases, the rotated share, YaRN's stretching.

Two forms are read: the releases' flat `rope_scaling` beside `rope_theta`, which is also what is
written, and transformers' `rope_parameters`, in v4 one dict for layers with a window alone
(`main`) and one for layers with compressed entries (`compress`). Only the latter are stretched in
DeepSeek-V4 (arXiv 2606.19348); in DeepSeek-V3 every layer is (arXiv 2412.19437, section 4.3).
"""

import math
from typing import Any

import numpy as np

from student.config import MLAConfig, V4Config, Yarn
from student.errors import WeightsError
from student.released_fields import (
    MLA,
    V4,
    Fields,
    Layout,
    listed,
    number,
    pairs,
    refused,
    whole,
)

ROPE_PLAIN = frozenset({"type", "rope_type", "rope_theta", "partial_rotary_factor"})
ROPE_YARN = ROPE_PLAIN | set(
    "factor original_max_position_embeddings beta_fast beta_slow attention_factor mscale "
    "mscale_all_dim truncate".split()
)
ROPE_LISTED = ROPE_PLAIN | set(
    "factor original_max_position_embeddings attention_factor short_factor long_factor".split()
)


# Out


def listed_frequencies(config: MLAConfig | V4Config, theta: float) -> dict[str, Any]:
    """Return `rope_scaling` of a student with frequencies of its own, in relation to a base.

    LongRoPE's layout (Ding et al., arXiv 2402.13753) is the only one of transformers' that takes a
    number for every pair; the two lists, of short and of long contexts, are the same here.
    """
    assert config.rope_frequencies is not None
    width = config.qk_rope_head_dim
    factors = [
        theta ** (-2 * pair / width) / frequency
        for pair, frequency in enumerate(config.rope_frequencies)
    ]
    return {
        "type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "factor": 1.0,
        "attention_factor": 1.0,
        "original_max_position_embeddings": config.max_position_embeddings,
    }


def listed_twice(config: V4Config) -> dict[str, Any]:
    """Return `rope_parameters` of a V4 student with frequencies of its own.

    A flat dict would stretch layers with entries alone, so both kinds of layers are named.
    """
    part = {"partial_rotary_factor": share(config.qk_rope_head_dim, config.head_dim)}
    thetas = {"main": config.rope_theta, "compress": config.compress_rope_theta}
    return {
        name: listed_frequencies(config, theta) | part | {"rope_theta": theta}
        for name, theta in thetas.items()
    }


def scaling(yarn: Yarn | None, layout: Layout) -> dict[str, Any] | None:
    """Return `rope_scaling` of a student."""
    if yarn is None:
        return None
    said = {
        "type": "yarn",
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original_positions,
        "beta_fast": yarn.beta_fast,
        "beta_slow": yarn.beta_slow,
    }
    if layout is not MLA:
        return said
    # Equal, the two cancel in cosine and sine and only the softmax scale is corrected.
    scale = yarn.mscale_all_dim
    said |= {"mscale": scale, "mscale_all_dim": scale}
    return said if scale else said | {"attention_factor": 1.0}


def share(part: int, of: int) -> float:
    """Return the fraction that truncates back to `part` of `of`, as readers compute it."""
    fraction = part / of
    return fraction if int(of * fraction) == part else math.nextafter(fraction, 1.0)


# In


def mla_rotary(fields: Fields) -> dict[str, Any]:
    """Return `rope_theta` and `yarn` of an MLA student."""
    rope = _rope(fields)
    theta = _agreed("rope_theta", rope, fields)
    if _kind(rope) == "longrope":
        return {"rope_theta": theta, "rope_frequencies": _listed(rope, theta)}
    return {"rope_theta": theta, "yarn": _yarn(rope, MLA)}


def v4_rotary(fields: Fields, rotated: Any, head_dim: Any) -> dict[str, Any]:
    """Return `rope_theta`, `compress_rope_theta` and `yarn` or frequencies of a V4 student.

    `rotated` of `head_dim` dimensions are turned, so a share that is said must say the same.
    """
    rope = _rope(fields)
    nested = "main" in rope or "compress" in rope
    # In a flat dict the base is the plain one; layers with entries have a field for theirs.
    main = pairs(rope, "main") or {} if nested else {}
    compress = pairs(rope, "compress") or {} if nested else rope
    for part in (fields, main, compress):
        _check_share(part, rotated, head_dim)
    plain, own = (main, compress) if nested else (rope, {})
    theta = _agreed("rope_theta", plain, fields)
    own_theta = _agreed("rope_theta", own, fields, "compress_rope_theta")
    bases = {"rope_theta": theta, "compress_rope_theta": own_theta}
    if _kind(main) == _kind(compress) == "longrope":
        frequencies = _listed(main, theta)
        if _listed(compress, own_theta) != frequencies:
            rule = "layers with and without compressed entries turn by the same frequencies"
            raise refused(compress, "short_factor", rule)
        return bases | {"rope_frequencies": frequencies}
    if _yarn(main, V4) is not None:
        raise refused(main, "rope_type", "only layers with compressed entries are stretched")
    return bases | {"yarn": _yarn(compress, V4)}


def _check_share(fields: Fields, part: Any, of: Any) -> None:
    fraction = number(fields, "partial_rotary_factor", math.nan)
    if isinstance(of, int) and not math.isnan(fraction) and int(of * fraction) != part:
        raise refused(fields, "partial_rotary_factor", f"qk_rope_head_dim is {part} of {of}")


def _rope(fields: Fields) -> dict[str, Any]:
    old, new = pairs(fields, "rope_scaling"), pairs(fields, "rope_parameters")
    if old is not None and new is not None:
        raise refused(fields, "rope_scaling", "rope_parameters is set too, so keep one of them")
    return (new if old is None else old) or {}


def _agreed(name: str, rope: Fields, fields: Fields, outer: str | None = None) -> float:
    """Return a base of rotary frequencies, which may stand in two places that then agree."""
    outer = outer or name
    within, outside = number(rope, name, math.nan), number(fields, outer, math.nan)
    if math.isnan(within) and math.isnan(outside):
        raise WeightsError(f"config.json: {outer} is missing; a student cannot be built without.")
    if within != outside and not math.isnan(within) and not math.isnan(outside):
        raise refused(fields, outer, f"its rotary positions say {within}")
    return outside if math.isnan(within) else within


def _kind(rope: Fields) -> Any:
    """Return how rotary frequencies are made; the field has an older name, which may stand beside.

    Raises:
        WeightsError: the two names do not agree.
    """
    kind = rope.get("rope_type" if "rope_type" in rope else "type", "default")
    if rope.get("type", kind) != kind:
        raise refused(rope, "type", f"rope_type is {kind}")
    return kind


def _check_known(rope: Fields, kind: str, known: frozenset[str]) -> None:
    for name in rope:
        if name not in known and rope[name] is not None:
            raise refused(rope, name, f"rotary positions of type {kind} have no such field")


def _listed(rope: Fields, theta: float) -> tuple[float, ...]:
    """Return the frequencies that LongRoPE's factors stand for."""
    _check_known(rope, "longrope", ROPE_LISTED)
    factors = listed(rope, "short_factor")
    if not factors or not all(type(f) in (int, float) and f > 0 for f in factors):
        raise refused(rope, "short_factor", "give a positive number for every pair")
    if rope.get("long_factor") != factors:
        raise refused(rope, "long_factor", "it must be short_factor, for no others are built")
    if rope.get("attention_factor") != 1:
        raise refused(rope, "attention_factor", "cosine and sine are not scaled, so it is 1")
    width = 2 * len(factors)
    # Turned by float32 numbers, and so the same ones after any number of readings.
    plain = (theta ** (-2 * pair / width) for pair in range(len(factors)))
    return tuple(float(np.float32(p / f)) for p, f in zip(plain, factors, strict=True))


def _yarn(rope: Fields, layout: Layout) -> Yarn | None:
    """Return the stretching of rotary frequencies that a dict of config.json asks for."""
    kind = _kind(rope)
    if kind not in ("default", "yarn"):
        said = "rope_type" if "rope_type" in rope else "type"
        in_both = "" if layout is MLA else " (of main and compress alike)"
        built = f"default, yarn and longrope{in_both}"
        raise refused(rope, said, f"no rotary positions but {built} are built")
    _check_known(rope, kind, ROPE_YARN if kind == "yarn" else ROPE_PLAIN)
    if kind == "default":
        return None
    if rope.get("truncate", True) is not True:
        raise refused(rope, "truncate", "the ramp begins and ends at whole dimensions")
    factor, lower = number(rope, "factor", math.nan), number(rope, "mscale_all_dim", 0.0)
    if math.isnan(factor):
        raise refused(rope, "factor", "it must be a number")
    _check_amplitude(rope, layout, factor, lower)
    return Yarn(
        factor=factor,
        original_positions=whole(rope, "original_max_position_embeddings"),
        beta_fast=number(rope, "beta_fast", 32.0),
        beta_slow=number(rope, "beta_slow", 1.0),
        mscale_all_dim=lower,
    )


def _check_amplitude(rope: Fields, layout: Layout, factor: float, lower: float) -> None:
    """See that readers of `rope` multiply cosine and sine by 1.

    Some divide one `mscale` by the other, some heed `attention_factor` first, and with neither
    they scale by a logarithm of the factor; in v4 none of it is done.
    """
    if rope.get("attention_factor") not in (None, 1):
        raise refused(rope, "attention_factor", "cosine and sine are not scaled, so it is 1")
    if number(rope, "mscale", lower) != lower:
        raise refused(rope, "mscale", f"it must be mscale_all_dim ({lower}), as in the release")
    unsaid = rope.get("attention_factor") is None and not (lower and rope.get("mscale"))
    if layout is MLA and factor > 1 and unsaid:
        rule = "without it and mscale_all_dim, attention_factor must be 1"
        raise refused(rope, "mscale", rule)
