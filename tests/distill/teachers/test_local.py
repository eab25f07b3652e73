"""A teacher on disk is any causal model transformers loads whole; else one sentence says why."""

import shutil
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BloomForCausalLM,
    CohereForCausalLM,
    DeepseekV3ForCausalLM,
    Gemma2ForCausalLM,
    GPT2LMHeadModel,
    GraniteForCausalLM,
    LlamaForCausalLM,
    PhiForCausalLM,
    Qwen3ForCausalLM,
)

from distill.errors import TeacherError
from distill.heads import logits as head_logits
from distill.teachers import local
from distill.teachers.local import LocalTeacher, load_model
from student.errors import WeightsError
from tests.fakes.teachers import tiny_tokenizer

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
    return drawn(kind, **SIZES | sizes)


def drawn(kind, **sizes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(kind.config_class(**sizes)).eval()


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


# The teacher around the model: its head, and documents in one row.

VOCAB = 320
STRONG = {"vocab_size": VOCAB, "initializer_range": 0.3}
CAPPED = {**STRONG, "head_dim": 16, "sliding_window": 4, "final_logit_softcapping": 2.0}
WINDOWS = {
    "head_dim": 16,
    "sliding_window": 4,
    "use_sliding_window": True,
    "max_window_layers": 0,
}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(VOCAB)


@pytest.fixture
def hired(tmp_path, tokenizer):
    """Return a function that saves a model, with biases off 0, and hires it as a teacher."""

    def hire(model, dtype=torch.float32) -> LocalTeacher:
        bias = model.get_output_embeddings().bias
        with torch.no_grad():
            if bias is not None:
                bias.normal_(generator=torch.Generator().manual_seed(1))
        model.save_pretrained(tmp_path / "hired")
        tokenizer.save_pretrained(tmp_path / "hired")
        return LocalTeacher("hired", tmp_path / "hired", device=CPU, dtype=dtype)

    return hire


MODELS = {
    "plain": lambda: teacher(LlamaForCausalLM, **STRONG),
    "bias": lambda: teacher(PhiForCausalLM, **STRONG),
    "cap and tied": lambda: teacher(Gemma2ForCausalLM, **CAPPED),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_turns_states_into_the_models_own_logits(hired, name, dtype):
    one = hired(MODELS[name](), dtype)
    assert (one.head.bias_V is not None) == (name == "bias")
    assert one.head.softcap == (2.0 if name == "cap and tied" else None)
    with torch.inference_mode():
        theirs = one.model(input_ids=TOKENS).logits.float()
    ours = head_logits(one.hidden(TOKENS), one.head)
    near = 1e-5 if dtype == torch.float32 else 0.05 * float(theirs.abs().max())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=near)
    assert (one.vocab_size, one.width) == (VOCAB, 32)


@pytest.mark.parametrize(
    ("kind", "sizes"), [(CohereForCausalLM, {}), (GraniteForCausalLM, {"logits_scaling": 8.0})]
)
def test_a_model_that_scales_its_logits_is_refused(hired, kind, sizes):
    with pytest.raises(TeacherError) as caught:
        hired(teacher(kind, **STRONG, **SPECIAL, **sizes))
    message = str(caught.value)
    assert message.startswith("teacher 'hired': its logits are not its head's product with its ")
    assert message.endswith("models that scale their logits are not supported as teachers.")


def test_a_scale_of_one_is_none(hired):
    assert hired(teacher(GraniteForCausalLM, **STRONG, logits_scaling=1.0)).width == 32


def test_a_model_whose_logits_are_no_numbers_is_refused(hired):
    broken = teacher(LlamaForCausalLM, **STRONG)
    with torch.no_grad():
        broken.lm_head.weight[5] = torch.nan
    with pytest.raises(TeacherError, match="differ by nan"):
        hired(broken)


def test_more_tokens_than_rows_of_the_head_are_refused(hired):
    with pytest.raises(TeacherError, match="its tokenizer has 320 tokens but its head only 319"):
        hired(teacher(**STRONG | {"vocab_size": VOCAB - 1}))


@pytest.mark.parametrize("name", MODELS)
def test_the_head_is_cast_with_the_model(hired, name):
    one = hired(MODELS[name]())
    for dtype in (torch.bfloat16, torch.float32):
        one.cast(dtype)
        held = [one.head.weight_VT, one.head.bias_V]
        assert {part.dtype for part in held if part is not None} == {dtype}
        assert one.head.weight_VT.data_ptr() == one.model.get_output_embeddings().weight.data_ptr()
        assert one.hidden(TOKENS).dtype == dtype
        assert one.head.softcap == (2.0 if name == "cap and tied" else None)


@pytest.mark.parametrize("name", MODELS)
def test_the_head_moves_with_the_model(hired, name):
    one = hired(MODELS[name]())
    same = one.head
    one.move(CPU)
    assert one.head is same
    meta = torch.device("meta")
    one.move(meta)
    assert one.device == meta
    held = [one.head.weight_VT, one.head.bias_V, *one.model.parameters()]
    assert {part.device for part in held if part is not None} == {meta}


def test_a_teacher_is_frozen(hired):
    one = hired(MODELS["bias"]())
    assert not any(parameter.requires_grad for parameter in one.model.parameters())
    assert not one.hidden(TOKENS).requires_grad
    assert not one.model.training


# Documents of one row.


def starts(*places: tuple[int, ...]) -> torch.Tensor:
    start_BS = torch.zeros(len(places), 16, dtype=torch.bool)
    for row, columns in enumerate(places):
        start_BS[row, list(columns)] = True
    return start_BS


APART = {
    **MODELS,
    "windows": lambda: teacher(Qwen3ForCausalLM, **STRONG, **WINDOWS),
    "learned positions": lambda: drawn(
        GPT2LMHeadModel, **STRONG, **SPECIAL, n_embd=32, n_layer=2, n_head=2, n_positions=64
    ),
    "latent and experts": lambda: teacher(
        DeepseekV3ForCausalLM,
        **STRONG,
        moe_intermediate_size=16,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
    ),
}


@pytest.mark.parametrize("name", APART)
def test_documents_of_one_row_are_those_documents_alone(hired, name):
    one = hired(APART[name]())
    start_BS = starts((0, 5, 6), (0, 9))
    found = one.hidden(TOKENS, start_BS)
    for row, cuts in enumerate(((0, 5, 6, 16), (0, 9, 16))):
        for first, last in pairwise(cuts):
            alone = one.hidden(TOKENS[row : row + 1, first:last])[0]
            torch.testing.assert_close(found[row, first:last], alone, rtol=1e-3, atol=1e-3)
    assert (found - one.hidden(TOKENS)).abs().max() > 0.1


def test_a_row_of_one_document_is_read_as_it_is_without_starts(hired):
    one = hired(MODELS["plain"]())
    found = one.hidden(TOKENS, starts((0,), (0,)))
    torch.testing.assert_close(found, one.hidden(TOKENS), rtol=1e-5, atol=1e-5)


def test_a_model_that_cannot_keep_documents_apart_is_refused_where_it_has_to(hired):
    one = hired(drawn(BloomForCausalLM, **STRONG, **SPECIAL, hidden_size=32, n_layer=2, n_head=2))
    assert one.hidden(TOKENS).shape == (2, 16, 32)
    with pytest.raises(TeacherError) as caught:
        one.hidden(TOKENS, starts((0, 5), (0,)))
    assert str(caught.value) == (
        "teacher 'hired': its documents cannot be kept apart, for bloom models do not begin anew "
        "at a position; set text.documents: joined."
    )


def test_whether_documents_are_kept_apart_is_asked_once(hired, monkeypatch):
    one, asked = hired(MODELS["plain"]()), []
    plain = LocalTeacher._require_apart
    monkeypatch.setattr(LocalTeacher, "_require_apart", lambda self: (asked.append(1), plain(self)))
    for _ in range(3):
        one.hidden(TOKENS, starts((0, 5), (0,)))
    assert asked == [1]


def test_positions_begin_anew_at_every_start():
    found = local._positions(starts((0, 5, 6), (2,)))
    assert found[0].tolist() == [0, 1, 2, 3, 4, 0, *range(10)]
    assert found[1].tolist() == [0, 1, *range(14)]
