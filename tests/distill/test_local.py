"""A teacher on disk is any causal model transformers loads whole; else one sentence says why."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DeepseekV3ForCausalLM, LlamaForCausalLM

from distill.errors import TeacherError
from distill.teachers.local import LocalTeacher, load_model
from student.errors import WeightsError

CPU = torch.device("cpu")
TOKENS = torch.arange(3, 35).reshape(2, 16)
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def teacher(kind=LlamaForCausalLM, **sizes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(kind.config_class(**SIZES, **sizes)).eval()


@torch.inference_mode()
def logits(model) -> torch.Tensor:
    return model(input_ids=TOKENS).logits


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("teachers") / "llama"
    teacher().save_pretrained(path)
    return path


@pytest.fixture
def copy(tmp_path, saved):
    return shutil.copytree(saved, tmp_path / "teacher")


def test_a_teacher_of_any_architecture_comes_back_with_the_same_logits(saved):
    loaded = load_model(saved, device=CPU)
    assert not loaded.training
    assert torch.equal(logits(loaded), logits(teacher()))


def test_it_is_loaded_in_the_dtype_that_was_asked_for(saved):
    assert load_model(saved, device=CPU, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(("grouped", "expected"), [(True, "grouped_mm"), (False, "eager")])
def test_experts_run_one_by_one_where_a_device_has_no_grouped_product(
    tmp_path, monkeypatch, grouped, expected
):
    sizes = {"moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2}
    groups = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
    teacher(DeepseekV3ForCausalLM, **sizes, **groups).save_pretrained(tmp_path / "moe")
    monkeypatch.setattr("student.device.has_grouped_experts", lambda device: grouped)
    model = load_model(tmp_path / "moe", device=CPU)
    assert model.config._experts_implementation == expected


def drop_a_tensor(path):
    tensors = load_file(path / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def reshape_a_tensor(path):
    tensors = load_file(path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1].contiguous()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def cut_weights(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def spoil_config(path):
    (path / "config.json").write_text('{"model_type": ')


@pytest.mark.parametrize("damage", [cut_weights, spoil_config, drop_a_tensor, reshape_a_tensor])
def test_a_damaged_teacher_is_refused_in_one_sentence(copy, damage):
    damage(copy)
    with pytest.raises(WeightsError) as caught:
        load_model(copy, device=CPU)
    message = str(caught.value)
    assert message.startswith(f"cannot load the model in {copy}: ")
    assert "\n" not in message


def test_a_missing_tensor_is_named(copy):
    drop_a_tensor(copy)
    with pytest.raises(WeightsError, match=r"hold no lm_head\.weight \(1 of its tensors are miss"):
        load_model(copy, device=CPU)


def test_a_directory_that_is_not_there_is_named_as_the_teachers(tmp_path):
    path = tmp_path / "absent"
    with pytest.raises(WeightsError) as caught:
        load_model(path, device=CPU)
    assert str(caught.value) == f"{path} is not a model directory: it has no config.json."
    with pytest.raises(TeacherError, match=r"teacher 'mine': .*it has no config\.json"):
        LocalTeacher("mine", path, device=CPU, dtype=torch.float32)
