"""The released config.json of a student, both ways: `config_json` says it, `config_of` reads it.

What is written is read by transformers and by engines that know the releases (arXiv 2412.19437
and 2606.19348); what is read may be ours, a release's or transformers' own. Quantised checkpoints
and fields that nothing here builds are refused, for none may be dropped unsaid.
"""

from dataclasses import asdict
from typing import Any

import torch

from student.config import MLAConfig, V4Config
from student.errors import ConfigError, WeightsError
from student.released_fields import (
    DEFAULTED,
    HARMLESS,
    MLA,
    OPTIONAL,
    TRUTHS,
    V4,
    Fields,
    Layout,
    need,
    refused,
    whole,
)
from student.released_layers import layer_fields, layers_of
from student.released_rotary import (
    listed_frequencies,
    listed_twice,
    mla_rotary,
    scaling,
    share,
    v4_rotary,
)
from student.vocabulary import Vocabulary

MAIN_INDEX = "main.safetensors.index.json"
"""The index of all but prediction layers, for readers that would not know what those are."""

DTYPE_NAMES = {
    torch.float32: ("float32", "fp32"),
    torch.bfloat16: ("bfloat16", "bf16"),
    torch.float16: ("float16", "fp16"),
}
"""What a dtype is called, of all tensors and of experts."""


# Out


def config_json(
    config: MLAConfig | V4Config, vocabulary: Vocabulary, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Return config.json of a student whose matrices are stored in `dtype`.

    Raises:
        WeightsError: students are not stored in that.
    """
    if dtype not in DTYPE_NAMES:
        known = ", ".join(name for name, _ in DTYPE_NAMES.values())
        raise WeightsError(f"dtype is {dtype}; students are stored in one of {known}.")
    layout, values = V4 if isinstance(config, V4Config) else MLA, asdict(config)
    torch_dtype, expert_dtype = DTYPE_NAMES[dtype]
    said = {
        "architectures": [layout.architecture],
        "model_type": layout.model_type,
        "torch_dtype": torch_dtype,
        "vocab_size": vocabulary.size,
        "bos_token_id": vocabulary.bos,
        "eos_token_id": vocabulary.eos,
        "pad_token_id": vocabulary.pad,
        "rope_theta": config.rope_theta,
        "rope_scaling": _stretching(config, layout),
        **{theirs: values[ours] for ours, theirs in layout.fields.items()},
        **layout.fixed,
    }
    if isinstance(config, V4Config):
        return said | _v4_fields(config) | {"expert_dtype": expert_dtype}
    said["num_key_value_heads"] = config.num_heads
    if config.num_mtp_layers:
        # transformers skips prediction layers by the number 61; told which files are the model
        # proper, it does not meet them. Others take no notice.
        said["transformers_weights"] = MAIN_INDEX
    return said


def _stretching(config: MLAConfig | V4Config, layout: Layout) -> dict[str, Any] | None:
    if isinstance(config, MLAConfig) and config.rope_frequencies is not None:
        return listed_frequencies(config, config.rope_theta)
    return scaling(config.yarn, layout)


def _v4_fields(config: V4Config) -> dict[str, Any]:
    listed = {}
    if config.rope_frequencies is not None:
        listed = {"rope_parameters": listed_twice(config)}
    return (
        layer_fields(config)
        | listed
        | {
            "num_key_value_heads": 1,
            "compress_rope_theta": config.compress_rope_theta,
            "partial_rotary_factor": share(config.qk_rope_head_dim, config.head_dim),
        }
    )


# In


def config_of(fields: Fields) -> tuple[MLAConfig | V4Config, Vocabulary]:
    """Return what a config.json describes: one of ours, or a released one.

    Raises:
        WeightsError: names the field, its value and the rule it breaks.
    """
    layout = _layout(fields)
    _refuse_quantised(fields)
    _refuse_unknown(fields, layout)
    for name, value in {**layout.fixed, **layout.neutral}.items():
        if name in fields and fields[name] != value:
            raise refused(fields, name, f"a {layout.model_type} student has {value!r} there")
    read = _read(fields, layout)
    try:
        config = _v4_config(fields, read) if layout is V4 else _mla_config(fields, read)
        return config, _vocabulary(fields)
    except (ConfigError, OverflowError) as error:  # a number beyond all floats is no size either
        raise WeightsError(f"config.json: {error}") from error


def _layout(fields: Fields) -> Layout:
    for layout in (V4, MLA):
        if fields.get("model_type") == layout.model_type:
            break
    else:
        known = f"a student is of {MLA.model_type} or {V4.model_type}"
        raise refused(fields, "model_type", known)
    if fields.get("architectures") not in (None, [layout.architecture]):
        raise refused(fields, "architectures", f"a student is a {layout.architecture}")
    return layout


def _refuse_quantised(fields: Fields) -> None:
    ask = "dequantise the checkpoint to bfloat16 first"
    if fields.get("quantization_config") is not None:
        raise refused(fields, "quantization_config", f"students are not quantised, so {ask}")
    plain = {name for names in DTYPE_NAMES.values() for name in names}
    if fields.get("expert_dtype") not in (None, *plain):
        raise refused(fields, "expert_dtype", f"experts are stored as plain numbers, so {ask}")


def _refuse_unknown(fields: Fields, layout: Layout) -> None:
    known = {"architectures", *layout.fields.values(), *layout.fixed, *layout.neutral}
    known |= layout.handled | HARMLESS
    for name, value in fields.items():
        if name not in known and value is not None:
            rule = f"a {layout.model_type} student knows no such field, and nothing is left out"
            raise refused(fields, name, f"{rule} of a network unsaid")


def _read(fields: Fields, layout: Layout) -> dict[str, Any]:
    """Return the fields that are merely called something else, by the student's names."""
    read = {}
    for ours, theirs in layout.fields.items():
        if theirs in DEFAULTED and theirs not in fields:
            continue
        optional = theirs in OPTIONAL
        value = fields.get(theirs, OPTIONAL[theirs]) if optional else need(fields, theirs)
        if value is None and not (theirs == "q_lora_rank" and layout is MLA):
            raise refused(fields, theirs, "give its value")
        if theirs in TRUTHS and not isinstance(value, bool):
            raise refused(fields, theirs, "it must be true or false")
        read[ours] = value
    return read


def _vocabulary(fields: Fields) -> Vocabulary:
    return Vocabulary(
        size=whole(fields, "vocab_size"),
        bos=whole(fields, "bos_token_id"),
        eos=whole(fields, "eos_token_id"),
        pad=None if fields.get("pad_token_id") is None else whole(fields, "pad_token_id"),
    )


def _mla_config(fields: Fields, read: dict[str, Any]) -> MLAConfig:
    heads = read["num_heads"]
    if fields.get("num_key_value_heads") not in (None, heads):
        rule = f"latent attention has as many as num_attention_heads ({heads})"
        raise refused(fields, "num_key_value_heads", rule)
    return MLAConfig(**read, **mla_rotary(fields))


def _v4_config(fields: Fields, read: dict[str, Any]) -> V4Config:
    if fields.get("num_key_value_heads") not in (None, 1):
        raise refused(fields, "num_key_value_heads", "all heads share one key and value")
    rotary = v4_rotary(fields, read["qk_rope_head_dim"], read["head_dim"])
    return V4Config(**read, **rotary, **layers_of(fields))
