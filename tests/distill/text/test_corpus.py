"""Text becomes windows without losing, inventing or leaking a token."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

from distill.errors import InputError
from distill.teachers.local import LocalTeacher
from distill.text import chat, sources
from distill.text.corpus import Windows, at_most, evenly, pack, passages, split, text_digest
from distill.text.sources import Document
from student.documents import Documents
from student.vocabulary import Vocabulary
from tests.fakes.students import CPU, MLA, stirred
from tests.fakes.teachers import documents_file, sentences, tiny_teacher, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def documents(count: int, length: int = 6) -> list[Document]:
    return [Document(id=f"doc/{n}", text=sentences(length, n)) for n in range(count)]


def chats(count: int) -> list[Document]:
    said = [(sentences(2, n), sentences(3, 1000 + n)) for n in range(count)]
    return [
        Document(
            id=f"chats/{n}",
            text=f"{asked}\n\n{answer}",
            messages=({"role": "user", "content": asked}, {"role": "assistant", "content": answer}),
        )
        for n, (asked, answer) in enumerate(said)
    ]


def encoded(tokenizer, document: Document) -> list[int]:
    return tokenizer(document.text, add_special_tokens=False)["input_ids"]


def test_the_split_depends_on_names_and_not_on_order_or_text():
    before = documents(200)
    train, held = split(before, 0.15)
    assert (len(train), len(held)) == (170, 30)
    changed = [Document(id=d.id, text="other") for d in reversed(before)]
    _, held_again = split(changed, 0.15)
    assert {d.id for d in held_again} == {d.id for d in held}


def test_documents_of_one_name_stay_on_one_side():
    twice = [*documents(20), *documents(20)]
    train, held = split(twice, 0.2)
    assert (len(train), len(held)) == (32, 8)
    assert not {d.id for d in train} & {d.id for d in held}


def test_every_source_gives_its_share_to_the_held_out_side():
    other = [Document(id=f"other/{n}", text="x") for n in range(20)]
    _, held = split([*documents(200), *other], 0.1)
    assert sum(d.id.startswith("other/") for d in held) == 2


def test_passages_are_taken_from_documents_in_turn(tokenizer):
    long, short = "cask " * 4000, "river " * 90
    texts = [Document(id="a/long", text=long), Document(id="a/short", text=short)]
    size = len(tokenizer("river " * 90, add_special_tokens=False)["input_ids"]) // 3
    cut = passages(texts, tokenizer, count=5, prompt=size - 4, continuation=4)
    taken = [passage.document for passage in cut]
    assert taken.count("a/short") == 2
    assert taken.count("a/long") == 3


def test_a_larger_share_holds_out_more_of_the_same_documents():
    small, large = (split(documents(200), share)[1] for share in (0.1, 0.3))
    assert {d.id for d in small} < {d.id for d in large}


def test_a_split_with_an_empty_side_is_refused():
    with pytest.raises(InputError, match="no document fell on the held-out side of 1"):
        split([Document(id="doc/0", text="x")], 1e-9)


def test_windows_put_end_to_end_are_the_text(tokenizer):
    texts = documents(9)
    windows = pack(texts, tokenizer, 16)
    stream = [t for d in texts for t in (tokenizer.bos_token_id, *encoded(tokenizer, d))]
    inputs = windows.tokens[:, :-1].reshape(-1)
    targets = windows.tokens[:, 1:].reshape(-1)
    assert inputs.tolist() == stream[: len(inputs)]
    assert targets.tolist() == stream[1 : len(inputs) + 1]
    assert len(stream) - len(inputs) <= 16
    assert windows.tokens.dtype == np.int32


def test_the_begin_token_of_a_document_is_never_a_target_and_all_else_is(tokenizer):
    windows = pack(documents(9), tokenizer, 16)
    begins = windows.tokens[:, 1:] == tokenizer.bos_token_id
    assert begins.sum() == 8  # of nine documents the first begins the stream
    assert np.array_equal(windows.weights, np.where(begins, 0.0, 1.0))
    assert not windows.sizes[begins].any()


def test_bytes_of_the_windows_are_those_of_the_text(tokenizer):
    texts = documents(9)
    whole = "".join(d.text for d in texts)
    tokens = sum(len(encoded(tokenizer, d)) + 1 for d in texts)
    windows = pack(texts, tokenizer, tokens - 1)  # one window that leaves nothing over
    assert windows.weights.shape == (1, tokens - 1)
    assert windows.sizes.sum() == pytest.approx(len(whole.encode()))


def test_bytes_are_utf_8_and_not_characters(tokenizer):
    document = Document(id="d", text="über 漢字 " * 8)
    tokens = len(encoded(tokenizer, document))
    windows = pack([document], tokenizer, tokens)
    assert windows.sizes.sum() == pytest.approx(len(document.text.encode()))
    assert windows.sizes.sum() > len(document.text)


def test_a_begin_token_inside_a_text_is_no_target_either(tokenizer):
    text = Document(id="d", text=sentences(3, 0) + "<s>" + sentences(3, 1))
    windows = pack([text], tokenizer, 16)
    begins = windows.tokens[:, 1:] == tokenizer.bos_token_id
    assert begins.sum() == 1
    assert np.array_equal(windows.weights, np.where(begins, 0.0, 1.0))


def test_every_target_knows_its_document(tokenizer):
    texts = documents(9)
    windows = pack(texts, tokenizer, 16)
    of = [n for n, d in enumerate(texts) for _ in range(len(encoded(tokenizer, d)) + 1)]
    assert windows.document.dtype == np.int32
    assert windows.document.reshape(-1).tolist() == of[1 : windows.document.size + 1]


def test_windows_of_joined_documents_are_one_stretch_of_context_each(tokenizer):
    windows = pack(documents(9), tokenizer, 16)
    assert windows.lengths() == (16,) * len(windows.tokens)
    assert windows.starts.sum() == len(windows.tokens)


def test_documents_kept_apart_are_the_same_windows_with_more_beginnings(tokenizer):
    joined, apart = (pack(documents(9), tokenizer, 16, apart=a) for a in (False, True))
    for name in ("tokens", "weights", "sizes", "document", "tag"):
        assert np.array_equal(getattr(joined, name), getattr(apart, name))
    begins = apart.tokens[:, :-1] == tokenizer.bos_token_id
    begins[:, 0] = True
    assert np.array_equal(apart.starts, begins)
    assert sum(apart.lengths()) == apart.weights.size
    places = np.cumsum((0, *apart.lengths()))[:-1]
    assert np.array_equal(places, np.flatnonzero(begins))


def test_what_is_read_of_a_document_kept_apart_is_what_is_read_of_it_alone(tmp_path):
    teacher = LocalTeacher("t", tiny_teacher(tmp_path / "t"), device=CPU, dtype=torch.float32)
    windows = pack(documents(5), teacher.tokenizer, 32, apart=True)
    tokens_WS = torch.from_numpy(windows.tokens[:, :-1]).long()
    pieces = tokens_WS.flatten().split(list(windows.lengths()))
    assert len(pieces) > len(tokens_WS) > 2
    for kind in ("eager", "sdpa"):
        teacher.model.set_attn_implementation(kind)
        together = teacher.hidden(tokens_WS, torch.from_numpy(windows.starts)).flatten(0, 1)
        alone = torch.cat([teacher.hidden(piece[None])[0] for piece in pieces])
        assert torch.allclose(together, alone, atol=1e-5)
        assert not torch.allclose(teacher.hidden(tokens_WS).flatten(0, 1), alone, atol=1e-2)
    student = stirred(MLA, vocabulary=Vocabulary(size=320, bos=0, eos=1))
    together = student(tokens_WS.flatten(), Documents(windows.lengths(), CPU)).hidden_ND
    alone = [student(piece, Documents([len(piece)], CPU)).hidden_ND for piece in pieces]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_of_chats_only_the_assistants_tokens_are_targets(tokenizer):
    talks = chats(7)
    windows = pack(talks, tokenizer, 16)
    made = [chat.encode(tokenizer, talk) for talk in talks]
    stream = [token for each in made for token in each.ids.tolist()]  # each begins by itself
    counted = [bool(counts) for each in made for counts in each.counted]
    sizes = [size for each in made for size in each.sizes]
    found = {tuple(row): n for n, row in enumerate(windows.tokens.tolist())}
    left_out = 0
    for start in range(0, len(stream) - 16, 16):
        target = slice(start + 1, start + 17)
        place = found.get(tuple(stream[start : start + 17]))
        if place is None:
            assert not any(counted[target])
            left_out += 1
        else:
            assert windows.weights[place].tolist() == counted[target]
            assert windows.sizes[place].tolist() == sizes[target]
    assert left_out > 0


def test_a_chat_is_opened_by_the_begin_token_unless_its_template_does(tokenizer):
    bare = tiny_tokenizer()
    bare.chat_template = bare.chat_template.replace("{{ bos_token }}", "")
    for each in (tokenizer, bare):
        windows = pack(chats(9), each, 128, apart=True)
        row, column = np.nonzero(windows.starts & (np.arange(128) > 0))
        assert len(row) >= 7
        assert (windows.tokens[row, column] == each.bos_token_id).all()
        assert (windows.tokens[row, column + 1] != each.bos_token_id).all()
        assert not windows.weights[windows.tokens[:, 1:] == each.bos_token_id].any()


def test_chats_in_whose_whole_windows_nobody_learns_anything_are_refused(tokenizer):
    asked = {"role": "user", "content": sentences(30, 0)}
    talk = Document(id="chats/0", text="", messages=(asked, {"role": "assistant", "content": "no"}))
    length = (len(chat.encode(tokenizer, talk).ids) - 4) // 3  # the answer is past the last window
    with pytest.raises(InputError, match="of the 1 documents holds anything to learn; give more"):
        pack([talk], tokenizer, length)


def test_each_tag_has_windows_of_its_own_and_the_others_come_last(tokenizer):
    texts = [
        Document(id=f"doc/{n}", text=sentences(6, n), tag=("a", "b", "c")[n % 3]) for n in range(12)
    ]
    windows = pack(texts, tokenizer, 16, tags=("c", "a"))
    assert sorted(set(windows.tag.tolist())) == [-1, 0, 1]
    assert windows.tag.tolist() == sorted(windows.tag.tolist(), key=lambda tag: tag % 3)
    for number, tag in ((0, "c"), (1, "a"), (-1, "b")):
        mine = windows.take(np.flatnonzero(windows.tag == number))
        alone = pack([d for d in texts if d.tag == tag], tokenizer, 16)
        assert np.array_equal(mine.tokens, alone.tokens)
        assert {texts[place].tag for place in mine.document.reshape(-1)} == {tag}
    assert (pack(texts, tokenizer, 16).tag == -1).all()


def test_a_tag_with_too_little_text_is_named(tokenizer):
    texts = [Document(id="doc/0", text="short", tag="a"), *documents(5)]
    with pytest.raises(InputError, match="1 documents of tag 'a' hold"):
        pack(texts, tokenizer, 16, tags=("a",))
    with pytest.raises(InputError, match="0 documents of tag 'b' hold 0 tokens"):
        pack(texts, tokenizer, 16, tags=("b",))
    with pytest.raises(InputError, match="1 documents of no such tag hold"):
        pack([*documents(5), texts[0]], tokenizer, 16, tags=("",))


def test_taking_windows_keeps_their_parts_together(tokenizer):
    windows = pack(documents(9), tokenizer, 16, apart=True)
    some = windows.take(np.array([3, 1]))
    for name in ("tokens", "weights", "sizes", "starts", "document", "tag"):
        assert np.array_equal(getattr(some, name), getattr(windows, name)[[3, 1]])
    assert some.sha256() != windows.sha256()
    assert windows.take(np.arange(len(windows.tokens))).sha256() == windows.sha256()


def test_the_digest_of_windows_is_that_of_their_tokens_in_one_piece(monkeypatch, tokenizer):
    windows = pack(documents(9), tokenizer, 16)
    whole = windows.sha256()
    monkeypatch.setattr("distill.text.corpus._ROWS", 4)
    assert len(windows.tokens) > 4
    assert windows.sha256() == whole


def test_windows_made_of_tokens_alone_are_a_document_each():
    weights = np.ones((3, 4), dtype=np.float32)
    windows = Windows(tokens=np.zeros((3, 5), np.int32), weights=weights, sizes=np.ones((3, 4)))
    assert windows.lengths() == (4, 4, 4)
    assert windows.document.tolist() == [[0] * 4, [1] * 4, [2] * 4]
    assert windows.tag.tolist() == [-1, -1, -1]


def test_too_little_text_for_a_window_is_refused(tokenizer):
    with pytest.raises(InputError, match="less than one window of 4097; give more text"):
        pack(documents(1), tokenizer, 4096)


def test_a_tokenizer_without_a_begin_token_is_refused():
    nameless = tiny_tokenizer()
    nameless.bos_token = None
    with pytest.raises(InputError, match="names no begin token; add bos_token to its tokenizer_c"):
        pack(documents(9), nameless, 16)


def test_the_digest_of_text_sees_names_contents_and_order():
    a, b = documents(2)
    digests = [
        text_digest([a, b]),
        text_digest([b, a]),
        text_digest([a]),
        text_digest([a, Document(id=b.id, text=b.text + " ")]),
        text_digest([a, Document(id="other", text=b.text)]),
    ]
    digests += [text_digest([a, talk]) for talk in chats(1)]
    said = chats(1)[0]
    roles = tuple({**m, "role": "assistant"} for m in said.messages)
    for messages, tools in ((roles, ()), (said.messages, ({"name": "look"},)), ((), ())):
        changed = Document(id=said.id, text=said.text, messages=messages, tools=tools)
        digests.append(text_digest([a, changed]))
    assert len(set(digests)) == 9
    assert text_digest(documents(2)) == digests[0]


@pytest.mark.parametrize(("count", "limit"), [(10, 3), (10, 10), (10, 99), (1, 5), (7, 1), (3, 2)])
def test_evenly_chosen_places_are_different_and_in_range(count, limit):
    chosen = evenly(count, limit)
    assert len(chosen) == min(count, limit)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert chosen[0] == 0
    assert chosen[-1] == (count - 1 if limit > 1 else 0)


def tokens_of(documents: list[Document], tokenizer) -> list[int]:
    texts = [document.text for document in documents]
    return [1 + len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def test_of_each_source_at_most_so_many_tokens_are_kept_and_their_order_stays(tokenizer):
    few = [replace(one, id=f"few/{n}") for n, one in enumerate(documents(2))]
    everything = [*documents(30), *few]
    kept = at_most(everything, tokenizer, 1000)
    assert [one for one in everything if one in kept] == kept
    assert kept[-2:] == few  # which hold fewer
    longest = max(tokens_of(documents(30), tokenizer))
    assert 1000 - longest <= sum(tokens_of(kept[:-2], tokenizer)) <= 1000
    assert at_most(everything[::-1], tokenizer, 1000) == kept[::-1]


def test_a_source_whose_documents_are_all_longer_keeps_one(tokenizer):
    assert len(at_most(documents(9), tokenizer, 1)) == 1
    assert at_most(documents(9), tokenizer, 10_000) == documents(9)


def test_passages_are_consecutive_pieces_of_held_out_documents(tmp_path, tokenizer):
    everything = sources.load([str(documents_file(tmp_path / "text.jsonl"))])
    train, held = split(everything, 0.2)
    cut = passages(held, tokenizer, count=10_000, prompt=12, continuation=8)
    texts = {d.id: d.text for d in held}
    assert cut
    assert {p.document for p in cut} == set(texts)
    assert not {p.document for p in cut} & {d.id for d in train}
    rest = dict(texts)
    for passage in cut:  # in order, each is found after the one before it: no overlap
        whole = passage.prompt + passage.response
        before, found, after = rest[passage.document].partition(whole)
        assert found
        assert before == ""
        rest[passage.document] = after


def test_passages_have_the_asked_number_of_tokens_and_names_of_their_own(tokenizer):
    cut = passages(documents(5), tokenizer, count=10_000, prompt=12, continuation=8)
    assert len({p.id for p in cut}) == len(cut)
    starts = defaultdict(list)
    for passage in cut:
        starts[passage.document].append(int(passage.id.rpartition("#")[2]))
        ids = tokenizer(passage.prompt + passage.response, add_special_tokens=False)["input_ids"]
        assert len(ids) <= 20
    assert all(np.diff(places).tolist() == [20] * (len(places) - 1) for places in starts.values())


def test_fewer_passages_are_taken_over_all_documents(tokenizer):
    cut = passages(documents(10), tokenizer, count=5, prompt=12, continuation=8)
    assert len(cut) == 5
    assert len({p.document for p in cut}) >= 4


def test_documents_shorter_than_a_passage_give_none(tokenizer):
    assert passages(documents(3), tokenizer, count=5, prompt=500, continuation=500) == []
