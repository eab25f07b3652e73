"""A saved student is a released checkpoint: we and transformers read the same model from it.

What is damaged, quantised, missing or too much is said to be so.
"""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DeepseekV3ForCausalLM,
    DeepseekV4ForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.modeling_layers import MtpModel

from student import device as devices
from student import weights
from student.config import MLAConfig, V4Config, Yarn
from student.documents import Documents
from student.errors import WeightsError
from student.model import Student
from student.released_config import config_json
from student.released_names import kept_in_float32, places, view
from student.vocabulary import Vocabulary
from tests.fakes.rivals import as_released

CPU = torch.device("cpu")
VOCABULARY = Vocabulary(size=64, bos=0, eos=1, pad=2)
TOKENS = torch.randint(3, 64, (2, 48), generator=torch.Generator().manual_seed(0))
YARN = Yarn(factor=4.0, original_positions=64)
V4 = V4Config(
    layer_types=("swa", "csa", "hca", "csa"),
    hidden_size=32,
    num_heads=4,
    head_dim=16,
    qk_rope_head_dim=4,
    q_lora_rank=16,
    o_lora_rank=8,
    sliding_window=8,
    hca_compression=8,
    index_num_heads=2,
    index_head_dim=8,
    index_top_k=12,  # every entry: near-ties of a choice are no matter of weights
    num_hash_layers=1,
    num_routed_experts=4,
    moe_intermediate_size=16,
    num_mtp_layers=1,
    max_position_embeddings=256,
)
MLA = MLAConfig(
    hidden_size=32,
    num_layers=3,
    num_heads=4,
    q_lora_rank=16,
    kv_lora_rank=16,
    qk_rope_head_dim=8,
    qk_nope_head_dim=8,
    v_head_dim=12,
    num_dense_layers=1,
    intermediate_size=48,
    num_routed_experts=8,
    num_shared_experts=2,
    moe_intermediate_size=16,
    routed_scaling_factor=2.5,
    num_mtp_layers=2,
    max_position_embeddings=256,
)
STUDENTS = {
    "v4": V4,
    "v4 yarn": replace(V4, yarn=YARN, num_mtp_layers=2, num_hash_layers=4),
    "v4 learned": replace(V4, num_hash_layers=0, num_mtp_layers=0, tie_word_embeddings=True),
    "v4 odd share": replace(V4, head_dim=44, qk_rope_head_dim=30, index_head_dim=32),
    "v4 listed": replace(
        V4, rope_frequencies=tuple(0.5**n for n in range(V4.qk_rope_head_dim // 2))
    ),
    "mla": MLA,
    "mla groups": replace(MLA, num_expert_groups=4, num_groups_per_token=2, num_mtp_layers=0),
    "mla yarn": replace(MLA, yarn=replace(YARN, mscale_all_dim=1.0), num_mtp_layers=1),
    "mla plain": replace(MLA, q_lora_rank=None, yarn=YARN, tie_word_embeddings=True),
    "mla listed": replace(
        MLA, rope_frequencies=(0.5,) * (MLA.qk_rope_head_dim // 2), attention_bias=True
    ),
    "mla dense": replace(MLA, num_dense_layers=3, num_mtp_layers=0),
}


def student(config, seed: int = 0):
    """Return a student none of whose tensors is what a fresh one begins with."""
    made = Student.build(config, VOCABULARY, seed=seed, device=CPU).eval()
    generator = torch.Generator().manual_seed(seed)
    for tensor in made.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.1)
    return made


@torch.no_grad()
def logits(model) -> torch.Tensor:
    made = model(TOKENS.flatten(), Documents.rows(*TOKENS.shape, CPU))
    return model.logits(made.hidden_ND).unflatten(0, TOKENS.shape)


@torch.no_grad()
def their_logits(model) -> torch.Tensor:
    return model.eval()(input_ids=TOKENS).logits


def read_by_transformers(path, dtype=torch.float32):
    """Load with transformers; it must find every tensor and none besides."""
    model, found = AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, local_files_only=True, output_loading_info=True
    )
    assert {name: list(problems) for name, problems in found.items() if problems} == {}
    return model.eval()


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def assert_same_state(found, expected) -> None:
    found, expected = found.state_dict(), expected.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def stored(path) -> dict[str, torch.Tensor]:
    files = sorted(path.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


@pytest.fixture(scope="module")
def tokenizer():
    words = ["<s>", "</s>", "<pad>", *(f"word{n}" for n in range(3, 64))]
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tokenizer):
    path = tmp_path_factory.mktemp("weights")
    for name, config in (("v4", V4), ("mla", MLA), ("single", STUDENTS["mla groups"])):
        weights.save(student(config), tokenizer, path / name)
    return path


@pytest.fixture
def copy(tmp_path, saved):
    return shutil.copytree(saved / "single", tmp_path / "student")


# There and back


@pytest.mark.parametrize("config", STUDENTS.values(), ids=STUDENTS)
def test_a_saved_student_comes_back_to_the_bit(tmp_path, config):
    before = student(config)
    weights.save(before, None, tmp_path / "student")
    after = weights.load(tmp_path / "student", device=CPU)
    assert (after.config, after.vocabulary) == (config, VOCABULARY)
    assert not after.training
    assert all(parameter.requires_grad for parameter in after.parameters())
    assert_same_state(after, before)
    assert torch.equal(logits(after), logits(before))


@pytest.mark.parametrize("config", STUDENTS.values(), ids=STUDENTS)
def test_transformers_reads_it_whole_and_computes_the_same_logits(tmp_path, config):
    before = student(config)
    weights.save(before, None, tmp_path / "student")
    theirs = their_logits(read_by_transformers(tmp_path / "student"))
    assert theirs.std() > 0.1
    assert difference(logits(before), theirs) < 1e-5


def test_loading_leaves_the_callers_random_state_alone(saved):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    weights.load(saved / "v4", device=CPU)
    assert torch.equal(torch.rand(3), expected)


def test_prediction_layers_hash_tables_and_routing_bias_are_in_the_files(saved):
    v4, mla = stored(saved / "v4"), stored(saved / "mla")
    state = student(V4).state_dict()
    assert torch.equal(v4["layers.0.ffn.gate.tid2eid"], state["layers.0.ffn.router.table"])
    assert torch.equal(v4["layers.1.ffn.gate.bias"], state["layers.1.ffn.router.bias"])
    assert v4["layers.1.ffn.gate.bias"].any()
    assert torch.equal(v4["mtp.0.e_proj.weight"], state["mtp.0.e_proj.weight"])
    down = state["mtp.0.block.ffn.experts.down"]
    assert torch.equal(v4["mtp.0.ffn.experts.3.w2.weight"], down[3])
    state = student(MLA).state_dict()
    assert torch.equal(mla["model.layers.4.eh_proj.weight"], state["mtp.1.eh_proj.weight"])


def test_a_v3_checkpoint_repeats_embedding_and_head_under_its_prediction_layers(saved):
    found = stored(saved / "mla")
    for layer in (3, 4):
        embed = found[f"model.layers.{layer}.embed_tokens.weight"]
        assert torch.equal(embed, found["model.embed_tokens.weight"])
        head = found[f"model.layers.{layer}.shared_head.head.weight"]
        assert torch.equal(head, found["lm_head.weight"])


@pytest.mark.parametrize("layers", [3, 61])
def test_transformers_prediction_model_computes_our_prediction_layers(tmp_path, layers):
    config = replace(MLA, num_layers=layers, num_dense_layers=layers - 1)
    if layers == 61:  # the release's depth, the one transformers knows where to look for
        config = replace(config, hidden_size=16, intermediate_size=16, num_mtp_layers=1)
    before = student(config)
    weights.save(before, None, tmp_path / "student")
    main = read_by_transformers(tmp_path / "student")
    if layers != 61:
        main._keys_to_ignore_on_load_unexpected = {r"model\.layers\.[34]\."}
    theirs = MtpModel.from_pretrained(main).eval()
    tokens = TOKENS[:1]
    with torch.no_grad():
        ours = before(tokens[0], Documents.rows(1, 48, CPU), ahead=True)
        hidden = main.model(input_ids=tokens).last_hidden_state
        for depth, ahead in enumerate(ours.ahead):
            kept = 47 - depth
            places = torch.arange(kept)[None]
            later = tokens[:, depth + 1 :]
            hidden = theirs.forward_layer(depth, hidden[:, :kept], places, None, input_ids=later)
            assert difference(ahead.hidden_PD, hidden[0]) < 1e-5
    assert len(ours.ahead) == config.num_mtp_layers


def test_with_prediction_layers_engines_find_all_files_and_transformers_the_model_proper(saved):
    path = saved / "mla"
    every = json.loads((path / "model.safetensors.index.json").read_text())["weight_map"]
    named = json.loads((path / "config.json").read_text())["transformers_weights"]
    main = json.loads((path / named).read_text())["weight_map"]
    ahead = ("model.layers.3.", "model.layers.4.")
    assert set(every) == set(stored(path))
    assert set(main) == {name for name in every if not name.startswith(ahead)}
    assert not set(main.values()) & {every[name] for name in set(every) - set(main)}


def test_plain_transformers_writes_text_with_it(saved):
    for name in ("v4", "single"):
        model = read_by_transformers(saved / name)
        tokenizer = AutoTokenizer.from_pretrained(saved / name, local_files_only=True)
        asked = tokenizer("word5 word9 word5", return_tensors="pt", return_token_type_ids=False)
        out = model.generate(**asked, do_sample=False, max_new_tokens=8)
        assert 3 < out.shape[1] <= 11
        assert tokenizer.decode(out[0]).startswith("word5 word9 word5")


# Checkpoints of others


def rewritten(path, model, rename):
    """Save a model of transformers, its tensors renamed as released checkpoints name them."""
    model.save_pretrained(path)
    file = path / "model.safetensors"
    tensors = {rename(name): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("yarn", [None, YARN], ids=["plain", "yarn"])
def test_a_v4_checkpoint_of_transformers_is_a_student_with_the_same_logits(tmp_path, yarn):
    config = replace(V4, yarn=yarn, num_mtp_layers=0)
    theirs = random_model(DeepseekV4ForCausalLM, config)
    for layer in theirs.model.layers:
        if layer.mlp.is_hash:
            first_V = torch.arange(VOCABULARY.size) % config.num_routed_experts
            layer.mlp.gate.tid2eid.copy_(torch.stack((first_V, first_V ^ 1), dim=-1))
    rewritten(tmp_path / "v4", theirs, as_released)
    ours = weights.load(tmp_path / "v4", device=CPU)
    assert ours.config == config
    assert difference(logits(ours), their_logits(theirs)) < 1e-5


@pytest.mark.parametrize("q_lora_rank", [16, None], ids=["compressed", "plain"])
def test_a_v3_checkpoint_of_transformers_is_a_student_with_the_same_logits(tmp_path, q_lora_rank):
    config = replace(MLA, num_mtp_layers=0, q_lora_rank=q_lora_rank, yarn=YARN)
    theirs = random_model(DeepseekV3ForCausalLM, config)
    theirs.save_pretrained(tmp_path / "v3", max_shard_size="20KB")
    assert len(list((tmp_path / "v3").glob("*.safetensors"))) > 3
    ours = weights.load(tmp_path / "v3", device=CPU)
    assert ours.config == config
    assert difference(logits(ours), their_logits(theirs)) < 1e-5


def random_model(kind, config):
    fields = config_json(config, VOCABULARY)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(kind.config_class(**fields)).eval()
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor), alpha=0.1)
    return model


