"""Every teacher says what it has to say of the windows it teaches, once, and of no others."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from distill.batches import Reading
from distill.errors import MismatchError
from distill.heads import logits
from distill.lessons import hearing
from distill.lessons.curriculum import shares
from distill.lessons.lesson import routes
from distill.loss import objective
from distill.prepare import prepare
from distill.rollout.config import RolloutConfig
from distill.signals import Hidden, Mixture, Sparse
from distill.store.capture import Worker
from distill.store.store import Store
from distill.teachers.local import LocalTeacher
from distill.text import chat
from tests.fakes.endpoints import Server, TinyModel
from tests.fakes.files import bytes_of
from tests.fakes.sessions import (
    CPU,
    across,
    called,
    everywhere,
    rows_file,
    served_teacher,
    session,
    small_config,
    spoken,
    stranger,
    tagged_file,
    texts,
    with_tokenizer,
)
from tests.fakes.teachers import tiny_teacher, tiny_tokenizer

ALONE = (objective.CrossEntropy(),)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = tmp_path_factory.mktemp("hearing")
    tiny_teacher(made / "teacher")
    tiny_teacher(made / "second", seed=1)
    stranger(made / "stranger")
    tagged_file(made / "tagged.jsonl", "ab", each=10)
    return made


def config(place, **changes):
    return small_config(place, **changes)


def text_of(place, source, **changes):
    return replace(small_config(place).text, sources=(str(source),), **changes)


@pytest.fixture
def asked(monkeypatch):
    """How many windows each teacher read, by its name."""
    counts: dict[str, int] = {}
    real = LocalTeacher.hidden

    def hidden(self, token_BS, start_BS=None):
        counts[self.name] = counts.get(self.name, 0) + len(token_BS)
        return real(self, token_BS, start_BS)

    monkeypatch.setattr(LocalTeacher, "hidden", hidden)
    return counts


# One teacher on disk.


@pytest.mark.parametrize("mode", ["head_tail", "topk", "sampled", "hidden"])
def test_the_signal_at_every_position_is_what_the_teacher_says_there(place, tmp_path, mode):
    signal = replace(small_config(place).signal, mode=mode, tail=250 if mode == "sampled" else 4)
    ready = prepare(session(config(place, signal=signal), tmp_path))
    (lesson,), windows = ready.lessons, ready.text.train
    ((source, rows),) = lesson.train.voices
    said = everywhere(source, rows, windows)
    p_NV = spoken(place / "teacher", windows).exp()
    assert lesson.tokens == windows.weights.size == len(p_NV)
    if mode == "hidden":
        assert isinstance(said, Hidden)
        assert torch.allclose(logits(said.states_NT, said.head).softmax(-1), p_NV, atol=1e-5)
        return
    assert isinstance(said, Sparse)
    if mode == "sampled":
        ids_NK, weights_NK = said.targets()
        surprise_N = -(weights_NK * p_NV.log().gather(1, ids_NK)).sum(-1)
        entropy_N = -(p_NV * p_NV.log()).sum(-1)
        assert torch.allclose(said.entropy_N, entropy_N, atol=2e-3)
        # By chance alone 0.003 or so; what is drawn at another position surprises by nats.
        assert abs(float((surprise_N - entropy_N).mean())) < 0.02
        return
    best = p_NV.topk(8)
    assert torch.allclose(said.head_p_NH.sort(descending=True).values, best.values, atol=2e-3)
    assert torch.allclose(said.head_p_NH, p_NV.gather(1, said.head_ids_NH), atol=2e-3)
    assert said.tail_ids_NR.shape[1] == (4 if mode == "head_tail" else 0)


def test_held_out_text_is_heard_exactly_whatever_the_mode(place, tmp_path):
    ready = prepare(session(config(place), tmp_path))
    ((source, rows),) = ready.lessons[0].held.voices
    said = everywhere(source, rows, ready.text.held)
    assert isinstance(said, Hidden)
    logp_NV = spoken(place / "teacher", ready.text.held)
    assert torch.allclose(logits(said.states_NT, said.head).log_softmax(-1), logp_NV, atol=1e-4)


def test_a_document_kept_apart_is_heard_as_if_alone(place, tmp_path):
    text = replace(small_config(place).text, documents="apart")
    signal = replace(small_config(place).signal, mode="hidden")
    ready = prepare(session(config(place, text=text, signal=signal), tmp_path))
    windows = ready.text.train
    assert len(windows.lengths()) > len(windows.tokens)
    ((source, rows),) = ready.lessons[0].train.voices
    said = everywhere(source, rows, windows)
    made_NV = logits(said.states_NT, said.head).log_softmax(-1)
    assert torch.allclose(made_NV, spoken(place / "teacher", windows), atol=1e-4)


@pytest.mark.parametrize("form", ["text", "chat"])
def test_held_out_prompts_are_put_in_the_form_that_is_asked_for(place, tmp_path, form):
    prompts = replace(small_config(place).text, sources=("prompts",))
    wanted = replace(small_config(place).evaluate, samples=4, sample_tokens=3, sample_form=form)
    ready = prepare(session(config(place, text=prompts, evaluate=wanted), tmp_path))
    shown = [row["prompt"] for row in ready.lessons[0].samples]
    begun = [
        prompt + "\n\n"
        if form == "text"
        else chat.begin(ready.tokenizer, ({"role": "user", "content": prompt},))
        for prompt in ready.text.prompts[:2]
    ]
    assert shown[:2] == begun
    assert shown[2:] == [ready.text.passages[0].prompt, ready.text.passages[-1].prompt]


def test_what_was_said_is_not_asked_again(place, tmp_path, asked, monkeypatch):
    task = rows_file(place / "sums.jsonl", [{"prompt": "one and one", "answer": "two"}])
    wanted = replace(small_config(place).evaluate, tasks=(str(task),))
    run = session(config(place, evaluate=wanted), tmp_path)
    first = prepare(run)
    before = bytes_of(tmp_path / "signals")
    asked.clear()

    def refuse(*arguments, **named):
        raise AssertionError("was asked again")

    monkeypatch.setattr(hearing.tasks, "ask", refuse)
    monkeypatch.setattr(hearing, "answer", refuse)
    again = prepare(run)
    # A teacher is opened, which reads a few tokens to see its head.
    assert asked["tiny"] <= 1
    after = bytes_of(tmp_path / "signals")
    assert {name: kept for name, (kept, _) in after.items()} == {
        name: kept for name, (kept, _) in before.items()
    }
    (one,), (other,) = first.lessons, again.lessons
    assert one.samples == other.samples and one.samples[0]["teacher"]
    assert one.tasks == other.tasks and len(one.tasks[0]) == 1
    assert one.train.stores[0].sha256() == other.train.stores[0].sha256()


def test_a_changed_task_is_asked_anew(place, tmp_path):
    def answered(rows):
        rows_file(tmp_path / "sums.jsonl", rows)
        wanted = replace(small_config(place).evaluate, tasks=(str(tmp_path / "sums.jsonl"),))
        found = prepare(session(config(place, evaluate=wanted), tmp_path / "run"))
        return [answer.id for answer in found.lessons[0].tasks[0]]

    row = {"prompt": "one and one", "answer": "two"}
    assert answered([row]) == ["1"]
    assert answered([row, row]) == ["1", "2"]


def test_a_head_as_wide_as_the_vocabulary_is_refused(place, tmp_path):
    signal = replace(small_config(place).signal, head=320)
    with pytest.raises(
        MismatchError, match=r"signal\.head is 320, but the vocabulary has only 320"
    ):
        prepare(session(config(place, signal=signal), tmp_path))


def test_a_control_hears_held_out_text_alone(place, tmp_path):
    ready = prepare(session(config(place, loss=ALONE), tmp_path))
    (lesson,) = ready.lessons
    assert lesson.train is None and lesson.held is not None
    assert (lesson.tokens, lesson.tokens_read, lesson.seconds) == (0, 0, 0.0)
    assert not (tmp_path / "signals" / "tiny" / "train").exists()


def test_a_teacher_stays_only_where_the_student_writes_and_has_one(place, tmp_path):
    writes = RolloutConfig(fraction=0.5, max_new_tokens=4, prompt_tokens=4)
    made = config(place, rollout=writes)
    assert prepare(session(made, tmp_path)).lessons[0].live is not None
    off = replace(made, rollout=RolloutConfig())
    assert prepare(session(off, tmp_path)).lessons[0].live is None


# Several.


@pytest.fixture(scope="module")
def tagged(place, tmp_path_factory):
    """Two teachers, each of its own tag."""
    teachers = called(place, "teacher", tags=("a",)), called(place, "second", tags=("b",))
    made = config(place, teachers=teachers, text=text_of(place, place / "tagged.jsonl"))
    return prepare(session(made, tmp_path_factory.mktemp("tagged")))


def test_teachers_with_tags_are_asked_about_their_own_windows_alone(tagged):
    windows = tagged.text.train
    known = tiny_tokenizer()
    every = {
        tag: [known.decode(row) for row in windows.tokens[windows.tag == tag]] for tag in (0, 1)
    }
    for tag, lesson in enumerate(tagged.lessons):
        assert texts(lesson.train.stores[0], known) == every[tag]
        ((_, rows),) = lesson.train.voices
        first_W = rows.first_W
        assert ((first_W >= 0) == (windows.tag == tag)).all()
    held = tagged.text.held
    for tag, lesson in enumerate(tagged.lessons):
        mine = [known.decode(row) for row in held.tokens[held.tag == tag]]
        assert texts(lesson.held.stores[0], known) == mine
    assert every[0] and every[1] and not set(every[0]) & set(every[1])


def test_each_says_at_its_windows_what_it_says(place, tagged):
    windows = tagged.text.train
    for tag, (name, lesson) in enumerate(zip(("teacher", "second"), tagged.lessons, strict=True)):
        (mine,) = np.nonzero(windows.tag == tag)
        ((source, rows),) = lesson.train.voices
        length = windows.weights.shape[1]
        row_N = rows.of(mine.repeat(length), np.tile(np.arange(length), len(mine)))
        said = source.at(torch.from_numpy(row_N), CPU)
        p_NV = spoken(place / name, windows.take(mine)).exp()
        assert torch.allclose(said.head_p_NH, p_NV.gather(1, said.head_ids_NH), atol=2e-3)


def test_a_tag_none_of_a_few_held_out_windows_has_keeps_its_teacher(place, tmp_path):
    source = tagged_file(tmp_path / "three.jsonl", "abc", each=8)
    teachers = tuple(called(place, "teacher", tags=(tag,)) for tag in "abc")
    named = tuple(replace(one, name=one.tags[0]) for one in teachers)
    wanted = replace(small_config(place).evaluate, tokens=64)
    made = config(place, teachers=named, text=text_of(place, source), evaluate=wanted)
    ready = prepare(session(made, tmp_path / "run"))
    assert sorted(set(ready.text.held.tag.tolist())) == [0, 2]
    assert [len(lesson.train.stores[0].shards) > 0 for lesson in ready.lessons] == [True] * 3
    assert ready.lessons[1].held.stores[0].tokens == 0


def test_a_mixture_is_the_weighted_mean_of_probabilities(place, tmp_path):
    teachers = called(place, "teacher", weight=3.0), called(place, "second", weight=1.0)
    signal = replace(small_config(place).signal, mode="hidden")
    made = config(place, teachers=teachers, signal=signal)
    ready = prepare(session(made, tmp_path))
    said = [lesson.train for lesson in ready.lessons]
    windows = ready.text.train
    reading = Reading(windows, routes(said, shares(made, ready.text, windows)), size=3)
    chosen = reading.chosen(1)
    (part,) = reading.of(chosen).parts
    signal = part.signal(CPU)
    assert isinstance(signal, Mixture)
    mixed_MV = sum(w * logits(one.states_NT, one.head).softmax(-1) for w, one in signal.parts)
    each = [spoken(place / name, windows.take(chosen)).exp() for name in ("teacher", "second")]
    wanted_MV = (0.75 * each[0] + 0.25 * each[1])[part.at_M]
    assert torch.allclose(mixed_MV, wanted_MV, atol=1e-5)
    assert not torch.allclose(each[0], each[1], atol=0.1)


def test_a_mixture_of_anything_but_hidden_states_is_refused_before_anything_is_heard(
    place, tmp_path
):
    teachers = called(place, "teacher"), called(place, "second")
    with pytest.raises(MismatchError, match=r"signal\.mode head_tail cannot be mixed"):
        prepare(session(config(place, teachers=teachers), tmp_path))
    signal = replace(small_config(place).signal, mode="hidden")
    with Server(TinyModel(place / "teacher")) as server:
        far = served_teacher(server, says="prompt_logprobs")
        made = config(place, teachers=(called(place, "teacher"), far), signal=signal)
        with pytest.raises(MismatchError, match="'far' is served and gives no hidden states"):
            prepare(session(made, tmp_path))
        assert server.posts == 0
    assert not (tmp_path / "signals").exists()


# Vocabularies of one family.


def test_heads_padded_to_other_sizes_are_aligned_and_that_is_recorded(place, tmp_path):
    padded = shutil.copytree(place / "teacher", tmp_path / "padded")
    model = AutoModelForCausalLM.from_pretrained(padded)
    model.resize_token_embeddings(352, mean_resizing=False)
    model.save_pretrained(padded)
    first = replace(called(place, "teacher"), name="padded", path=str(padded))
    signal = replace(small_config(place).signal, mode="hidden")
    made = config(place, teachers=(first, called(place, "second")), signal=signal)
    ready = prepare(session(made, tmp_path / "run"))
    assert ready.vocabulary.size == 352
    wide, narrow = ready.lessons
    assert (wide.vocabulary["teacher_rows"], wide.vocabulary["student_rows"]) == (352, 352)
    assert (wide.vocabulary["agreed"], wide.vocabulary["unnamed"]) == (320, 32)
    assert (narrow.vocabulary["teacher_rows"], narrow.vocabulary["common"]) == (320, 320)
    ((source, rows),) = narrow.train.voices
    said = everywhere(source, rows, ready.text.train)
    p_NV = logits(said.states_NT, said.head).softmax(-1)
    assert p_NV.shape[1] == 352 and not p_NV[:, 320:].any()
    theirs = spoken(place / "second", ready.text.train).exp()
    assert torch.allclose(p_NV[:, :320], theirs, atol=1e-5)
    ((source, rows),) = narrow.held.voices
    assert len(everywhere(source, rows, ready.text.held).head.weight_VT) == 352


def test_a_wider_head_than_the_students_is_cut(place, tmp_path):
    padded = shutil.copytree(place / "teacher", tmp_path / "padded")
    model = AutoModelForCausalLM.from_pretrained(padded)
    model.resize_token_embeddings(352, mean_resizing=False)
    model.save_pretrained(padded)
    alone = replace(called(place, "teacher"), path=str(padded))
    signal = replace(small_config(place).signal, mode="hidden")
    made = with_tokenizer(config(place, teachers=(alone,), signal=signal), place / "second")
    ready = prepare(session(made, tmp_path / "run"))
    assert ready.vocabulary.size == 320
    found = ready.lessons[0].vocabulary
    assert (found["teacher_rows"], found["student_rows"], found["common"]) == (352, 320, 320)
    ((source, rows),) = ready.lessons[0].train.voices
    said = everywhere(source, rows, ready.text.train)
    cut_NV = spoken(padded, ready.text.train)[:, :320].log_softmax(-1)
    made_NV = logits(said.states_NT, said.head).log_softmax(-1)
    assert torch.allclose(made_NV, cut_NV, atol=1e-4)


def test_a_teacher_without_a_token_of_the_text_is_refused(place, tmp_path):
    few = tiny_teacher(tmp_path / "few", vocab=300)  # the first merges of the other
    alone = replace(called(place, "teacher"), name="few", path=str(few))
    made = with_tokenizer(config(place, teachers=(alone,)), place / "teacher")
    with pytest.raises(
        MismatchError, match=r"'few' has 300 tokens, but the text holds token 3\d\d"
    ):
        prepare(session(made, tmp_path / "run"))


@pytest.mark.parametrize(("several", "moved"), [(True, 2), (False, 0)])
def test_several_teachers_that_read_on_wait_on_the_host(
    place, tmp_path, monkeypatch, several, moved
):
    moves = []
    monkeypatch.setattr(LocalTeacher, "move", lambda self, device: moves.append(str(device)))
    writes = RolloutConfig(fraction=0.5, max_new_tokens=4, prompt_tokens=4)
    teachers = (called(place, "teacher", tags=("a",)), called(place, "second", tags=("b",)))
    text = text_of(place, place / "tagged.jsonl")
    tagged = config(place, teachers=teachers, text=text, rollout=writes)
    made = tagged if several else config(place, rollout=writes)
    lessons = prepare(session(made, tmp_path)).lessons
    assert moves == ["cpu"] * moved
    assert all(lesson.live is not None for lesson in lessons)


# Several workers.


@pytest.mark.parametrize("what", ["same tokenizer", "across tokenizers"])
def test_two_workers_leave_what_one_would(place, tmp_path, what):
    made = config(place) if what == "same tokenizer" else across(place)

    def shared(name, worker=None):
        there = replace(made, signal=replace(made.signal, path=str(tmp_path / name)))
        more = {} if worker is None else {"worker": worker}
        (lesson,) = prepare(session(there, tmp_path / name, **more)).lessons
        return lesson.train.stores[0]

    alone = shared("alone")
    part = shared("two", Worker(rank=1, of=2))
    assert part.tokens == 0 and list(part.path.glob("shard-*.safetensors"))  # the first is missing
    shared("two", Worker(rank=0, of=2))
    both = Store.open(part.path)
    assert [shard.sha256 for shard in both.shards] == [shard.sha256 for shard in alone.shards]
    assert len(both.shards) > 1


def test_what_is_not_shared_is_the_first_workers(place, tmp_path):
    def samples(rank):
        return prepare(session(config(place), tmp_path, worker=Worker(rank=rank, of=2))).lessons[0]

    assert samples(1).samples == []
    assert not (tmp_path / "config.yaml").exists() and not (tmp_path / "heldout.jsonl").exists()
    assert not (tmp_path / "signals" / "tiny" / "samples.json").exists()
    assert samples(0).samples
    assert (tmp_path / "config.yaml").exists() and (tmp_path / "heldout.jsonl").exists()


# A served teacher.


def test_a_served_teachers_scores_are_what_the_model_says(place, tmp_path):
    with Server(TinyModel(place / "teacher")) as server:
        far = served_teacher(server, says="prompt_logprobs", top=6)
        made = with_tokenizer(config(place, teachers=(far,)), place / "teacher")
        ready = prepare(session(made, tmp_path))
        posts = server.posts
        again = prepare(session(made, tmp_path))
        assert server.posts == posts
    (lesson,) = ready.lessons
    assert (lesson.model, lesson.path, lesson.held) == ("tiny", None, None)
    ((source, rows),) = lesson.train.voices
    said = everywhere(source, rows, ready.text.train)
    p_NV = spoken(place / "teacher", ready.text.train).exp()
    assert torch.allclose(
        said.head_p_NH.sum(-1) + said.tail_mass_N, torch.ones(len(p_NV)), atol=2e-3
    )
    used = said.head_p_NH > 0
    assert torch.allclose(said.head_p_NH[used], p_NV.gather(1, said.head_ids_NH)[used], atol=2e-3)
    assert int(used.sum(-1).min()) >= 6
    assert lesson.asked.read > ready.text.train.tokens.size
    assert again.lessons[0].asked == lesson.asked and again.lessons[0].sha256 == lesson.sha256
    assert json.loads((tmp_path / "signals/far/preflight.json").read_text())["model"] == "tiny"
