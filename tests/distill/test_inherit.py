"""A run whose student begins with its teacher's weights, as its record and its controls tell it."""

import json
from dataclasses import replace

import pytest
import torch

from audit import strict_yaml
from distill import inherit
from distill.config import OptimizerConfig, RunConfig, TrainConfig, load
from distill.errors import MismatchError
from distill.run import control_of, run
from distill.train import Trainer
from student import weights
from student.errors import WarmStartError
from student.inherited import InheritConfig, InheritedEntries, InheritedExperts, InheritV4Config
from tests.fakes.students import MLA, V4, stirred
from tests.fakes.teachers import tiny_config

WHOLE = InheritConfig(
    init="teacher", cache=1.0, calibration_tokens=512, max_position_embeddings=128
)
WHOLE_V4 = InheritV4Config(
    init="teacher", family="v4", calibration_tokens=512, max_position_embeddings=128
)
SHORT = replace(
    WHOLE_V4,
    sliding_window=16,
    entries=InheritedEntries(tokens=4),
    experts=InheritedExperts(shared=1, routed=3, active=2),
)
HALF = replace(WHOLE, cache=0.5, experts=InheritedExperts(shared=4, routed=4, active=2))


def carried_out(config: RunConfig, out) -> tuple[dict, list[str]]:
    said: list[str] = []
    done = run(config, out, say=said.append, progress=lambda *told: None)
    return done.evaluation | {"manifest": done.manifest}, said


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    place = tmp_path_factory.mktemp("halved")
    config = tiny_config(place, student=HALF)
    found, said = carried_out(config, place / "run")
    return place / "run", found, said, config


@pytest.mark.parametrize("student", [WHOLE, WHOLE_V4], ids=["mla", "v4"])
def test_with_nothing_cut_the_first_measure_is_of_the_teacher_itself(student, tmp_path):
    config = tiny_config(tmp_path, student=student, train=TrainConfig(steps=1, batch_size=4))
    found, said = carried_out(config, tmp_path / "run")
    assert found["before"]["kl"] < 0.01  # estimated from the kept signal, so not 0
    assert found["before"]["top1_agreement"] > 0.999
    [exact] = [line for line in said if line.startswith("inherited, ")]
    assert exact.startswith("inherited, nothing cut: KL to the teacher ")
    assert float(exact.split()[-1]) < 1e-6


def test_the_exact_map_is_said_first_and_then_what_cutting_costs_and_fitting_gives_back(halved):
    _, _, said, _ = halved
    told = [line.split(": KL to the teacher ") for line in said if line.startswith("inherited, ")]
    assert [what for what, _ in told] == [
        "inherited, nothing cut",
        "inherited, 32 cached values a token and layer (50%), 75% of the neurons",
        "inherited, and fitted again",
    ]
    exact, cut, _ = (float(kl) for _, kl in told)
    assert exact < 1e-6 < cut


def test_record_card_page_and_bill_of_materials_say_whose_weights_they_were(halved):
    out, found, _, config = halved
    inherited = found["manifest"]["student"]["inherited"]
    assert inherited["teacher"] == config.teachers[0].name
    assert (inherited["cache"], inherited["depth"]) == (0.5, 1.0)
    sentence = "inherits the weights of tiny, with 50% of the teacher's cache and 75% of its"
    card = (out / "README.md").read_text()
    assert sentence in card and 'base_model: "tiny"' in card
    assert "The student inherits the weights of tiny" in (out / "run.html").read_text()
    bom = json.loads((out / "bom.cdx.json").read_text())
    assert sentence in bom["metadata"]["component"]["pedigree"]["notes"]


def test_the_students_own_config_says_how_it_was_made(halved):
    out, found, _, _ = halved
    for place in ("student", "checkpoints/step-000000"):
        fields = json.loads((out / place / "config.json").read_text())
        assert fields["spiritsafe_inherited"] == found["manifest"]["student"]["inherited"]


def test_what_was_inherited_is_kept_and_routers_are_as_they_were_solved_for(halved):
    out, *_ = halved
    start = weights.load(out / "checkpoints" / "step-000000", device=torch.device("cpu"))
    end = weights.load(out / "student", device=torch.device("cpu"))
    assert start.config == end.config
    moved = {
        name: not torch.equal(before, after)
        for (name, before), after in zip(
            start.state_dict().items(), end.state_dict().values(), strict=True
        )
        if before.is_floating_point()
    }
    assert not any(change for name, change in moved.items() if "router.weight" in name)
    assert all(
        moved[f"layers.0.{name}.weight"] for name in ("attn.kv_b", "attn.o", "ffn.shared.up")
    )


def test_a_run_that_was_stopped_goes_on_with_the_same_student(tmp_path, monkeypatch):
    config = tiny_config(tmp_path, student=HALF)
    whole, _ = carried_out(config, tmp_path / "whole")
    with monkeypatch.context() as patched:

        def stop(*_args, **_named):
            raise KeyboardInterrupt

        patched.setattr("distill.run._train", stop)
        with pytest.raises(KeyboardInterrupt):
            carried_out(config, tmp_path / "stopped")
    again, said = carried_out(config, tmp_path / "stopped")
    assert not any(line.startswith("inherited") for line in said)
    assert again["after"]["kl"] == whole["after"]["kl"]


