"""Documents, tokenizers and their alignment, as tests of text across tokenizers share them."""

from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from distill.text.alignment import Alignment, align
from distill.text.corpus import pack
from distill.text.places import place
from distill.text.sources import Document
from tests.fakes.teachers import BOS, byte_pairs, sentences, tiny_tokenizer

LENGTH = 24
STRANGE = "na\u00efve \u65e5\u672c\u8a9e \U0001f600 e\u0301 \u200b\t\r\n  "


def documents(count: int = 6) -> list[Document]:
    """Return documents of a few sentences, each with characters of several bytes in the middle."""
    texts = [sentences(2, seed) + STRANGE + sentences(1, seed + 50) for seed in range(count)]
    return [Document(id=f"text/{n}", text=text) for n, text in enumerate(texts)]


def spaced(*, lower: bool = False) -> PreTrainedTokenizerFast:
    """Return a tokenizer of characters and bytes that writes a space first, and may lower text."""
    pieces = ["<unk>", BOS, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    pieces += [chr(letter) for letter in range(ord("a"), ord("z") + 1)]
    table = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.BPE(table, [], byte_fallback=True, unk_token="<unk>"))
    steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    made.normalizer = normalizers.Sequence([*([normalizers.Lowercase()] if lower else []), *steps])
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback()])
    made.add_special_tokens([BOS])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=BOS)


STUDENT = tiny_tokenizer()
TEACHERS = {
    "other pairs": byte_pairs([sentences(40, seed=9) + " the yard. A key"], 340),
    "bytes": byte_pairs(["a"], 259),
    "space first": spaced(),
    "itself": STUDENT,
}


def aligned(teacher, texts: list[Document], length: int = LENGTH, **more) -> Alignment:
    windows = pack(texts, STUDENT, length)
    return align(windows, place(texts, STUDENT), place(texts, teacher), **more)
