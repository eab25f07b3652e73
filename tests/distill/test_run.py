"""A run with every kind of teacher ends with finite losses and a whole record of who taught."""

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from audit.attest import digest, tree_digest
from audit.errors import BudgetError, EndpointError
from audit.question import EndpointConfig
from audit.statement import ENVELOPE
from distill.config import (
    RunConfig,
    SignalConfig,
    TrainConfig,
)
from distill.errors import MismatchError
from distill.loss.objective import (
    ChunkLikelihood,
    CrossEntropy,
    Divergence,
    HiddenMatch,
    SampledReverseKL,
)
from distill.papers.inspection import inspect
from distill.rollout.config import WRITER, RolloutConfig
from distill.run import control_of
from distill.store.store import Store
from distill.terms import TermsError
from distill.train import Trainer
from tests.fakes.endpoints import TINY, Server, TinyModel, speaking_teacher
from tests.fakes.files import bytes_of
from tests.fakes.sessions import (
    OBLIGATION,
    TERMS,
    Said,
    answers,
    carried_out,
    metrics,
    prompts_file,
    rows_file,
    served_teacher,
    small_config,
    stranger,
    tagged_file,
)
from tests.fakes.teachers import tiny_teacher

OF_NETWORK = {"balance", "indexer"}
PLAIN = {"forward_kl", "cross_entropy"}


@dataclass(frozen=True)
class Kind:
    """A run with one kind of teacher, and what its record has to say.

    Attributes:
        config: made of a directory and a server.
        terms: of the loss that apply in some step.
        kinds: of its teachers.
        signals: stores that are pinned in the manifest.
        bill: names of lines that the bill has to have.
    """

    config: Callable[[Path, Server], RunConfig]
    terms: set[str]
    kinds: tuple[str, ...] = ("weights on disk",)
    signals: tuple[str, ...] = ("training signals, tiny", "held-out signals, tiny")
    bill: tuple[str, ...] = ("Tokens captured", "tiny, forward")


def brief(place: Path, **changes: Any) -> RunConfig:
    """Return a run of four steps whose first teacher obliges to something."""
    made = small_config(place)
    teacher = replace(made.teachers[0], owned=False, terms=TERMS)
    text = replace(made.text, sequence_length=64, tokenizer=str(place / "teacher"))
    train = TrainConfig(steps=4, batch_size=4)
    return replace(made, **{"teachers": (teacher,), "text": text, "train": train} | changes)


def signal_of(mode: str) -> Callable[[Path, Server], RunConfig]:
    return lambda place, _: brief(place, signal=SignalConfig(mode=mode, head=8, tail=4))


def matched(place: Path, _: Server) -> RunConfig:
    loss = (
        Divergence(kind="jsd", mix=0.5, temperature=2.0),
        Divergence(kind="reverse_kl"),
        HiddenMatch(kind="hidden_mse"),
    )
    return brief(place, signal=SignalConfig(mode="hidden"), loss=loss)


def writing(estimator: str, *loss: Any) -> Callable[[Path, Server], RunConfig]:
    own = RolloutConfig(
        fraction=0.5, max_new_tokens=5, prompt_tokens=5, refresh_steps=2, estimator=estimator
    )
    return lambda place, _: brief(place, rollout=own, loss=(*loss, CrossEntropy(weight=0.1)))


def answered(place: Path, server: Server) -> RunConfig:
    """Return a run in whose student's place a server answers."""
    made = writing("full", Divergence(kind="reverse_kl"))(place, server)
    asked = EndpointConfig(url=server.url, model=TINY, api="completions", retries=0, concurrency=1)
    return replace(made, rollout=replace(made.rollout, endpoint=asked, terms=TERMS))


def by_tags(place: Path, _: Server) -> RunConfig:
    first = replace(brief(place).teachers[0], tags=("a",))
    second = replace(first, name="second", path=str(place / "second"), tags=("b",), owned=True)
    text = replace(brief(place).text, sources=(str(place / "tagged.jsonl"),))
    return brief(place, teachers=(first, second), text=text)


def mixed(place: Path, _: Server) -> RunConfig:
    (first,) = brief(place).teachers
    second = replace(first, name="second", path=str(place / "second"), weight=3.0)
    return brief(place, teachers=(first, second), signal=SignalConfig(mode="hidden"))


