"""An impossible student is refused, by field and rule, however it is described."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest
from pydantic import TypeAdapter, ValidationError

from student.config import MLAConfig, StudentConfig, V4Config, Yarn
from student.errors import ConfigError

FAMILIES = {"mla": MLAConfig, "v4": V4Config}
ADAPTER = TypeAdapter(StudentConfig)


def refused(make, *said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    message = str(caught.value)
    assert [word for word in said if word not in message] == []
    assert caught.value.exit_code == 2


def numbers(family: str, kind: type) -> list[str]:
    """Return the fields whose default is a number of this kind; none of them may be negative."""
    config = FAMILIES[family]()
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return [name for name, value in values.items() if type(value) is kind]


ALL_INT = [(family, name) for family in FAMILIES for name in numbers(family, int)]
ALL_FLOAT = [(family, name) for family in FAMILIES for name in numbers(family, float)]


def test_every_field_of_a_number_is_seen():
    assert len(ALL_INT) > 30
    assert len(ALL_FLOAT) > 10


@pytest.mark.parametrize(("family", "name"), ALL_INT)
@pytest.mark.parametrize("value", [1.5, 2.0, True, "2", None, (2,)], ids=repr)
def test_a_count_is_a_whole_number(family, name, value):
    if value is None and name == "q_lora_rank" and family == "mla":
        assert MLAConfig(q_lora_rank=None).q_lora_rank is None
        return
    refused(lambda: FAMILIES[family](**{name: value}), name, repr(value), "whole number")


@pytest.mark.parametrize(("family", "name"), ALL_INT)
def test_a_count_is_not_negative(family, name):
    refused(lambda: FAMILIES[family](**{name: -1}), f"{name} is -1; it must be ")


@pytest.mark.parametrize(("family", "name"), ALL_FLOAT)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", True, None], ids=repr)
def test_a_measure_is_a_finite_number(family, name, value):
    refused(lambda: FAMILIES[family](**{name: value}), name, repr(value), "finite number")


@pytest.mark.parametrize(("family", "name"), ALL_FLOAT)
def test_a_measure_is_not_negative_and_may_be_written_as_a_whole_number(family, name):
    refused(lambda: FAMILIES[family](**{name: -0.5}), f"{name} is -0.5; it must be ")
    assert getattr(FAMILIES[family](**{name: 2}), name) == 2


@pytest.mark.parametrize(("family", "name"), [*ALL_INT, *ALL_FLOAT])
def test_a_number_beyond_what_a_machine_counts_is_refused(family, name):
    refused(lambda: FAMILIES[family](**{name: 10**400}), f"{name} is too large", "at most")


@pytest.mark.parametrize(
    ("family", "name", "rule"),
    [
        ("mla", "hidden_size", "above 0"),
        ("mla", "q_lora_rank", "above 0"),
        ("mla", "num_shared_experts", "above 0"),
        ("mla", "rope_theta", "above 1"),
        ("mla", "num_routed_experts", "at least 2"),
        ("v4", "index_top_k", "above 0"),
        ("v4", "sliding_window", "above 0"),
        ("v4", "csa_compression", "at least 2"),
        ("v4", "hca_compression", "at least 2"),
        ("v4", "compress_rope_theta", "above 1"),
        ("v4", "swiglu_limit", "above 0"),
        ("v4", "num_routed_experts", "at least 2"),
    ],
)
def test_what_zero_would_make_senseless_is_not_zero(family, name, rule):
    refused(lambda: FAMILIES[family](**{name: 0}), f"{name} is 0; it must be {rule}")


@pytest.mark.parametrize(
    ("family", "name", "rule"),
    [
        ("mla", "rope_theta", "above 1"),
        ("v4", "rope_theta", "above 1"),
        ("v4", "compress_rope_theta", "above 1"),
        ("v4", "csa_compression", "at least 2"),
        ("v4", "hca_compression", "at least 2"),
    ],
)
def test_what_one_would_make_senseless_is_not_one(family, name, rule):
    refused(lambda: FAMILIES[family](**{name: 1}), f"{name} is 1; it must be {rule}")


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("mla", {"num_dense_layers": 0, "num_mtp_layers": 0}),
        ("mla", {"num_dense_layers": 4}),
        ("mla", {"num_experts_per_token": 8}),
        ("mla", {"num_expert_groups": 4, "num_groups_per_token": 1}),
        ("v4", {"num_hash_layers": 4, "num_mtp_layers": 0, "hc_initial_gate": 0.0}),
        ("v4", {"num_hash_layers": 0, "qk_rope_head_dim": 32, "head_dim": 32}),
        ("v4", {"layer_types": ("hca",), "num_hash_layers": 1, "index_head_dim": 1}),
        ("v4", {"sliding_window": 2048, "o_groups": 4}),
        ("v4", {"csa_compression": 2048, "hca_compression": 2}),
        ("v4", {"csa_compression": 2, "hca_compression": 2048}),
        ("v4", {"layer_types": ("swa", "csa"), "hca_compression": 2049}),
        ("v4", {"layer_types": ("swa", "hca"), "csa_compression": 2049}),
        ("mla", {"yarn": Yarn(factor=1, mscale_all_dim=1.0), "rope_theta": 1.5}),
    ],
)
def test_what_just_meets_a_rule_is_accepted(family, change):
    config = FAMILIES[family](**change)
    assert {name: getattr(config, name) for name in change} == change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"qk_rope_head_dim": 7}, ("qk_rope_head_dim is 7", "even")),
        ({"rope_frequencies": (1.0,)}, ("rope_frequencies has 1 numbers", "has 16 pairs")),
        ({"rope_frequencies": (0.0,) * 16}, ("rope_frequencies is 0.0", "above 0")),
        (
            {"rope_frequencies": (1.0,) * 16, "yarn": Yarn()},
            ("rope_frequencies and yarn are both set",),
        ),
        (
            {"num_experts_per_token": 9},
            ("num_experts_per_token is 9", "num_routed_experts (8)"),
        ),
        ({"num_dense_layers": 5}, ("num_dense_layers is 5", "num_layers (4)")),
        (
            {"num_expert_groups": 3},
            ("num_routed_experts is 8", "divide evenly into num_expert_groups (3)"),
        ),
        (
            {"num_expert_groups": 2, "num_groups_per_token": 3},
            ("num_groups_per_token is 3", "num_expert_groups (2)"),
        ),
        (
            {"num_expert_groups": 8, "num_groups_per_token": 8},
            ("num_expert_groups is 8", "at least 2 of the 8"),
        ),
        (
            {"num_expert_groups": 4, "num_groups_per_token": 1, "num_experts_per_token": 3},
            ("num_experts_per_token is 3", "num_groups_per_token (1)", "only 2 experts"),
        ),
        ({"family": "v4"}, ("family is 'v4'", "mla")),
        ({"tie_word_embeddings": "no"}, ("tie_word_embeddings is 'no'", "bool")),
        ({"tie_word_embeddings": None}, ("tie_word_embeddings is None", "bool")),
        ({"yarn": 16}, ("yarn is 16", "Yarn")),
    ],
    ids=str,
)
def test_an_mla_student_that_cannot_be_built_is_refused_by_field_and_rule(change, said):
    refused(lambda: MLAConfig(**change), *said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"qk_rope_head_dim": 7}, ("qk_rope_head_dim is 7", "even")),
        (
            {"num_experts_per_token": 9},
            ("num_experts_per_token is 9", "num_routed_experts (8)"),
        ),
        ({"layer_types": ()}, ("layer_types is empty",)),
        ({"layer_types": ("swa", "mla")}, ("layer_types[1] is 'mla'", "swa, csa, hca")),
        ({"layer_types": ["swa"]}, ("layer_types is ['swa']", "tuple")),
        ({"layer_types": "swa"}, ("layer_types is 'swa'", "tuple")),
        ({"layer_types": None}, ("layer_types is None", "tuple")),
        (
            {"qk_rope_head_dim": 66, "index_head_dim": 66},
            ("qk_rope_head_dim is 66", "head_dim (64)"),
        ),
        (
            {"qk_rope_head_dim": 34},
            ("index_head_dim is 32", "qk_rope_head_dim (34)"),
        ),
        ({"o_groups": 3}, ("num_heads is 4", "o_groups (3)")),
        (
            {"sliding_window": 2049},
            ("sliding_window is 2049", "max_position_embeddings (2048)"),
        ),
        (
            {"csa_compression": 2049},
            ("csa_compression is 2049", "max_position_embeddings (2048)"),
        ),
        (
            {"hca_compression": 2049},
            ("hca_compression is 2049", "max_position_embeddings (2048)"),
        ),
        ({"num_hash_layers": 5}, ("num_hash_layers is 5", "4 layers")),
        ({"yarn": Yarn(mscale_all_dim=0.5)}, ("yarn.mscale_all_dim is 0.5", "must be 0")),
        ({"family": "mla"}, ("family is 'mla'", "v4")),
        ({"tie_word_embeddings": 1}, ("tie_word_embeddings is 1", "bool")),
        ({"yarn": {"factor": 2.0}}, ("yarn is {'factor': 2.0}", "Yarn")),
        ({"rope_frequencies": (1.0,)}, ("rope_frequencies has 1 numbers", "has 8 pairs")),
        ({"rope_frequencies": (0.0,) * 8}, ("rope_frequencies is 0.0", "above 0")),
        (
            {"rope_frequencies": (1.0,) * 8, "yarn": Yarn()},
            ("rope_frequencies and yarn are both set",),
        ),
    ],
    ids=str,
)
def test_a_v4_student_that_cannot_be_built_is_refused_by_field_and_rule(change, said):
    refused(lambda: V4Config(**change), *said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"factor": 0.5}, ("factor is 0.5", "at least 1")),
        ({"original_positions": 4096.0}, ("original_positions is 4096.0", "whole number")),
        ({"mscale_all_dim": -1.0}, ("mscale_all_dim is -1.0", "at least 0")),
        ({"beta_fast": 1.0}, ("beta_fast is 1.0", "above beta_slow (1.0)")),
        ({"beta_slow": 33}, ("beta_fast is 32.0", "above beta_slow (33)")),
    ],
    ids=str,
)
def test_a_stretching_that_cannot_be_is_refused_by_field_and_rule(change, said):
    refused(lambda: Yarn(**change), *said)


def test_a_rule_holds_for_a_changed_copy_too_and_a_config_cannot_be_changed_in_place():
    refused(lambda: replace(V4Config(), o_groups=3), "o_groups (3)")
    with pytest.raises(FrozenInstanceError):
        MLAConfig().hidden_size = 1  # type: ignore[misc]


def test_a_config_is_hashable_and_equal_to_its_like():
    assert len({MLAConfig(), MLAConfig(), V4Config(), V4Config(yarn=Yarn())}) == 3


def test_the_layers_of_v4_have_the_compression_of_their_kind():
    config = V4Config(csa_compression=3, hca_compression=50)
    assert [config.compression(kind) for kind in config.layer_types] == [0, 3, 50, 3]
    assert config.num_layers == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mapping_becomes_the_family_it_names(family):
    config = ADAPTER.validate_python({"family": family, "hidden_size": 64, "yarn": {"factor": 4}})
    assert config == FAMILIES[family](hidden_size=64, yarn=Yarn(factor=4.0))
    assert type(config) is FAMILIES[family]


def test_a_mapping_that_names_no_family_is_mla():
    assert ADAPTER.validate_python({}) == MLAConfig()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_survives_a_round_trip_through_json(family):
    config = FAMILIES[family](yarn=Yarn(factor=4.0), num_mtp_layers=2)
    assert ADAPTER.validate_json(ADAPTER.dump_json(config)) == config
    assert ADAPTER.validate_python(config) is config


def test_a_list_of_layers_becomes_a_tuple():
    config = ADAPTER.validate_python({"family": "v4", "layer_types": ["hca"], "num_hash_layers": 0})
    assert config.layer_types == ("hca",)


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({"width": 3}, "width"),
        ({"family": "mla", "head_dim": 3}, "head_dim"),
        ({"family": "v4", "kv_lora_rank": 3}, "kv_lora_rank"),
        ({"family": "v4", "yarn": {"beta": 3}}, "yarn.beta"),
        ({"family": "gpt"}, "family must be mla or v4"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": 4.5}, "hidden_size"),
        ({"hidden_size": None}, "hidden_size"),
        ({"rope_theta": float("nan")}, "rope_theta"),
        ({"tie_word_embeddings": 3}, "tie_word_embeddings"),
        ({"family": "v4", "layer_types": ["swa", "mha"]}, "layer_types.1"),
        ({"family": "v5", "init": "teacher"}, "family must be mla or v4"),
        (3, "dictionary"),
        ("mla", "dictionary"),
        ([], "dictionary"),
        (None, "dictionary"),
    ],
    ids=str,
)
def test_a_description_that_does_not_fit_its_family_is_refused_by_key(described, said):
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python(described)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({"num_dense_layers": 5}, "num_layers (4)"),
        ({"family": "v4", "layer_types": []}, "layer_types is empty"),
        ({"family": "v4", "yarn": {"beta_slow": 64}}, "above beta_slow"),
        ({"family": "v4", "yarn": {"mscale_all_dim": 1.0}}, "yarn.mscale_all_dim is 1.0"),
        ({"rope_theta": float("inf")}, "finite"),
    ],
    ids=str,
)
def test_the_rules_between_fields_hold_for_descriptions(described, said):
    refused(lambda: ADAPTER.validate_python(described), said)
