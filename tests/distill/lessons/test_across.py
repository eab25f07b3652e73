"""A teacher of another tokenizer is heard in one of three ways; what it cannot do is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import normalizers

from distill.errors import MismatchError
from distill.heads import logits
from distill.lessons.translation import spelt_alike, uncontradicted
from distill.loss import objective
from distill.loss.objective import ChunkLikelihood, CrossEntropy, Divergence, HiddenMatch, SortedL1
from distill.prepare import prepare
from distill.rollout.config import RolloutConfig
from distill.run import control_of
from distill.signals import Chunks, Hidden, Sparse
from distill.teachers.local import LocalTeacher
from distill.text.alignment import align
from distill.text.places import place as placed
from tests.fakes.sessions import (
    CPU,
    across,
    answers,
    called,
    carried_out,
    metrics,
    prompts_file,
    rows_file,
    session,
    small_config,
    stranger,
    tagged_file,
)
from tests.fakes.teachers import sentences, tiny_teacher

LIKELIEST = (Divergence(kind="forward_kl", weight=0.7), CrossEntropy(weight=0.3))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = tmp_path_factory.mktemp("across")
    tiny_teacher(made / "teacher")
    tiny_teacher(made / "second", seed=1)
    stranger(made / "stranger")
    return made


def translated(place, **changes):
    """Return a run whose teacher is heard by its likeliest tokens."""
    signal = replace(small_config(place).signal, mode="topk", head=12, translated=True)
    return across(place, **{"signal": signal, "loss": LIKELIEST} | changes)


def test_a_divergence_is_held_to_the_likeliest_tokens_that_both_spell_alike(place, tmp_path):
    ready = prepare(session(translated(place), tmp_path))
    (lesson,) = ready.lessons
    ((source, rows),) = lesson.train.voices
    windows, documents = ready.text.train, ready.text.train_documents
    length = windows.weights.shape[1]
    teacher = LocalTeacher("stranger", place / "stranger", device=CPU, dtype=torch.float32)
    streams = placed(documents, ready.tokenizer), placed(documents, teacher.tokenizer)
    aligned = align(windows, *streams)
    kept = uncontradicted(spelt_alike(teacher.tokenizer, ready.tokenizer), windows, aligned)
    window, inner = divmod(aligned.student_P, length)
    row = rows.of(window, inner)
    assert (row == np.arange(len(row))).all() and len(row) > 100
    said = source.at(torch.from_numpy(row), CPU)
    assert isinstance(said, Sparse)
    width = aligned.teacher.weights.shape[1]
    checked = 0
    for pair in range(0, len(row), 37):
        at, inner_at = divmod(int(aligned.teacher_P[pair]), width)
        token_BS = torch.from_numpy(aligned.teacher.tokens[at : at + 1, : inner_at + 1]).long()
        p_V = logits(teacher.hidden(token_BS)[0, -1:], teacher.head).softmax(-1)[0]
        wanted = {
            int(kept[token]): float(p_V[token])
            for token in p_V.topk(12).indices.tolist()
            if kept[token] >= 0
        }
        entries = zip(said.head_ids_NH[pair].tolist(), said.head_p_NH[pair].tolist(), strict=True)
        found = {token: p for token, p in entries if p > 0}
        assert found == pytest.approx(wanted, rel=2e-2)
        assert float(said.tail_mass_N[pair]) == pytest.approx(1 - sum(wanted.values()), abs=2e-2)
        checked += bool(wanted)
    assert checked > 3
    facts = lesson.vocabulary
    assert facts["tokens_translated"] == (kept >= 0).sum() <= facts["tokens_spelt_alike"]
    assert facts["alignment"]["chunks"] == len(aligned.size_C)


def test_a_run_learns_from_them_and_its_control_from_the_text_alone(place, tmp_path):
    carried_out(translated(place), tmp_path / "student")
    terms = metrics(tmp_path / "student")[-1]["terms"]
    assert terms["forward_kl"] > 0 and terms["cross_entropy"] > 0
    carried_out(control_of(tmp_path / "student", seed=9), tmp_path / "control")
    assert "forward_kl" not in metrics(tmp_path / "control")[-1]["terms"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": (*LIKELIEST, ChunkLikelihood())}, "and chunk_likelihood is not"),
        ({"loss": (*LIKELIEST, SortedL1())}, "and sorted_l1 is not"),
        ({"mode": "hidden"}, "set signal.mode: topk"),
        ({"loss": (Divergence(kind="forward_kl", temperature=2.0),)}, "temperature 2"),
        ({"mode": "hidden", "loss": (SortedL1(), HiddenMatch(kind="hidden_mse"))}, "hidden_mse"),
    ],
)
def test_terms_that_do_not_go_together_across_tokenizers_are_refused(
    place, tmp_path, changes, said
):
    made = translated(place)
    mode = changes.pop("mode", "topk")
    made = replace(made, signal=replace(made.signal, mode=mode), **changes)
    with pytest.raises(MismatchError, match=said):
        prepare(session(made, tmp_path))


def test_chunks_of_a_teacher_with_the_students_tokenizer_are_refused(place, tmp_path):
    made = across(place, teachers=(called(place, "teacher"),))
    with pytest.raises(MismatchError, match="chunk_likelihood is for a teacher of another tokeni"):
        prepare(session(made, tmp_path))


def test_what_is_kept_of_documents_without_chunks_is_in_the_lesson_and_its_stores(place, tmp_path):
    lower = LocalTeacher("stranger", place / "stranger", device=CPU, dtype=torch.float32)
    tiny_teacher(tmp_path / "lower", seed=5, vocab=300)
    lower.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    lower.tokenizer.save_pretrained(tmp_path / "lower")
    teachers = (replace(called(place, "stranger"), path=str(tmp_path / "lower")),)
    loss = SortedL1(), CrossEntropy()
    (lesson,) = prepare(session(across(place, teachers=teachers, loss=loss), tmp_path)).lessons
    assert [store.path.name for _, store in lesson.stores()] == ["chunks", "unaligned"]
    assert lesson.vocabulary["alignment"]["documents_without_chunks"]
    assert isinstance(lesson.train.voices[0][0].at(torch.tensor([0]), CPU), Hidden)


def test_a_teacher_of_another_tokenizer_is_heard_by_chunks(place, tmp_path):
    ready = prepare(session(across(place), tmp_path))
    (lesson,) = ready.lessons
    assert lesson.vocabulary["across_tokenizers"] and lesson.vocabulary["differing"] > 0
    assert lesson.held is None and lesson.width is None
    ((source, rows),) = lesson.train.voices
    windows, known = ready.text.train, ready.tokenizer
    length = windows.weights.shape[1]
    said = source.at(torch.from_numpy(rows.of(np.zeros(length, int), np.arange(length))), CPU)
    assert isinstance(said, Chunks)
    # The first chunk of the text, word for word: the teacher reads it alone, after its begin token.
    teacher = LocalTeacher("stranger", place / "stranger", device=CPU, dtype=torch.float32)
    (mine,) = torch.nonzero(said.chunk_N == 0, as_tuple=True)
    piece = known.decode(windows.tokens[0, 1:][mine.numpy()])
    before = known.decode(windows.tokens[0, 1 : 1 + int(mine[0])])
    theirs = teacher.tokenizer(before + piece + " ", add_special_tokens=False)["input_ids"]
    ends = [len(teacher.tokenizer.decode(theirs[: n + 1])) for n in range(len(theirs))]
    first, last = ends.index(len(before)) + 1 if before else 0, ends.index(len(before + piece)) + 1
    token_BS = torch.tensor([[teacher.tokenizer.bos_token_id, *theirs]])
    logp_NV = logits(teacher.hidden(token_BS)[0], teacher.head).log_softmax(-1)
    wanted = sum(float(logp_NV[n, theirs[n]]) for n in range(first, last))
    assert float(said.logp_C[0]) == pytest.approx(wanted, abs=1e-3)


def test_without_a_term_across_tokenizers_another_tokenizer_is_refused(place, tmp_path):
    with pytest.raises(MismatchError, match="'stranger' and the student mean different things"):
        prepare(session(across(place, loss=objective.DEFAULT), tmp_path))


def test_across_tokenizers_what_is_not_plain_text_for_one_teacher_is_refused(place, tmp_path):
    turns = [
        {"role": "user", "content": sentences(2, 1)},
        {"role": "assistant", "content": sentences(6, 2)},
    ]
    chats = rows_file(tmp_path / "chats.jsonl", [{"messages": turns, "id": n} for n in range(12)])
    prompts = prompts_file(tmp_path / "prompts.jsonl")
    alone, second = called(place, "stranger"), called(place, "second")
    one_tag = tagged_file(tmp_path / "one.jsonl", "a", each=10)
    kept = across(place).text
    for changes in (
        {"text": replace(kept, sources=(str(chats),))},
        {
            "text": replace(kept, sources=(str(one_tag),)),
            "teachers": (replace(alone, tags=("a",)),),
        },
        {"teachers": (alone, second)},
        {"teachers": (replace(alone, answers=answers(prompts)),)},
    ):
        signal = replace(small_config(place).signal, mode="hidden")
        with pytest.raises(MismatchError, match=r"has another tokenizer .* reads plain text alone"):
            prepare(session(across(place, signal=signal, **changes), tmp_path / "run"))


def test_across_tokenizers_no_teacher_reads_what_the_student_writes(place, tmp_path):
    writes = RolloutConfig(fraction=0.5, max_new_tokens=4, prompt_tokens=4)
    with pytest.raises(MismatchError, match="cannot read what the student writes"):
        prepare(session(across(place, rollout=writes), tmp_path))