def test_a_control_is_of_the_same_make_and_drawn(halved):
    out, found, _, _ = halved
    control = control_of(out, seed=1)
    made, _ = weights.read_config(out / "student")
    assert control.student == made
    found, said = carried_out(control, out.parent / "control")
    assert not any(line.startswith("inherited") for line in said)
    assert found["manifest"]["student"]["inherited"] is None
    card = (out.parent / "control" / "README.md").read_text()
    assert "inherits" not in card and "base_model" not in card and "their weights" not in card
    assert found["manifest"]["run"]["parameters"] > 0


def test_the_section_is_written_and_read_again(tmp_path):
    config = tiny_config(tmp_path, student=HALF)
    (tmp_path / "run.yaml").write_text(strict_yaml.dump(config))
    assert load(tmp_path / "run.yaml") == config


def test_weights_need_the_teachers_own_tokens(tmp_path):
    config = tiny_config(tmp_path, student=WHOLE)
    other = replace(config.text, tokenizer=str(tmp_path / "teacher"))
    with pytest.raises(MismatchError, match=r"text\.tokenizer must be teacher"):
        carried_out(replace(config, text=other), tmp_path / "run")


def test_a_context_beyond_the_teachers_is_refused_before_anybody_is_asked(tmp_path):
    config = tiny_config(tmp_path, student=replace(WHOLE, max_position_embeddings=512))
    with pytest.raises(WarmStartError, match="max_position_embeddings is 512, more than the teach"):
        carried_out(config, tmp_path / "run")
    assert not (tmp_path / "run" / "signals").exists()


def test_muon_trains_it_too_and_leaves_routers_alone(tmp_path):
    optimizer = OptimizerConfig(name="muon", learning_rate=1e-3, warmup_steps=1)
    carried_out(tiny_config(tmp_path, student=HALF, optimizer=optimizer), tmp_path / "run")
    start, end = (
        weights.load(tmp_path / "run" / place, device=torch.device("cpu")).state_dict()
        for place in ("checkpoints/step-000000", "student")
    )
    assert torch.equal(start["layers.0.ffn.router.weight"], end["layers.0.ffn.router.weight"])
    assert not torch.equal(start["layers.0.attn.kv_b.weight"], end["layers.0.attn.kv_b.weight"])


def test_nothing_decays_the_constant_that_rules_the_latents_norm(halved):
    out, _, _, config = halved
    model = weights.load(out / "student", device=torch.device("cpu"))
    decayed = {
        id(parameter)
        for optimizer in Trainer(model, config, None).optimizers
        for group in optimizer.param_groups
        if group["weight_decay"]
        for parameter in group["params"]
    }
    attn = model.layers[0].attn
    assert id(attn.kv_b.weight) in decayed
    assert id(attn.kv_a.bias) not in decayed and id(attn.kv_norm.weight) not in decayed


@pytest.mark.parametrize(
    ("config", "solved"),
    [
        (MLA, ("router.weight",)),
        (replace(V4, num_hash_layers=0), ("router.weight", "attn.o_a.weight")),
    ],
    ids=["mla", "v4"],
)
def test_what_a_step_would_undo_is_held_and_nothing_else(config, solved):
    student = stirred(config)
    inherit.hold(student)
    held = {name for name, p in student.named_parameters() if not p.requires_grad}
    assert held == {name for name in student.state_dict() if name.endswith(solved)}
    assert all(any(name.endswith(one) for name in held) for one in solved)


def test_a_student_of_v4_is_priced_trained_and_told_of(tmp_path):
    config = tiny_config(tmp_path, student=SHORT)
    found, said = carried_out(config, tmp_path / "run")
    told = [line.split(": KL to the teacher ") for line in said if line.startswith("inherited, ")]
    assert [what for what, _ in told] == [
        "inherited, nothing cut",
        "inherited, a window of 16 tokens, entries of 4 tokens before it, 75% of the neurons",
    ]
    exact, cut = (float(kl) for _, kl in told)
    assert exact < 1e-6 < cut
    inherited = found["manifest"]["student"]["inherited"]
    assert inherited["entries"] == {"tokens": 4, "gate": "attended"}
    assert (inherited["head_dim"], inherited["sliding_window"]) == (None, 16)
    fields = json.loads((tmp_path / "run" / "student" / "config.json").read_text())
    assert fields["model_type"] == "deepseek_v4" and fields["spiritsafe_inherited"] == inherited
    assert "It attends to 16 tokens as they are." in (tmp_path / "run" / "README.md").read_text()
    (tmp_path / "again.yaml").write_text(strict_yaml.dump(config))
    assert load(tmp_path / "again.yaml") == config
    control = control_of(tmp_path / "run", seed=1)
    assert control.student == weights.read_config(tmp_path / "run" / "student")[0]