@pytest.mark.parametrize(
    ("name", "own"),
    [("mtp.0.emb.tok_emb.weight", "embed.weight"), ("mtp.0.head.weight", "head.weight")],
)
def test_what_a_checkpoint_repeats_must_be_what_it_repeats(tmp_path, saved, name, own):
    path = shutil.copytree(saved / "v4", tmp_path / "student")
    tensors = load_file(path / "model.safetensors")
    save_file(tensors | {name: tensors[own].clone()}, path / "model.safetensors")
    assert_same_state(weights.load(path, device=CPU), student(V4))
    save_file(tensors | {name: tensors[own] + 1}, path / "model.safetensors")
    with pytest.raises(WeightsError, match=f"{name} differs from what it repeats"):
        weights.load(path, device=CPU)


@pytest.mark.parametrize("name", ["v4 learned", "mla plain"])
def test_a_tied_checkpoint_may_hold_its_head_if_that_is_the_embedding(tmp_path, name):
    config, path = replace(STUDENTS[name], num_mtp_layers=0), tmp_path / "student"
    weights.save(student(config), None, path)
    tensors = load_file(path / "model.safetensors")
    v4 = isinstance(config, V4Config)
    head, embed = (
        ("head.weight", "embed.weight") if v4 else ("lm_head.weight", "model.embed_tokens.weight")
    )
    assert head not in tensors
    save_file(tensors | {head: tensors[embed].clone()}, path / "model.safetensors")
    assert_same_state(weights.load(path, device=CPU), student(config))
    save_file(tensors | {head: tensors[embed] + 1}, path / "model.safetensors")
    with pytest.raises(WeightsError, match=f"{head} differs from what it repeats"):
        weights.load(path, device=CPU)


