"""Every tensor has the name its release gives it, and every number of a student one place."""

from dataclasses import replace

import pytest
import torch
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    DeepseekV4Config,
    DeepseekV4ForCausalLM,
)

from student.catalogue import presets
from student.config import MLAConfig
from student.errors import WeightsError
from student.model import Student
from student.released_config import config_json
from student.released_names import Place, kept_in_float32, places, view
from student.vocabulary import Vocabulary
from tests.fakes.rivals import as_released

VOCABULARY = Vocabulary(size=97, bos=3, eos=4, pad=5)
V4 = replace(presets()["v4-tiny"], num_mtp_layers=2)
MLA = replace(presets()["tiny"], num_shared_experts=2, num_mtp_layers=2)
EXPERTS = V4.num_routed_experts

# One layer of each kind in the order of V4.layer_types, without the routed experts.
V4_EVERY = {
    "attn_norm.weight", "ffn_norm.weight", "hc_attn_fn", "hc_attn_base", "hc_attn_scale",
    "hc_ffn_fn", "hc_ffn_base", "hc_ffn_scale", "attn.wq_a.weight", "attn.q_norm.weight",
    "attn.wq_b.weight", "attn.wkv.weight", "attn.kv_norm.weight", "attn.wo_a.weight",
    "attn.wo_b.weight", "attn.attn_sink", "ffn.gate.weight", "ffn.shared_experts.w1.weight",
    "ffn.shared_experts.w2.weight", "ffn.shared_experts.w3.weight",
}  # fmt: skip
V4_ENTRIES = {
    "attn.compressor.wkv.weight", "attn.compressor.wgate.weight", "attn.compressor.ape",
    "attn.compressor.norm.weight",
}  # fmt: skip
V4_INDEXER = {
    "attn.indexer.wq_b.weight", "attn.indexer.weights_proj.weight",
    "attn.indexer.compressor.wkv.weight", "attn.indexer.compressor.wgate.weight",
    "attn.indexer.compressor.ape", "attn.indexer.compressor.norm.weight",
}  # fmt: skip
V4_HEAD = {"hc_head_fn", "hc_head_base", "hc_head_scale"}
V4_AHEAD = V4_HEAD | {
    "enorm.weight", "hnorm.weight", "norm.weight", "e_proj.weight", "h_proj.weight",
}  # fmt: skip
MLA_EVERY = {
    "input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.q_a_proj.weight",
    "self_attn.q_a_layernorm.weight", "self_attn.q_b_proj.weight",
    "self_attn.kv_a_proj_with_mqa.weight", "self_attn.kv_a_layernorm.weight",
    "self_attn.kv_b_proj.weight", "self_attn.o_proj.weight",
}  # fmt: skip
MLA_DENSE = {"mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"}
MLA_MIXTURE = {
    "mlp.gate.weight", "mlp.gate.e_score_correction_bias", "mlp.shared_experts.gate_proj.weight",
    "mlp.shared_experts.up_proj.weight", "mlp.shared_experts.down_proj.weight",
}  # fmt: skip
MLA_AHEAD = {"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight"}


def shapes(config) -> dict[str, torch.Size]:
    with torch.device("meta"):
        student = Student(config, VOCABULARY)
    return {name: tensor.shape for name, tensor in student.state_dict().items()}


def names(config) -> set[str]:
    return set(places(shapes(config), config))


def experts(block: str, count: int, *parts: str) -> set[str]:
    return {f"{block}.experts.{e}.{part}.weight" for e in range(count) for part in parts}


def under(prefix: str, *groups: set[str]) -> set[str]:
    return {prefix + name for group in groups for name in group}


def test_a_v4_student_has_the_released_names_prediction_layers_included():
    routed = experts("ffn", EXPERTS, "w1", "w2", "w3")
    table, bias = {"ffn.gate.tid2eid"}, {"ffn.gate.bias"}
    expected = under("", {"embed.weight", "head.weight", "norm.weight"}, V4_HEAD)
    expected |= under("layers.0.", V4_EVERY, routed, table)
    expected |= under("layers.1.", V4_EVERY, routed, bias, V4_ENTRIES, V4_INDEXER)
    expected |= under("layers.2.", V4_EVERY, routed, bias, V4_ENTRIES)
    expected |= under("layers.3.", V4_EVERY, routed, bias, V4_ENTRIES, V4_INDEXER)
    expected |= under("mtp.0.", V4_EVERY, routed, bias, V4_AHEAD)
    expected |= under("mtp.1.", V4_EVERY, routed, bias, V4_AHEAD)
    assert names(V4) == expected


