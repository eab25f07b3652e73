"""Kinds of layers in DeepSeek-V4's config.json: attention by compression, routing by token.

The release says a layer's kind by how many tokens an entry stands for (`compress_ratios`, the
prediction layers' zeros at the end) and how many layers route by hash; transformers says both by
name. Both are written, and what is read of either must agree (arXiv 2606.19348, section 2.3).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from student.config import V4Config
from student.errors import WeightsError
from student.released_fields import OPTIONAL, Fields, listed, pairs, refused, whole

LAYER_NAMES = {
    "swa": "sliding_attention",
    "csa": "compressed_sparse_attention",
    "hca": "heavily_compressed_attention",
}
CSA, HCA = LAYER_NAMES["csa"], LAYER_NAMES["hca"]
RELEASED_RATES = {CSA: 4, HCA: 128}
"""What the kinds compress by where the release names them by that alone."""


# Out


def layer_fields(config: V4Config) -> dict[str, Any]:
    """Return the fields that say what each layer is."""
    ratios = [config.compression(kind) for kind in config.layer_types]
    hashed = config.num_hash_layers
    return {
        "num_hidden_layers": config.num_layers,
        "compress_ratios": ratios + [0] * config.num_mtp_layers,
        "compress_rates": {CSA: config.csa_compression, HCA: config.hca_compression},
        "layer_types": [LAYER_NAMES[kind] for kind in config.layer_types],
        "num_hash_layers": hashed,
        "mlp_layer_types": ["hash_moe"] * hashed + ["moe"] * (config.num_layers - hashed),
    }


# In


def layers_of(fields: Fields) -> dict[str, Any]:
    """Return what kind each layer of a V4 student is of, in attention and in routing."""
    count = whole(fields, "num_hidden_layers")
    rates = pairs(fields, "compress_rates") or RELEASED_RATES
    if set(rates) != {CSA, HCA}:
        raise refused(fields, "compress_rates", f"it must name {CSA} and {HCA}")
    rate = {"swa": 0, "csa": whole(rates, CSA), "hca": whole(rates, HCA)}
    kinds = _kinds(fields, rate, count)
    if len(kinds) != count:
        raise refused(fields, "num_hidden_layers", f"{len(kinds)} layers are described")
    ratios = listed(fields, "compress_ratios")
    if ratios is not None and ratios[:count] != [rate[kind] for kind in kinds]:
        raise refused(fields, "compress_ratios", "layer_types and compress_rates say otherwise")
    return {
        "layer_types": tuple(kinds),
        "csa_compression": rate["csa"],
        "hca_compression": rate["hca"],
        "num_hash_layers": _hash_layers(fields, count),
    }


def _kinds(fields: Fields, rate: Mapping[str, int], count: int) -> list[str]:
    """Return the kind of attention of each layer, from its name or else its compression."""
    ratios, names = listed(fields, "compress_ratios"), listed(fields, "layer_types")
    if ratios is not None:
        _check_ratios(fields, ratios, rate, count)
    if names is not None:
        of_name = {theirs: ours for ours, theirs in LAYER_NAMES.items()}
        if any(name not in list(of_name) for name in names):
            raise refused(fields, "layer_types", f"they must be of {', '.join(of_name)}")
        return [of_name[name] for name in names]
    if ratios is None:
        raise WeightsError("config.json: compress_ratios is missing; it names each layer's kind.")
    if rate["csa"] == rate["hca"]:
        rule = "two kinds compress alike, so layer_types must tell them apart"
        raise refused(fields, "compress_rates", rule)
    of_rate = {ratio: kind for kind, ratio in rate.items()}
    return [of_rate[ratio] for ratio in ratios[:count]]


def _check_ratios(
    fields: Fields, ratios: Sequence[Any], rate: Mapping[str, int], count: int
) -> None:
    """See that layers compress by what their kinds do, and prediction layers not at all."""
    ahead = whole({**OPTIONAL, **fields}, "num_nextn_predict_layers")
    if len(ratios) != count + ahead:
        rule = f"{count} layers and {ahead} prediction layers need {count + ahead}"
        raise refused(fields, "compress_ratios", rule)
    for layer, ratio in enumerate(ratios):
        known = [0] if layer >= count else sorted(rate.values())
        if ratio not in known:
            rule = f"it must be {' or '.join(map(str, known))}"
            after = ", for prediction layers have a window only" if layer >= count else ""
            raise WeightsError(
                f"config.json: compress_ratios[{layer}] is {ratio!r}; {rule}{after}."
            )


def _hash_layers(fields: Fields, count: int) -> int:
    """Return how many of the first layers route by token."""
    names = listed(fields, "mlp_layer_types")
    if names is None:
        return whole(fields, "num_hash_layers")
    hashed = names.count("hash_moe")
    if names != ["hash_moe"] * hashed + ["moe"] * (count - hashed):
        rule = f"it must be hash_moe for the first layers and moe for the rest of {count}"
        raise refused(fields, "mlp_layer_types", rule)
    if fields.get("num_hash_layers") not in (None, hashed):
        raise refused(fields, "num_hash_layers", f"mlp_layer_types says {hashed}")
    return hashed