def test_a_hash_table_of_32_bits_is_read(tmp_path, saved):
    path = shutil.copytree(saved / "v4", tmp_path / "student")
    tensors = load_file(path / "model.safetensors")
    name = "layers.0.ffn.gate.tid2eid"
    save_file(tensors | {name: tensors[name].int()}, path / "model.safetensors")
    assert_same_state(weights.load(path, device=CPU), student(V4))


# Dtypes and shards


def test_in_bfloat16_all_but_what_must_not_be_rounded_is_bfloat16(tmp_path):
    before = student(V4)
    weights.save(before, None, tmp_path / "student", dtype=torch.bfloat16)
    found = stored(tmp_path / "student")
    state, kept = before.state_dict(), 0
    for name, place in places({n: t.shape for n, t in state.items()}, V4).items():
        expected = view(state[place.name], place)
        if kept_in_float32(place.name) or name.endswith("tid2eid"):
            kept += 1
        else:
            expected = expected.bfloat16()
        assert found[name].dtype == expected.dtype, name
        assert torch.equal(found[name], expected), name
    assert 0 < kept < len(found) / 2
    fields = json.loads((tmp_path / "student" / "config.json").read_text())
    assert (fields["torch_dtype"], fields["expert_dtype"]) == ("bfloat16", "bf16")