def test_an_mla_student_has_the_released_names_prediction_layers_after_the_last():
    routed = experts("mlp", MLA.num_routed_experts, "gate_proj", "up_proj", "down_proj")
    expected = {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"}
    expected |= under("model.layers.0.", MLA_EVERY, MLA_DENSE)
    expected |= under("model.layers.1.", MLA_EVERY, MLA_MIXTURE, routed)
    expected |= under("model.layers.2.", MLA_EVERY, MLA_MIXTURE, routed, MLA_AHEAD)
    expected |= under("model.layers.3.", MLA_EVERY, MLA_MIXTURE, routed, MLA_AHEAD)
    assert names(MLA) == expected


def test_queries_that_are_not_compressed_are_one_tensor():
    found = names(replace(MLA, q_lora_rank=None))
    assert "model.layers.0.self_attn.q_proj.weight" in found
    assert not [name for name in found if "q_a" in name or "q_b" in name]


def test_a_tied_student_has_no_head():
    assert "head.weight" not in names(replace(V4, tie_word_embeddings=True))
    assert "lm_head.weight" not in names(replace(MLA, tie_word_embeddings=True))


def test_flash_has_as_many_tensors_as_its_release_without_quantisation_scales():
    # The release has 69,187 tensors, 1,575 of them of the prediction layer. Quantised, and so
    # with a scale each: three matrices of every expert, shared ones too, five of attention, the
    # indexer's queries, the prediction layer's two projections.
    blocks, experts_each, sparse = 44, 257, 21
    scales = blocks * (experts_each * 3 + 5) + sparse + 2
    found = names(presets()["flash"])
    assert len(found) == 69_187 - scales
    ahead = [name for name in found if name.startswith("mtp.0.")]
    assert len(ahead) == 1_575 - (experts_each * 3 + 5) - 2


@pytest.mark.parametrize("config", [V4, MLA], ids=["v4", "mla"])
def test_every_number_of_the_state_lies_at_one_place(config):
    state = {n: torch.zeros(shape, dtype=torch.int64) for n, shape in shapes(config).items()}
    for place in places(shapes(config), config).values():
        view(state[place.name], place).add_(1)
    assert all(bool((tensor == 1).all()) for tensor in state.values())


def test_gates_are_the_first_half_of_an_experts_rows_and_ups_the_second():
    tensor = torch.arange(2 * 6 * 5).reshape(2, 6, 5)
    found = places({"layers.1.ffn.experts.gate_up": tensor.shape}, V4)
    gate, up = "layers.1.ffn.experts.1.w1.weight", "layers.1.ffn.experts.1.w3.weight"
    assert found[gate] == Place("layers.1.ffn.experts.gate_up", 1, 0)
    assert torch.equal(view(tensor, found[gate]), tensor[1, :3])
    assert torch.equal(view(tensor, found[up]), tensor[1, 3:])
    found = places({"layers.1.ffn.experts.gate_up": tensor.shape}, MLA)
    gate = "model.layers.1.mlp.experts.1.gate_proj.weight"
    assert torch.equal(view(tensor, found[gate]), tensor[1, :3])


def test_a_tensor_without_a_released_name_is_an_error():
    with pytest.raises(WeightsError, match=r"layers\.0\.attn\.odd has no name in .* of family v4"):
        places({"layers.0.attn.odd": (1,)}, V4)


def hf_config(config):
    kind = DeepseekV3Config if isinstance(config, MLAConfig) else DeepseekV4Config
    return kind(**config_json(config, VOCABULARY))


def written_by_transformers(model, path) -> set[str]:
    from safetensors import safe_open

    model.save_pretrained(path)
    with safe_open(path / "model.safetensors", framework="pt") as stored:
        return set(stored.keys())


@pytest.mark.parametrize("q_lora_rank", [16, None])
def test_names_are_those_transformers_writes_for_v3(tmp_path, q_lora_rank):
    config = replace(MLA, num_mtp_layers=0, q_lora_rank=q_lora_rank)
    model = DeepseekV3ForCausalLM(hf_config(config))
    assert names(config) == written_by_transformers(model, tmp_path)


def test_names_are_those_transformers_writes_for_v4_once_its_slips_are_undone(tmp_path):
    config = replace(V4, num_mtp_layers=0)
    found = written_by_transformers(DeepseekV4ForCausalLM(hf_config(config)), tmp_path)
    assert {as_released(name) for name in found} == names(config)


def test_float32_is_kept_where_the_release_and_transformers_keep_it():
    kept = [name for name in shapes(V4) if kept_in_float32(name)]
    rows = places({name: shapes(V4)[name] for name in kept}, V4)
    release = ("hc_", "attn_sink", "ape", "ffn.gate.bias")
    for name in names(V4):
        norm = name.endswith("norm.weight")
        assert (name in rows) == (norm or any(part in name for part in release)), name
    assert kept_in_float32("layers.0.ffn.router.bias")
    assert not kept_in_float32("layers.0.ffn.router.weight")
