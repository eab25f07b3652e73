"""Text becomes windows without losing, inventing or leaking a token."""

import json
from collections import defaultdict

import numpy as np
import pytest

from distill import corpus
from distill.corpus import Document, evenly, pack, passages, split, text_digest
from distill.errors import InputError
from tests.fakes.teachers import documents_file, sentences, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def documents(count: int, length: int = 6) -> list[Document]:
    return [Document(id=f"doc/{n}", text=sentences(length, n)) for n in range(count)]


def encoded(tokenizer, document: Document) -> list[int]:
    return tokenizer(document.text, add_special_tokens=False)["input_ids"]


def test_pythons_help_topics_load_and_are_named():
    found = corpus.load(["pydoc"])
    assert len(found) > 50
    assert all(d.id.startswith("pydoc/") and d.text.strip() for d in found)
    assert len({d.id for d in found}) == len(found)


def test_the_seed_prompts_load_and_are_named():
    found = corpus.load(["prompts"])
    assert len(found) == 240
    assert all(d.id.startswith("prompts/") and d.text.strip() for d in found)


def test_sources_follow_each_other_in_the_order_given(tmp_path):
    (tmp_path / "one.txt").write_text("first")
    (tmp_path / "two.md").write_text("second")
    lines = [json.dumps({"text": "third"}), "", json.dumps({"text": "fourth", "more": 1})]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    found = corpus.load([str(tmp_path / name) for name in ("two.md", "rows.jsonl", "one.txt")])
    assert [d.text for d in found] == ["second", "third", "fourth", "first"]
    names = ["files/two.md", "rows.jsonl/1", "rows.jsonl/2", "files/one.txt"]
    assert [d.id for d in found] == names


def test_a_source_that_cannot_be_read_is_named_with_the_reason(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    expected = {
        "absent.txt": "does not exist",
        "empty.txt": "is empty",
        "latin.txt": "is not UTF-8 (byte 3)",
    }
    for name, reason in expected.items():
        with pytest.raises(InputError) as caught:
            corpus.load([str(tmp_path / name)])
        assert str(caught.value).startswith(f"{tmp_path / name} {reason}")


def test_an_unknown_kind_of_source_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"'text\.pdf' is unknown; use pydoc, prompts, or a \.txt"):
        corpus.load(["text.pdf"])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "cut', "not valid JSON"),
        ("[1]", "needs an object with a text 'text'"),
        ('{"prompt": "x"}', "needs an object with a text 'text'"),
        ('{"text": 3}', "needs an object with a text 'text'"),
        ('{"text": "half of a pair: \\ud83d"}', "half of a surrogate pair"),
    ],
)
def test_a_malformed_line_is_named_by_its_number(tmp_path, line, reason):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n\n' + line + "\n")
    with pytest.raises(InputError) as caught:
        corpus.load([str(path)])
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert reason in str(caught.value)


def test_only_a_newline_ends_a_line_of_json(tmp_path):
    # JSON allows these raw inside a text, and writers that keep non-ASCII leave them there.
    text = "one\u2028two\u2029three\x85four"
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [d.text for d in corpus.load([str(path)])] == [text]


def test_the_split_depends_on_names_and_not_on_order_or_text():
    before = documents(200)
    train, held = split(before, 0.15)
    assert (len(train), len(held)) == (170, 30)
    changed = [Document(id=d.id, text="other") for d in reversed(before)]
    _, held_again = split(changed, 0.15)
    assert {d.id for d in held_again} == {d.id for d in held}


def test_every_source_gives_its_share_to_the_held_out_side():
    other = [Document(id=f"other/{n}", text="x") for n in range(20)]
    _, held = split([*documents(200), *other], 0.1)
    assert sum(d.id.startswith("other/") for d in held) == 2


def test_passages_are_taken_from_documents_in_turn(tokenizer):
    long, short = "cask " * 4000, "river " * 90
    texts = [Document(id="a/long", text=long), Document(id="a/short", text=short)]
    size = len(tokenizer("river " * 90, add_special_tokens=False)["input_ids"]) // 3
    cut = corpus.passages(texts, tokenizer, count=5, prompt=size - 4, continuation=4)
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


def test_taking_windows_keeps_their_parts_together(tokenizer):
    windows = pack(documents(9), tokenizer, 16)
    some = windows.take(np.array([3, 1]))
    assert np.array_equal(some.tokens, windows.tokens[[3, 1]])
    assert np.array_equal(some.weights, windows.weights[[3, 1]])
    assert np.array_equal(some.sizes, windows.sizes[[3, 1]])
    assert some.sha256() != windows.sha256()
    assert windows.take(np.arange(len(windows.tokens))).sha256() == windows.sha256()


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
    assert len(set(digests)) == 5
    assert text_digest(documents(2)) == digests[0]


@pytest.mark.parametrize(("count", "limit"), [(10, 3), (10, 10), (10, 99), (1, 5), (7, 1), (3, 2)])
def test_evenly_chosen_places_are_different_and_in_range(count, limit):
    chosen = evenly(count, limit)
    assert len(chosen) == min(count, limit)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert chosen[0] == 0
    assert chosen[-1] == (count - 1 if limit > 1 else 0)


def test_passages_are_consecutive_pieces_of_held_out_documents(tmp_path, tokenizer):
    everything = corpus.load([str(documents_file(tmp_path / "text.jsonl"))])
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