def test_transformers_keeps_no_tensor_finer_than_it_is_stored(tmp_path):
    weights.save(student(V4), None, tmp_path / "student", dtype=torch.bfloat16)
    exact = read_by_transformers(tmp_path / "student", torch.float32).state_dict()
    kept = read_by_transformers(tmp_path / "student", torch.bfloat16).state_dict()
    fine = [name for name, tensor in kept.items() if tensor.dtype == torch.float32]
    assert len(fine) > 40
    for name in fine:
        assert torch.equal(kept[name], exact[name]), name
    assert any(not torch.equal(exact[n], exact[n].bfloat16().float()) for n in fine)


@pytest.mark.parametrize("config", [V4, MLA], ids=["v4", "mla"])
def test_it_is_loaded_in_the_dtype_that_was_asked_for(tmp_path, config):
    before = student(config)
    weights.save(before, None, tmp_path / "student")
    after = weights.load(tmp_path / "student", device=CPU, dtype=torch.bfloat16)
    for name, tensor in after.state_dict().items():
        whole = not tensor.is_floating_point()
        expected = torch.float32 if kept_in_float32(name) else torch.bfloat16
        assert tensor.dtype == (torch.int64 if whole else expected), name
    exact = logits(before)
    with devices.autocast(CPU, torch.bfloat16):  # a few tokens may go to other experts
        off = (logits(after) - exact).abs().median()
    assert 0 < off < 0.03 * exact.std()
    weights.save(after, None, tmp_path / "again", dtype=torch.bfloat16)
    assert_same_state(
        weights.load(tmp_path / "again", device=CPU, dtype=torch.bfloat16),
        after,
    )


