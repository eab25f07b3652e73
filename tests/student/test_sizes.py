"""The arithmetic of a student's size agrees with what is published and with what is built."""

from dataclasses import replace
from statistics import mean

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from student.catalogue import presets
from student.config import MLAConfig, V4Config
from student.errors import ConfigError
from student.model import Student, Vocabulary
from student.sizes import (
    count_parameters,
    forward_flops_per_token,
    kv_cache_bytes,
    kv_cache_bytes_per_token,
    training_flops_per_token,
)

VOCABULARY = 129_280
MILLION = 2**20
GIB = 2**30
V3, FLASH, PRO = (presets()[name] for name in ("v3", "flash", "pro"))
TINY, V4_TINY = presets()["tiny"], presets()["v4-tiny"]
ALONE = {"num_mtp_layers": 0}

MLA_CHANGES = [
    {},
    {"tie_word_embeddings": True},
    {"num_dense_layers": 0},
    {"num_dense_layers": 2},
    {"num_shared_experts": 3},
    {"q_lora_rank": None},
    {"num_mtp_layers": 1},
    {"num_mtp_layers": 2, "q_lora_rank": None},
    {"attention_bias": True},
    {"attention_bias": True, "q_lora_rank": None, "num_mtp_layers": 1},
]
V4_CHANGES = [
    {},
    {"tie_word_embeddings": True},
    {"num_mtp_layers": 0},
    {"num_mtp_layers": 2},
    {"layer_types": ("swa",)},
    {"layer_types": ("csa",), "num_hash_layers": 0},
    {"layer_types": ("hca", "hca"), "num_hash_layers": 2},
    {"hc_streams": 2},
    {"o_groups": 4, "o_lora_rank": 3},
    {"csa_compression": 3, "hca_compression": 5},
    {"index_num_heads": 3, "index_head_dim": 10},
]
VARIANTS = [
    pytest.param(config, change, id=f"{config.family}-{change}")
    for config, changes in ((TINY, MLA_CHANGES), (V4_TINY, V4_CHANGES))
    for change in changes
]


def model_of(config: MLAConfig | V4Config, vocab: int = 50) -> nn.Module:
    vocabulary = Vocabulary(size=vocab, bos=0, eos=1, pad=2)
    return Student.build(config, vocabulary, seed=0, device=torch.device("cpu"))


def numel(model: nn.Module, prefix: str = "", without: str = "\0") -> int:
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if name.startswith(prefix) and not name.startswith(without)
    )


@pytest.mark.parametrize(("config", "change"), VARIANTS)
def test_the_count_is_that_of_the_built_model_trunk_and_prediction_layers_apart(config, change):
    config = replace(config, **change)
    model = model_of(config)
    counted = count_parameters(config, 50)
    assert counted.total == numel(model, without="mtp.")
    assert counted.mtp == numel(model, "mtp.")


@pytest.mark.parametrize(("config", "change"), VARIANTS)
def test_at_rest_are_the_experts_not_chosen_and_the_other_rows_of_the_embedding(config, change):
    config = replace(config, **change)
    counted, model = count_parameters(config, 50), model_of(config)
    stacks = [
        parameter.numel() // config.num_routed_experts
        for name, parameter in model.named_parameters()
        if ".experts." in name and name.startswith("layers.")
    ]
    idle = sum(stacks) * (config.num_routed_experts - config.num_experts_per_token)
    unread = 0 if config.tie_word_embeddings else 49 * config.hidden_size
    assert counted.total - counted.active == idle + unread


@pytest.mark.parametrize(("config", "change"), VARIANTS)
def test_the_operations_of_weights_are_those_torch_counts_in_the_built_model(config, change):
    """Each matrix of the trunk takes one token; torch counts what that costs."""
    config = replace(config, **change)
    counted = dict.fromkeys(("projections", "indexer", "experts", "router", "streams", "head"), 0)
    for name, parameter in model_of(config).named_parameters():
        part = part_of(name)
        if part is None or parameter.ndim < 2:
            continue
        # The experts a token has; of o_a each row reads its own group's heads, as stored.
        stacked = ".experts." in name
        works = parameter[: config.num_experts_per_token].flatten(0, 1) if stacked else parameter
        with FlopCounterMode(display=False) as counter:
            torch.mm(works, torch.ones(works.shape[1], 1))
        counted[part] += counter.get_total_flops()
    if config.tie_word_embeddings:
        counted["head"] = 2 * 50 * config.hidden_size
    flops = forward_flops_per_token(config, 50, context=0)
    assert flops.attention == 0
    mixed = mixing(config)
    assert flops._asdict() | {"streams": flops.streams - mixed} == counted | {"attention": 0}