def across(place: Path, _: Server) -> RunConfig:
    (first,) = brief(place).teachers
    loss = ChunkLikelihood(temperature=10.0), CrossEntropy()
    return brief(place, teachers=(replace(first, path=str(place / "stranger")),), loss=loss)


def who_writes(place: Path, _: Server) -> RunConfig:
    (first,) = brief(place).teachers
    return brief(place, teachers=(replace(first, answers=answers(place / "prompts.jsonl")),))


def served(says: str, **changes: Any) -> Callable[[Path, Server], RunConfig]:
    def config(place: Path, server: Server) -> RunConfig:
        more: dict[str, Any] = {"name": "tiny", "owned": False, "terms": TERMS, "says": says}
        if says == "prompt_logprobs":
            more |= {"top": 8, "agrees_with": str(place / "teacher")}
        else:
            how = answers(place / "prompts.jsonl", temperature=0.5, max_new_tokens=12)
            more |= {"api": "chat", "answers": how}
        return brief(place, teachers=(served_teacher(server, **more),), **changes)

    return config


TWO = ("training signals, tiny", "held-out signals, tiny")
TWO += ("training signals, second", "held-out signals, second")
ASKED = ("Tokens read by tiny", "Tokens written by tiny", "tiny, served", "Endpoint of tiny")
KINDS = {
    "head and tail": Kind(signal_of("head_tail"), PLAIN),
    "head alone": Kind(signal_of("topk"), PLAIN),
    "draws alone": Kind(signal_of("sampled"), PLAIN),
    "hidden states": Kind(matched, {"jsd", "reverse_kl", "hidden_mse"}),
    "on-policy": Kind(
        writing("full", Divergence(kind="forward_kl", on="text"), Divergence(kind="reverse_kl")),
        {*PLAIN, "reverse_kl"},
        bill=("Tokens captured", "Tokens generated", "Student, writing", "tiny, forward"),
    ),
    "on-policy, sampled": Kind(
        writing("sampled", SampledReverseKL()), {"sampled_reverse_kl", "cross_entropy"}
    ),
    "on-policy, served": Kind(
        answered,
        {"reverse_kl", "cross_entropy"},
        bill=("Tokens read by the writer of rollouts", "Tokens written by the writer of rollouts"),
    ),
    "two by tags": Kind(by_tags, PLAIN, ("weights on disk",) * 2, TWO),
    "a mixture": Kind(mixed, PLAIN, ("weights on disk",) * 2, TWO),
    "across tokenizers": Kind(
        across, {"chunk_likelihood", "cross_entropy"}, signals=("training signals, tiny",)
    ),
    "one that writes": Kind(
        who_writes,
        PLAIN,
        bill=("Tokens captured", "Tokens read by tiny", "Tokens written by tiny", "tiny, forward"),
    ),
    "served, text": Kind(
        served("text", loss=(CrossEntropy(),)), {"cross_entropy"}, ("served, text",), (), ASKED
    ),
    "served, top_logprobs": Kind(
        served("top_logprobs"), PLAIN, ("served, top_logprobs",), TWO[:1], ASKED
    ),
    "served, prompt_logprobs": Kind(
        served("prompt_logprobs"), PLAIN, ("served, prompt_logprobs",), TWO[:1], ASKED
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teachers, texts and prompts."""
    made = tmp_path_factory.mktemp("runs")
    speaking_teacher(made / "teacher", steps=60)
    tiny_teacher(made / "second", seed=1)
    stranger(made / "stranger")
    tagged_file(made / "tagged.jsonl", "ab", each=10)
    prompts_file(made / "prompts.jsonl", 12)
    return made


@pytest.fixture(scope="module")
def model(place):
    return TinyModel(place / "teacher")


@pytest.fixture(scope="module")
def finished_runs(place, model):
    """Return a function that gives the finished run of a kind, and its config; each is run once."""
    made: dict[str, tuple[RunConfig, Path]] = {}

    def give(name: str) -> tuple[RunConfig, Path]:
        if name not in made:
            with Server(model) as server:
                config = KINDS[name].config(place, server)
                made[name] = config, carried_out(config, place / "runs" / name).out
        return made[name]

    return give


@pytest.mark.parametrize("name", KINDS)
def test_every_step_has_a_finite_loss_of_the_terms_that_apply(finished_runs, name):
    config, out = finished_runs(name)
    rows = metrics(out)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(math.isfinite(row["loss"]) and row["gradient_norm"] > 0 for row in rows)
    wanted = KINDS[name].terms | OF_NETWORK
    assert set().union(*(row["terms"] for row in rows)) == wanted
    if name != "served, top_logprobs":  # whose answers are not in every step
        assert all(row["terms"].keys() == wanted for row in rows)
    weights = {term.kind: term.weight for term in config.loss}
    if not config.rollout.fraction and "served" not in name:  # every term applies everywhere
        for row in rows:
            whole = sum(
                weights[kind] * row["terms"][kind] for kind in row["terms"] if kind in weights
            )
            assert row["loss"] == pytest.approx(whole, rel=1e-4)
    evaluation = json.loads((out / "eval.json").read_text())
    told = evaluation["after"]["kl"] is not None
    assert told == any(signal.startswith("held-out") for signal in KINDS[name].signals)
    before = evaluation["before"]["bits_per_byte"]
    assert evaluation["after"]["bits_per_byte"] < before


@pytest.mark.parametrize("name", KINDS)
def test_the_record_names_teachers_vocabularies_and_signals(finished_runs, name):
    config, out = finished_runs(name)
    kind, manifest = KINDS[name], json.loads((out / "manifest.json").read_text())
    teachers = manifest["teachers"]
    if config.rollout.endpoint is not None:
        writer = teachers.pop()
        assert writer["kind"] == "served, answers in the student's place"
        assert writer["obligations"] == [OBLIGATION] and writer["tokens"] > 0
        assert OBLIGATION in (out / "README.md").read_text(encoding="utf-8")
    assert [row["kind"] for row in teachers] == list(kind.kinds)
    assert [row["name"] for row in teachers] == [one.name for one in config.teachers]
    assert teachers[0]["obligations"] == [OBLIGATION]
    assert [row["teacher"] for row in manifest["vocabularies"]] == [row["name"] for row in teachers]
    on_disk = [row for row in manifest["vocabularies"] if len(row) > 1]
    assert len(on_disk) == kind.kinds.count("weights on disk")
    for row in on_disk:
        assert (row["differing"] > 0) == row["across_tokenizers"] == (name == "across tokenizers")
    read = {row["name"]: row for row in manifest["inputs"] if row["kind"] == "teacher signals"}
    assert set(read) == set(kind.signals)
    kinds = {row["kind"] for row in manifest["inputs"]}
    assert ("student's answers" in kinds) == bool(config.rollout.fraction)
    assert ("answers on the way" in kinds) == (config.rollout.endpoint is not None)
    assert ("answers a teacher wrote" in kinds) == any(one.answers for one in config.teachers)
    stores = {Store.open(path.parent).sha256() for path in (out / "signals").rglob("manifest.json")}
    assert {row["sha256"] for row in read.values()} == stores
    spoke = {f"training signals, {row['name']}" in kind.signals: row["tokens"] for row in teachers}
    assert all((tokens > 0) == said for said, tokens in spoke.items())
    looked_at = {row.what: row.ok for row in inspect(out).rows}
    assert looked_at.pop(ENVELOPE) is None  # nobody signed it
    assert all(looked_at.values())  # nothing is changed, and nothing is not there
    assert set(kind.signals) <= set(looked_at)


@pytest.mark.parametrize("name", KINDS)
def test_bill_card_and_bill_of_materials_name_who_taught(finished_runs, name):
    config, out = finished_runs(name)
    evaluation = json.loads((out / "eval.json").read_text())
    lines = {line["name"]: line["value"] for line in evaluation["bill"]["lines"]}
    assert set(KINDS[name].bill) <= set(lines)
    length = config.text.sequence_length
    if not config.rollout.fraction:
        assert lines["Tokens trained on"] == 4 * 4 * length
    card = (out / "README.md").read_text()
    assert f"- {OBLIGATION} (tiny" in card
    materials = json.loads((out / "bom.cdx.json").read_text())["metadata"]["component"]
    ancestors = [row["name"] for row in materials["pedigree"]["ancestors"]]
    written = [WRITER] if config.rollout.endpoint is not None else []
    assert ancestors == [one.name for one in config.teachers] + written
    assert OBLIGATION in [row["value"] for row in materials["properties"]]


@pytest.mark.parametrize("name", KINDS)
def test_what_models_wrote_has_its_label_beside_it_and_nothing_else_has(finished_runs, name):
    _, out = finished_runs(name)
    inputs = json.loads((out / "manifest.json").read_text())["inputs"]
    wrote = "answers a teacher wrote", "student's answers", "answers on the way"
    digests = sorted(row["sha256"] for row in inputs if row["kind"] in wrote)
    labels = [json.loads(path.read_text())["AIGC"] for path in out.rglob("aigc.json")]
    assert sorted(label["ProduceID"] for label in labels) == digests
    draft = (out / "training-content.md").read_text(encoding="utf-8")
    assert ("No text that a model wrote" in draft) == (not digests)


@pytest.mark.parametrize("name", ["hidden states", "on-policy", "served, top_logprobs"])
def test_a_finished_run_is_not_touched_and_its_teachers_are_not_asked(finished_runs, name):
    config, out = finished_runs(name)
    before, heard = bytes_of(out), Said()
    again = carried_out(config, out, heard)  # the server is gone
    assert again.reused and heard.sentences == [f"{out} is finished already; nothing to do"]
    assert bytes_of(out) == before


@pytest.mark.parametrize("name", ["served, text", "served, top_logprobs"])
def test_a_run_whose_served_teachers_wrote_has_no_control(finished_runs, name):
    _, out = finished_runs(name)
    assert json.loads((out / "manifest.json").read_text())["run"]["role"] == "student"
    with pytest.raises(MismatchError, match="learnt from text that a served teacher wrote"):
        control_of(out, seed=1)


def test_a_teacher_without_terms_is_refused_before_the_directory_is_taken(place, tmp_path):
    (teacher,) = brief(place).teachers
    for terms in (None, replace(TERMS, permits_training=False)):
        config = brief(place, teachers=(replace(teacher, terms=terms),))
        with pytest.raises(TermsError):
            carried_out(config, tmp_path / "run")
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


# Interruptions.


def test_a_killed_server_is_asked_on_where_it_stopped_and_nothing_is_paid_twice(
    place, model, tmp_path
):
    with Server(model) as server:
        config = KINDS["served, prompt_logprobs"].config(place, server)
        server.die_at = 60
        with pytest.raises(EndpointError, match="run the same command again when it is back"):
            carried_out(config, tmp_path / "run")
        assert not (tmp_path / "run" / "metrics.jsonl").exists()
    first = server.delivered
    with Server(model, port=server.port) as back:
        carried_out(config, tmp_path / "run")
        second = back.delivered
        asked = [body["prompt"] for body in back.bodies]
    length = config.text.sequence_length + 1
    scored = [
        body for body in (*server.bodies, *back.bodies) if len(body.get("prompt", "")) == length
    ]
    paid = Counter({digest(body): (first + second)[digest(body)] for body in scored})
    assert set(paid.values()) == {1}
    assert 0 < len(asked) < len(paid)
    spent = json.loads((tmp_path / "run" / "eval.json").read_text())["bill"]["lines"]
    read = next(line["value"] for line in spent if line["name"] == "Tokens read by tiny")
    assert read > len(paid) * length


def test_a_server_killed_in_the_midst_of_a_run_answers_on_and_the_run_ends_the_same(
    place, model, tmp_path
):
    def asked_for(server: Server) -> list[dict[str, Any]]:
        return [body for body in server.bodies if body.get("seed", 7) != 7]  # the preflight's

    with Server(model) as server:
        config = answered(place, server)
        whole = carried_out(config, tmp_path / "whole").out
        count, wanted = server.posts, asked_for(server)
    with Server(model, port=server.port) as first:
        first.die_at = count - 3  # in the second writing of four answers
        with pytest.raises(EndpointError, match="run the same command again when it is back"):
            carried_out(config, tmp_path / "run")
        assert len(metrics(tmp_path / "run")) == 2
    with Server(model, port=server.port) as back:
        out = carried_out(config, tmp_path / "run").out
        assert [*asked_for(first)[:-1], *asked_for(back)] == wanted  # the last got no answer
        assert len(asked_for(back)) == 3
        posts = back.posts
        carried_out(config, tmp_path / "run")
        assert back.posts == posts
    assert len(wanted) == len({digest(body) for body in wanted}) == 8
    assert [row["loss"] for row in metrics(out)] == [row["loss"] for row in metrics(whole)]
    assert tree_digest(out / "student") == tree_digest(whole / "student")


def test_a_run_that_reached_its_budget_goes_on_once_it_is_raised(place, model, tmp_path):
    with Server(model) as server:
        config = answered(place, server)
        config = replace(config, train=replace(config.train, steps=20))

        def within(most: int | None) -> RunConfig:
            asked = replace(config.rollout.endpoint, max_requests=most)
            return replace(config, rollout=replace(config.rollout, endpoint=asked))

        with pytest.raises(BudgetError, match="max_requests: 35"):
            carried_out(within(35), tmp_path / "run")
        posts = server.posts
        out = carried_out(within(50), tmp_path / "run").out
        assert server.posts == posts + 40 - 35
        whole = carried_out(within(None), tmp_path / "whole").out
    assert tree_digest(out / "student") == tree_digest(whole / "student")


@pytest.mark.parametrize("dies", [2, 3, 4])
def test_a_killed_run_goes_on_with_the_answers_it_had_and_ends_the_same(
    place, finished_runs, tmp_path, monkeypatch, dies
):
    config, undisturbed = finished_runs("on-policy")
    real = Trainer._step

    def step(self: Trainer, number: int) -> dict[str, Any]:
        if number == dies:
            raise KeyboardInterrupt
        return real(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            carried_out(config, tmp_path / "run")
    written = bytes_of(tmp_path / "run" / "rollouts")
    heard = Said()
    out = carried_out(config, tmp_path / "run", heard).out
    assert f"going on after step {dies - 1} of 4" in heard.sentences
    assert [row["loss"] for row in metrics(out)] == [row["loss"] for row in metrics(undisturbed)]
    assert tree_digest(out / "student") == tree_digest(undisturbed / "student")
    kept = bytes_of(out / "rollouts")
    shards = {name for name in written if name.endswith(".safetensors")}
    assert shards and all(kept[name] == written[name] for name in shards)
    stores = [Store.open(path / "rollouts" / "part-00000").sha256() for path in (out, undisturbed)]
    assert stores[0] == stores[1]


# What is measured on the way.


def test_glances_tasks_and_curves_beside_one_another(place, tmp_path):
    choices = ["by the river", "at market", "a small cask"]
    rows = [{"prompt": f"the miller {n}", "choices": choices, "answer": n % 3} for n in range(6)]
    task = rows_file(tmp_path / "where.jsonl", rows)
    config = brief(place)
    seen = replace(config.evaluate, every_steps=2, tasks=(str(task),))
    first = carried_out(replace(config, evaluate=seen), tmp_path / "first")
    glanced = {row["step"]: row["held_out"] for row in metrics(first.out) if "held_out" in row}
    assert sorted(glanced) == [2, 4]
    after = first.evaluation["after"]
    assert glanced[4]["kl"] == after["kl"] < glanced[2]["kl"] < first.evaluation["before"]["kl"]
    (curve,) = first.evaluation["held_out"]
    a_step = 4 * config.text.sequence_length
    assert curve["tokens"] == [0, 2 * a_step, 4 * a_step]
    assert curve["kl"] == [first.evaluation["before"]["kl"], glanced[2]["kl"], glanced[4]["kl"]]
    held, where = first.evaluation["comparison"]
    assert (held["measure"], where["measure"]) == ("bits per byte", "accuracy")
    assert where["low"] <= where["difference"] <= where["high"] and where["n"] == 6
    # A glance changes nothing of the training.
    unseen = carried_out(replace(config, seed=0), tmp_path / "unseen")
    assert tree_digest(first.out / "student") == tree_digest(unseen.out / "student")
    beside = replace(seen, beside=(str(first.out),), tasks=())
    second = carried_out(replace(config, seed=1, evaluate=beside), tmp_path / "second")
    assert [row["name"] for row in second.evaluation["held_out"]] == ["second", "first"]
    assert second.evaluation["held_out"][1] == curve
    assert all(name in second.page.read_text() for name in ("first", "second"))