@pytest.mark.parametrize("config", [V4, MLA], ids=["v4", "mla"])
def test_shards_hold_no_more_than_asked_and_nothing_twice(tmp_path, config):
    before, most = student(config), 20_000
    weights.save(before, None, tmp_path / "student", shard_bytes=most)
    index = json.loads((tmp_path / "student" / "model.safetensors.index.json").read_text())
    files = sorted(file.name for file in (tmp_path / "student").glob("*.safetensors"))
    count = len(files)
    assert count > 5
    assert files == [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    total = 0
    for file in files:
        tensors = load_file(tmp_path / "student" / file)
        sizes = [tensor.numel() * tensor.itemsize for tensor in tensors.values()]
        assert sum(sizes) <= most or len(sizes) == 1
        assert {name for name, place in index["weight_map"].items() if place == file} == set(
            tensors
        )
        total += sum(sizes)
    assert index["metadata"]["total_size"] == total
    assert_same_state(weights.load(tmp_path / "student", device=CPU), before)
    assert (
        difference(logits(before), their_logits(read_by_transformers(tmp_path / "student"))) < 1e-5
    )


def test_a_small_student_without_prediction_layers_is_one_file_and_no_index(copy):
    files = {file.name for file in copy.iterdir()}
    assert "model.safetensors" in files
    assert not [name for name in files if name.endswith(".index.json")]
    with safe_open(copy / "model.safetensors", framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}


# Written whole or not at all


def test_a_second_save_replaces_the_first_whole(copy, tokenizer):
    (copy / "left_over.txt").write_text("of the first save")
    weights.save(student(V4, 1), tokenizer, copy)
    assert not (copy / "left_over.txt").exists()
    assert [entry.name for entry in copy.parent.iterdir()] == [copy.name]
    assert_same_state(weights.load(copy, device=CPU), student(V4, 1))


def refuse_to_write(*args: object, **settings: object) -> None:
    raise OSError(28, "No space left on device")


def assert_untouched(path) -> None:
    assert_same_state(weights.load(path, device=CPU), student(STUDENTS["mla groups"]))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_failed_save_keeps_the_old_student(copy, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "save_pretrained", refuse_to_write)
    with pytest.raises(WeightsError, match="No space left on device; free space"):
        weights.save(student(MLA, 1), tokenizer, copy)
    assert_untouched(copy)


def test_a_new_student_that_cannot_take_its_place_leaves_it_to_the_old(copy, monkeypatch):
    rename = type(copy).rename

    def rename_all_but_the_new(path, target):
        return refuse_to_write() if path.suffix == ".partial" else rename(path, target)

    monkeypatch.setattr(type(copy), "rename", rename_all_but_the_new)
    with pytest.raises(WeightsError, match="No space left on device; free space"):
        weights.save(student(MLA, 1), None, copy)
    assert_untouched(copy)


def test_a_dtype_the_layout_cannot_say_leaves_nothing_behind(copy, tokenizer):
    with pytest.raises(WeightsError, match=r"dtype is torch\.float64; students are stored in one"):
        weights.save(student(V4), tokenizer, copy, dtype=torch.float64)
    assert_untouched(copy)


def test_a_disk_that_fills_while_tensors_are_written_is_an_error_of_ours(copy, tokenizer):
    # The library that writes the tensors reports a full disk by an error of its own kind.
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(WeightsError, match="cannot write the model to"):
            weights.save(student(MLA, 1), tokenizer, copy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_untouched(copy)


# Damage


def test_a_directory_that_is_not_there_is_named_in_one_sentence(tmp_path):
    readers = (
        weights.load_tokenizer,
        weights.read_config,
        lambda path: weights.load(path, device=CPU),
    )
    for read in readers:
        with pytest.raises(WeightsError) as caught:
            read(tmp_path / "absent")
        message = str(caught.value)
        assert message == f"{tmp_path / 'absent'} is not a model directory: it has no config.json."


def edit(change):
    """Return a damage that gives `change` the tensors of a single file to alter."""

    def damage(path):
        tensors = load_file(path / "model.safetensors")
        change(tensors)
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})

    return damage


def set_field(name, value):
    def damage(path):
        fields = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(fields | {name: value}))

    return damage