def part_of(name: str) -> str | None:
    """Return which part of the operations a parameter's product belongs to."""
    ends = {
        "head.weight": "head",
        "router.weight": "router",
        "hc.fn": "streams",
        "stream_head.fn": "streams",
    }
    if name.startswith("mtp.") or name == "embed.weight" or name.endswith("position_bias"):
        return None
    for end, part in ends.items():
        if name.endswith(end):
            return part
    if ".indexer." in name:
        return "indexer"
    return "projections" if ".attn." in name else "experts"


def mixing(config: MLAConfig | V4Config) -> int:
    """Return what reading, carrying over and writing M streams takes, by einsum under torch."""
    if isinstance(config, MLAConfig):
        return 0
    m, d = config.hc_streams, config.hidden_size
    streams_MD, weight_1M, carry_MM = torch.ones(m, d), torch.ones(1, m), torch.ones(m, m)
    with FlopCounterMode(display=False) as counter:
        for _ in range(2 * config.num_layers):
            read_1D = weight_1M @ streams_MD
            carry_MM @ streams_MD
            weight_1M.T @ read_1D
        weight_1M @ streams_MD
    return counter.get_total_flops()


def test_a_student_of_v3_size_has_the_published_parameter_counts():
    counted = count_parameters(V3, VOCABULARY)
    assert counted.total == pytest.approx(671.0e9, rel=1e-3)
    assert counted.active == pytest.approx(36.6e9, rel=1e-3)
    # The released file holds 685 billion, the prediction layer's copies of the tables included.
    tables = 2 * VOCABULARY * V3.hidden_size
    assert counted.total + counted.mtp + tables == pytest.approx(685e9, rel=1e-3)


def test_pro_and_flash_have_the_published_parameter_counts():
    pro, flash = count_parameters(PRO, VOCABULARY), count_parameters(FLASH, VOCABULARY)
    for counted in (pro.total, pro.total + pro.mtp):
        assert counted == pytest.approx(1.6e12, rel=0.03)
    for counted in (flash.total, flash.total + flash.mtp):
        assert counted == pytest.approx(284e9, rel=0.03)
    assert pro.active == pytest.approx(49e9, rel=0.03)
    assert flash.active == pytest.approx(13e9, rel=0.03)


def test_pro_and_flash_agree_with_recounts_of_their_files():
    pro, flash = count_parameters(PRO, VOCABULARY), count_parameters(FLASH, VOCABULARY)
    assert (pro.total + pro.mtp) / 1e9 == pytest.approx(1598.84, abs=0.005)
    assert pro.mtp / 1e9 == pytest.approx(25.84, abs=0.005)
    assert pro.active / 1e9 == pytest.approx(48.86, abs=0.01)
    # What llama.cpp reports of a converted Flash, which has no prediction layer.
    assert flash.total / 1e9 == pytest.approx(284.33, abs=0.005)


def test_the_layers_of_pro_differ_by_the_recounted_attention():
    one = {kind: replace(PRO, layer_types=(kind,), num_hash_layers=0) for kind in ("csa", "hca")}
    csa, hca = (count_parameters(one[kind], VOCABULARY).total for kind in ("csa", "hca"))
    assert (csa - hca) / 1e6 == pytest.approx(331.29 - 307.30, abs=0.01)
    nothing = {"num_routed_experts": 2, "num_experts_per_token": 1, "moe_intermediate_size": 1}
    bare = count_parameters(replace(one["hca"], **nothing), 1).total
    d, m = PRO.hidden_size, PRO.hc_streams
    around = 3 * 3 * d + 2 * d + 2 * d + 3 * d  # experts, router, tables, three norms
    streams = 2 * ((2 + m) * m * (m * d + 1) + 3) + m * m * d + m + 1
    assert (bare - around - streams) / 1e6 == pytest.approx(307.30, abs=0.005)


def test_the_experts_and_streams_of_pro_are_the_recounted_ones():
    more = replace(PRO, num_routed_experts=385)
    expert = count_parameters(more, 1).total - count_parameters(PRO, 1).total
    experts = expert - 61 * PRO.hidden_size  # a row of each router
    assert experts * 384 / 1e9 == pytest.approx(1547.40, abs=0.005)
    assert experts / 1e9 == pytest.approx(4.03, abs=0.005)
    plain = count_parameters(replace(PRO, hc_streams=1), 1).total
    rest = 61 * 2 * (3 * PRO.hidden_size + 3) + PRO.hidden_size
    streams = count_parameters(PRO, 1).total - plain + rest
    assert streams / 1e9 == pytest.approx(0.084, abs=0.0005)


