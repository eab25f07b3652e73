"""Controls are compared with the suspect fact by fact, from what their own runs recorded."""

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from audit.attest import digest
from audit.matching import matched
from distill.loss import objective

CONFIG: dict[str, Any] = {
    "seed": 0,
    "student": {"hidden_size": 32},
    "train": {"steps": 6, "batch_size": 4},
    "text": {"sources": ["t.jsonl"]},
    "optimizer": {"learning_rate": 0.01},
    "loss": [
        {"kind": "forward_kl", "weight": 0.9},
        {"kind": "cross_entropy", "weight": 0.1},
        {"kind": "balance", "weight": 1e-4},
    ],
}
MANIFEST = {
    "inputs": [
        {"name": "t.jsonl", "kind": "text", "sha256": "aa"},
        {"name": "w", "kind": "teacher weights", "sha256": "bb"},
    ]
}


def written(path: Path, config: Any, manifest: Any = MANIFEST) -> Path:
    path.mkdir()
    text = yaml.safe_dump(config)
    (path / "config.yaml").write_text(text)
    if isinstance(manifest, dict):
        manifest = {**manifest, "config_sha256": digest(text)}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def untaught(**taught: float) -> list[dict[str, Any]]:
    """Return a control's loss, and with it these terms of a teacher."""
    own = {"cross_entropy": 1.0, "balance": 1e-4, "indexer": 1.0, "mtp": 0.3}
    return [{"kind": kind, "weight": weight} for kind, weight in (own | taught).items()]


def control_config(**changes: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    config.update(seed=1, loss=untaught())
    for key, value in changes.items():
        config[key] = value
    return config


@pytest.fixture
def suspect(tmp_path: Path) -> Path:
    return written(tmp_path / "suspect", CONFIG)


def test_a_proper_control_matches_in_every_fact(suspect, tmp_path):
    good, bad = matched(suspect, {"c": written(tmp_path / "c", control_config())})
    assert good == ("c: same architecture, number of steps, text, optimizer; seed 1",)
    assert bad == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"student": {"hidden_size": 64}}, "c: differs in architecture"),
        ({"train": {"steps": 7, "batch_size": 4}}, "c: differs in number of steps"),
        ({"text": {"sources": ["other.jsonl"]}}, "c: differs in text"),
        ({"optimizer": {"learning_rate": 0.02}}, "c: differs in optimizer"),
        ({"seed": 0}, "c: differs in seed, which must differ"),
        ({"loss": untaught(forward_kl=0.5)}, "c: differs in teacher"),
    ],
)
def test_what_a_control_does_not_share_is_named(suspect, tmp_path, changes, said):
    good, bad = matched(suspect, {"c": written(tmp_path / "c", control_config(**changes))})
    assert len(bad) == 1 and bad[0].startswith(said)
    assert said.removeprefix("c: differs in ") not in good[0].partition(";")[0]


TAUGHT = [
    get_args(get_type_hints(type(term))["kind"])
    for term in objective.from_a_teacher(
        [
            objective.Divergence(kind="tvd"),
            objective.SampledReverseKL(),
            objective.ChunkLikelihood(),
            objective.SortedL1(),
            objective.HiddenMatch(kind="hidden_mse"),
        ]
    )
]


@pytest.mark.parametrize("kind", [kind for kinds in TAUGHT for kind in kinds])
def test_a_control_has_no_term_of_a_teacher_with_a_weight(suspect, tmp_path, kind):
    taught = written(tmp_path / "t", control_config(loss=untaught(**{kind: 1e-9})))
    _, bad = matched(suspect, {"t": taught})
    assert bad == ("t: differs in teacher: this control was trained with one",)
    off = written(tmp_path / "o", control_config(loss=untaught(**{kind: 0.0})))
    assert matched(suspect, {"o": off}).unmatched == ()


def test_the_loss_of_any_control_of_ours_is_one(suspect, tmp_path):
    loss = [asdict(term) for term in objective.without_teacher(objective.DEFAULT)]
    control = written(tmp_path / "c", control_config(loss=loss))
    assert matched(suspect, {"c": control}).unmatched == ()


def test_a_text_of_the_same_name_and_other_contents_does_not_match(suspect, tmp_path):
    other = {"inputs": [{"name": "t.jsonl", "kind": "text", "sha256": "cc"}]}
    _, bad = matched(suspect, {"c": written(tmp_path / "c", control_config(), other)})
    assert bad == ("c: differs in contents of the text",)


def test_each_control_is_judged_for_itself(suspect, tmp_path):
    runs = {
        "a": written(tmp_path / "a", control_config()),
        "b": written(tmp_path / "b", control_config(seed=0)),
    }
    good, bad = matched(suspect, runs)
    assert [line.partition(":")[0] for line in good] == ["a", "b"]
    assert [line.partition(":")[0] for line in bad] == ["b"]


@pytest.mark.parametrize(
    ("config", "manifest"),
    [
        (None, MANIFEST),
        ("a text", MANIFEST),
        ({"seed": 1}, MANIFEST),
        (control_config(loss=None), MANIFEST),
        (control_config(loss={"forward_kl": 0.0}), MANIFEST),
        (control_config(loss=[{"kind": "tvd"}]), MANIFEST),
        (control_config(loss=[{"weight": 1.0}]), MANIFEST),
        (control_config(), {}),
        (control_config(), []),
        (control_config(), {"inputs": [{"kind": "text"}]}),
    ],
)
def test_a_broken_record_is_no_record(suspect, tmp_path, config, manifest):
    good, bad = matched(suspect, {"c": written(tmp_path / "c", config, manifest)})
    assert good == ()
    assert bad == ("c: no intact record of how c was trained",)


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json"])
def test_a_record_that_cannot_be_parsed_is_no_record(suspect, tmp_path, name):
    run = written(tmp_path / "c", control_config())
    (run / name).write_text("{ [")
    assert "no intact record" in matched(suspect, {"c": run}).unmatched[0]


def test_a_config_edited_after_the_run_is_no_record(suspect, tmp_path):
    run = written(tmp_path / "c", control_config(seed=7))
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("seed: 7", "seed: 8"))
    assert "no intact record" in matched(suspect, {"c": run}).unmatched[0]


def test_without_a_run_nothing_is_known(suspect, tmp_path):
    run = written(tmp_path / "c", control_config())
    assert "of how the suspect was trained" in matched(None, {"c": run}).unmatched[0]
    assert "of how c was trained" in matched(suspect, {"c": None}).unmatched[0]
    assert "of how c was trained" in matched(suspect, {"c": tmp_path}).unmatched[0]
    assert matched(suspect, {}) == ((), ())
