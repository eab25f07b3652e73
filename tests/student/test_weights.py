"""A saved student is a model anyone's transformers loads; a damaged one is said to be damaged."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from student import weights
from student.config import presets
from student.errors import WeightsError
from student.model import Vocabulary, build
from tests.fakes.teachers import tiny_tokenizer

CPU = torch.device("cpu")
TOKENS = torch.arange(3, 35).reshape(2, 16)


def student(seed: int):
    vocabulary = Vocabulary(size=320, bos=0, eos=1, pad=2)
    return build(presets()["tiny"], vocabulary, seed=seed, device=CPU).eval()


@torch.inference_mode()
def logits(model) -> torch.Tensor:
    return model(input_ids=TOKENS).logits


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tokenizer):
    path = tmp_path_factory.mktemp("weights") / "student"
    weights.save(student(0), tokenizer, path)
    return path


@pytest.fixture
def copy(tmp_path, saved):
    return shutil.copytree(saved, tmp_path / "student")


def test_a_saved_student_comes_back_with_the_same_logits(saved):
    loaded = weights.load(saved, device=CPU)
    assert not loaded.training
    assert torch.equal(logits(loaded), logits(student(0)))


def test_plain_transformers_loads_it_and_writes_text(saved):
    model = AutoModelForCausalLM.from_pretrained(saved, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(saved, local_files_only=True)
    assert type(model).__name__ == "DeepseekV3ForCausalLM"
    assert torch.equal(logits(model.eval()), logits(student(0)))
    asked = tokenizer("The miller weighs", return_tensors="pt", add_special_tokens=False)
    ids = asked["input_ids"]
    mask = asked["attention_mask"]
    out = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=8)
    assert out.shape[0] == 1
    assert ids.shape[1] < out.shape[1] <= ids.shape[1] + 8
    assert tokenizer.decode(out[0]).startswith("The miller weighs")


def test_the_routing_bias_is_saved_with_the_student(tmp_path, tokenizer):
    model = student(0)
    name = next(n for n, _ in model.named_buffers() if n.endswith("e_score_correction_bias"))
    model.get_buffer(name).copy_(torch.tensor([0.5, -0.5, 0.25, 0.0]))
    weights.save(model, tokenizer, tmp_path / "student")
    loaded = weights.load(tmp_path / "student", device=CPU)
    assert torch.equal(loaded.get_buffer(name), model.get_buffer(name))


def test_it_is_loaded_in_the_dtype_that_was_asked_for(saved):
    loaded = weights.load(saved, device=CPU, dtype=torch.bfloat16)
    assert loaded.lm_head.weight.dtype == torch.bfloat16


def test_a_second_save_replaces_the_first_whole(copy, tokenizer):
    (copy / "left_over.txt").write_text("of the first save")
    weights.save(student(1), tokenizer, copy)
    assert not (copy / "left_over.txt").exists()
    assert torch.equal(logits(weights.load(copy, device=CPU)), logits(student(1)))


def refuse_to_write(*args: object, **settings: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_failed_save_keeps_the_old_student(copy, tokenizer, monkeypatch):
    model = student(1)
    monkeypatch.setattr(model, "save_pretrained", refuse_to_write)
    with pytest.raises(WeightsError, match="No space left on device; free space"):
        weights.save(model, tokenizer, copy)
    assert torch.equal(logits(weights.load(copy, device=CPU)), logits(student(0)))
    assert [entry.name for entry in copy.parent.iterdir()] == [copy.name]


def test_a_disk_that_fills_while_tensors_are_written_is_an_error_of_ours(copy, tokenizer):
    # The library that writes the tensors reports a full disk by an error of its own kind.
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(WeightsError, match="cannot write the model to"):
            weights.save(student(1), tokenizer, copy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.equal(logits(weights.load(copy, device=CPU)), logits(student(0)))
    assert [entry.name for entry in copy.parent.iterdir()] == [copy.name]


def test_a_directory_that_is_not_there_is_named_in_one_sentence(tmp_path):
    for load in (weights.load_tokenizer, lambda path: weights.load(path, device=CPU)):
        with pytest.raises(WeightsError) as caught:
            load(tmp_path / "absent")
        message = str(caught.value)
        assert message == f"{tmp_path / 'absent'} is not a model directory: it has no config.json."


def cut_weights(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def spoil_config(path):
    (path / "config.json").write_text('{"model_type": ')


def drop_a_tensor(path):
    tensors = load_file(path / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def reshape_a_tensor(path):
    tensors = load_file(path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1].contiguous()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("damage", [cut_weights, spoil_config, drop_a_tensor, reshape_a_tensor])
def test_a_damaged_student_is_refused_in_one_sentence(copy, damage):
    damage(copy)
    with pytest.raises(WeightsError) as caught:
        weights.load(copy, device=CPU)
    message = str(caught.value)
    assert message.startswith(f"cannot load the model in {copy}: ")
    assert "\n" not in message


def test_a_damaged_tokenizer_is_refused_in_one_sentence(copy):
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(WeightsError) as caught:
        weights.load_tokenizer(copy)
    message = str(caught.value)
    assert message.startswith(f"cannot load the tokenizer in {copy}: ")
    assert "\n" not in message