def test_a_student_without_mixture_layers_has_only_the_embedding_at_rest():
    counted = count_parameters(replace(TINY, num_dense_layers=2), 300)
    assert counted.total - counted.active == 299 * TINY.hidden_size


def test_a_student_of_v3_size_caches_70272_bytes_a_token():
    assert kv_cache_bytes_per_token(V3) == 70_272
    assert kv_cache_bytes_per_token(V3, bytes_per_value=4) == 2 * 70_272
    assert kv_cache_bytes(V3, 1000) == (70_272_000, 0)


@pytest.mark.parametrize(
    ("config", "bytes_a_token", "gib"),
    [(PRO, 9848, 9.62), (FLASH, 6880, 6.72)],
    ids=["pro", "flash"],
)
def test_v4_caches_the_published_bytes_of_a_million_tokens(config, bytes_a_token, gib):
    assert kv_cache_bytes_per_token(config) == bytes_a_token
    cache = kv_cache_bytes(config, MILLION)
    assert cache.grows == bytes_a_token * MILLION
    assert cache.grows / GIB == pytest.approx(gib, abs=0.005)
    assert cache.total / GIB == pytest.approx(gib, abs=0.02)


def stored(config: V4Config) -> float:
    """Return the bytes a token adds in the released formats, of which the reports' shares speak.

    An entry is 448 values of a byte, 64 of two, and scales: 584 bytes; the indexer's key to it is
    128 half bytes and scales: 68.
    """
    entries = kv_cache_bytes_per_token(replace(config, index_head_dim=64), 1)  # 64: the least
    keys = config.layer_types.count("csa") / config.csa_compression
    return (entries - 64 * keys) / config.head_dim * 584 + keys * 68


def test_a_million_tokens_take_the_published_share_of_v3_2s_cache():
    v3_2 = 61 * (656 + 132)  # its bytes a token and layer: latent, indexer's key
    ratios = [stored(config) / v3_2 for config in (PRO, FLASH)]
    assert ratios == pytest.approx([0.10, 0.07], abs=0.006)
    # In 16 bits everywhere it is a little more.
    wide = [kv_cache_bytes_per_token(c) / (61 * (576 + 128) * 2) for c in (PRO, FLASH)]
    assert wide == pytest.approx([0.115, 0.080], abs=0.001)


def test_pro_caches_the_published_fiftieth_of_eight_16_bit_heads_of_keys_and_values():
    eight_heads = PRO.num_layers * 8 * 128 * 2 * 2
    assert stored(PRO) / eight_heads == pytest.approx(0.02, abs=0.001)
    # In 16 bits itself it is twice that.
    assert kv_cache_bytes_per_token(PRO) / eight_heads == pytest.approx(0.04, abs=0.001)


def test_a_cache_grows_only_when_an_entry_is_whole():
    config = replace(V4_TINY, layer_types=("csa",), num_hash_layers=0)
    entry = (config.head_dim + config.index_head_dim) * 2
    assert [kv_cache_bytes(config, n).grows for n in (3, 4, 7, 8)] == [0, entry, entry, 2 * entry]
    assert len({kv_cache_bytes(config, n).constant for n in (0, 3, 1000)}) == 1


def test_bytes_a_token_are_broken_where_entries_do_not_divide_evenly():
    config = replace(V4_TINY, layer_types=("hca",), head_dim=10, hca_compression=16)
    assert kv_cache_bytes_per_token(config) == 1.25
    assert isinstance(kv_cache_bytes_per_token(config, 8), int)


def test_what_does_not_grow_is_windows_and_the_tokens_that_wait():
    window = 4 * 16 * 16
    csa = 2 * (2 * 4) * 2 * (2 * 16 + 2 * 8)  # two layers: 8 tokens, key and gate, both widths
    hca = 16 * 2 * 16
    assert kv_cache_bytes(V4_TINY, 0) == (0, 2 * (window + csa + hca))


def flops_of_v3_2(context: int) -> float:
    """Return a token's operations by hand: V3 that attends, in the latent space, to 2048 tokens.

    All of the context is scored by 64 heads of 128 values in each layer (DeepSeek-V3.2 report,
    arXiv 2512.02556, section 2).
    """
    weights = forward_flops_per_token(V3, VOCABULARY, context=0).total
    attention = 61 * 2 * 128 * (576 + 512) * min(context, 2048)
    scoring = 61 * 2 * 64 * 128 * context
    projections = 61 * 2 * (1536 * 64 * 128 + 7168 * (128 + 64))
    return weights + attention + scoring + projections


def test_a_million_tokens_take_about_the_published_share_of_v3_2s_operations():
    """27 % and 10 % in the report, which weighs operations by their precision; here all are one."""
    v3_2 = flops_of_v3_2(MILLION)
    ours = [forward_flops_per_token(c, VOCABULARY, MILLION).total / v3_2 for c in (PRO, FLASH)]
    assert ours == pytest.approx([0.262, 0.121], abs=0.001)