def cut_weights(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def index_of(text):
    def damage(path):
        (path / "model.safetensors.index.json").write_text(text)

    return damage


def split_and_repeat(path):
    tensors = load_file(path / "model.safetensors")
    save_file(tensors, path / "a.safetensors")
    save_file({"lm_head.weight": tensors["lm_head.weight"]}, path / "b.safetensors")
    placed = {name: "a.safetensors" for name in tensors} | {"model.norm.weight": "b.safetensors"}
    index_of(json.dumps({"weight_map": placed}))(path)


Q_B = "model.layers.0.self_attn.q_b_proj.weight"
DAMAGES = {
    "cut": (cut_weights, r"model\.safetensors is damaged: "),
    "no weights": (
        lambda path: (path / "model.safetensors").unlink(),
        r"it has neither model\.safetensors nor model\.safetensors\.index\.json\.$",
    ),
    "config cut": (
        lambda path: (path / "config.json").write_text('{"model_type": '),
        r"config\.json is damaged: ",
    ),
    "config a list": (
        lambda path: (path / "config.json").write_text("[1]"),
        r"config\.json is damaged: it is no JSON object",
    ),
    "field": (set_field("hidden_act", "gelu"), r"config\.json: hidden_act is 'gelu'"),
    "fp8 config": (set_field("quantization_config", {"fmt": "e4m3"}), r"quantization_config is "),
    "missing": (
        edit(lambda t: t.pop("lm_head.weight")),
        r"its files hold no lm_head\.weight \(1 of its tensors are missing\)\.$",
    ),
    "missing layer": (
        set_field("num_nextn_predict_layers", 1),
        r"hold no model\.layers\.3\..*; without prediction layers, num_nextn_predict_layers",
    ),
    "shape": (
        edit(lambda t: t.update({"lm_head.weight": t["lm_head.weight"][:-1].contiguous()})),
        r"lm_head\.weight is \[63, 32\]; config\.json makes it \[64, 32\]\.$",
    ),
    "unexpected": (
        edit(lambda t: t.update({"model.layers.9.mlp.gate.weight": torch.zeros(2)})),
        r"its files hold model\.layers\.9\.mlp\.gate\.weight, which config\.json has no place for",
    ),
    "scale": (
        edit(lambda t: t.update({Q_B + "_scale_inv": torch.ones(1, 1)})),
        r"q_b_proj\.weight_scale_inv is a scale of quantised weights; dequantise",
    ),
    "fp8": (
        edit(lambda t: t.update({Q_B: t[Q_B].to(torch.float8_e4m3fn)})),
        r"q_b_proj\.weight is stored as F8_E4M3; students are not quantised",
    ),
    "packed": (
        edit(lambda t: t.update({Q_B: t[Q_B].to(torch.uint8)})),
        r"q_b_proj\.weight is stored as U8; students are not quantised",
    ),
    "absent shard": (
        index_of('{"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}'),
        r"names the file model-00002-of-00002\.safetensors, which is not there",
    ),
    "shard elsewhere": (
        index_of('{"weight_map": {"lm_head.weight": "../student/model.safetensors"}}'),
        r"names the file \.\./student/model\.safetensors, which is not there",
    ),
    "index without map": (index_of("{}"), r"index\.json has no weight_map"),
    "index cut": (index_of('{"weight_map'), r"model\.safetensors\.index\.json is damaged"),
    "twice": (split_and_repeat, r"two of its files hold lm_head\.weight"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_student_is_refused_in_one_sentence(copy, damage, message):
    damage(copy)
    with pytest.raises(WeightsError, match=message) as caught:
        weights.load(copy, device=CPU)
    assert str(caught.value).startswith(f"cannot load the model in {copy}: ")
    assert "\n" not in str(caught.value)


def test_scales_as_v4_names_them_and_tables_that_cannot_be_are_refused(tmp_path, saved):
    path = shutil.copytree(saved / "v4", tmp_path / "student")
    tensors = load_file(path / "model.safetensors")
    table, scale = "layers.0.ffn.gate.tid2eid", "layers.0.attn.wq_a.scale"
    save_file(tensors | {scale: torch.ones(1, 1)}, path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"layers\.0\.attn\.wq_a\.scale is a scale of quant"):
        weights.load(path, device=CPU)
    for experts, message in (
        ([4, 0], r"tid2eid names expert 4; there are 4"),
        ([0, -1], r"tid2eid names expert -1; there are 4"),
        ([3, 3], r"tid2eid names an expert twice for one token"),
    ):
        tensors[table][5] = torch.tensor(experts)
        save_file(tensors, path / "model.safetensors")
        with pytest.raises(WeightsError, match=message):
            weights.load(path, device=CPU)


def test_a_shard_cut_short_is_named(tmp_path):
    weights.save(student(V4), None, tmp_path / "student", shard_bytes=40_000)
    file = sorted((tmp_path / "student").glob("*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=f"{file.name} is damaged"):
        weights.load(tmp_path / "student", device=CPU)


def test_a_damaged_tokenizer_is_refused_in_one_sentence(copy):
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(WeightsError) as caught:
        weights.load_tokenizer(copy)
    message = str(caught.value)
    assert message.startswith(f"cannot load the tokenizer in {copy}: ")
    assert "\n" not in message