def test_operations_are_twice_the_active_weights_where_there_is_no_context():
    for config in (V3, PRO, FLASH):
        flops = forward_flops_per_token(config, VOCABULARY, context=0).total
        assert flops == pytest.approx(2 * count_parameters(config, VOCABULARY).active, rel=2e-3)


def test_attention_in_mla_costs_a_key_and_a_value_a_head_and_token():
    flops = forward_flops_per_token(TINY, 300, context=10)
    assert flops.attention == 2 * 2 * (8 + 8 + 16) * 10 * 2
    assert (flops.indexer, flops.streams) == (0, 0)


@pytest.mark.parametrize(
    ("kind", "context", "attended", "scored"),
    [
        ("swa", 5, 5, 0),
        ("swa", 100, 16, 0),
        ("csa", 3, 3, 0),
        ("csa", 11, 11 + 2, 2),
        ("csa", 100, 16 + 4, 25),
        ("hca", 15, 15, 0),
        ("hca", 100, 16 + 6, 0),
    ],
)
def test_attention_in_v4_costs_the_window_and_the_entries_it_reads(kind, context, attended, scored):
    config = replace(V4_TINY, layer_types=(kind,))
    at, zero = (forward_flops_per_token(config, 300, context=c) for c in (context, 0))
    heads, width = config.num_heads, config.head_dim
    assert at.attention == 2 * 2 * heads * width * attended
    assert at.indexer - zero.indexer == 2 * 2 * (8 + 1) * scored
    assert at.total - zero.total == at.attention + at.indexer - zero.indexer


@pytest.mark.parametrize("config", [TINY, V4_TINY, PRO], ids=["tiny", "v4-tiny", "pro"])
@pytest.mark.parametrize("tokens", [1, 3, 16, 61])
def test_training_costs_three_times_forward_on_average_over_a_sequence(config, tokens):
    config = replace(config, **ALONE)
    forward = [forward_flops_per_token(config, 97, n + 1).total for n in range(tokens)]
    trained = training_flops_per_token(config, 97, tokens)
    assert trained == pytest.approx(3 * mean(forward), rel=1e-12)


@pytest.mark.parametrize("config", [TINY, V4_TINY], ids=["tiny", "v4-tiny"])
def test_a_prediction_layer_trains_as_a_layer_its_projections_and_another_head(config):
    alone = replace(config, **ALONE)
    d = config.hidden_size
    if isinstance(config, MLAConfig):
        deeper = replace(alone, num_layers=alone.num_layers + 1)
        projected, merged = 2 * d * d, 0
    else:
        deeper, m = replace(alone, layer_types=(*alone.layer_types, "swa")), config.hc_streams
        projected, merged = (m + 1) * d * d, m * m * d + m * d
    trunk = training_flops_per_token(alone, 97, 40)
    layer = training_flops_per_token(deeper, 97, 40) - trunk
    rest = 3 * 2 * (projected + merged + 97 * d)
    for count in (1, 2):
        more = training_flops_per_token(replace(config, num_mtp_layers=count), 97, 40)
        assert more == pytest.approx(trunk + count * (layer + rest), rel=1e-12)


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (lambda c: count_parameters(c, 0), "vocab_size is 0; it must be at least 1"),
        (lambda c: count_parameters(c, -5), "vocab_size is -5; it must be at least 1"),
        (lambda c: count_parameters(c, 9.0), r"vocab_size is 9\.0; it must be a whole number"),
        (lambda c: kv_cache_bytes_per_token(c, 0), "bytes_per_value is 0; it must be at least 1"),
        (lambda c: kv_cache_bytes(c, -1), "context_tokens is -1; it must be at least 0"),
        (lambda c: kv_cache_bytes(c, 1, 0), "bytes_per_value is 0; it must be at least 1"),
        (lambda c: forward_flops_per_token(c, 0, 1), "vocab_size is 0; it must be at least 1"),
        (lambda c: forward_flops_per_token(c, 9, -1), "context is -1; it must be at least 0"),
        (lambda c: training_flops_per_token(c, -1, 1), "vocab_size is -1; it must be at least 1"),
        (lambda c: training_flops_per_token(c, 9, 0), "sequence_tokens is 0; it must be at le"),
    ],
)
@pytest.mark.parametrize("config", [TINY, V4_TINY], ids=["mla", "v4"])
def test_numbers_of_tokens_or_bytes_that_cannot_be_are_refused_by_name(config, count, message):
    with pytest.raises(ConfigError, match=message):
        count(config)
