"""Signs of a text that is no full answer: it refuses, or it breaks off. Counts, not judgements.

The rules are few and meant to be read. They know English and Chinese, look for a refusal in the
first 200 characters only, miss one that is put otherwise, and count one that is quoted.
"""

import re

_BEGINNING = 200
_SPLIT_BELOW = 1_000_000  # characters; the pieces of a longer text would fill the memory

_SORRY = (
    r"(?:i['\u2019]m|i am)(?: \w+)? (?:sorry|afraid)|sorry|apologies|i apologi[sz]e|unfortunately"
)
_AS_A_MODEL = r"as an? (?:ai|artificial|large|language)\b"
_UNABLE = (
    r"can['\u2019]t|cannot|can not|won['\u2019]t|will not|must decline|must refuse"
    r"|(?:am|['\u2019]m) (?:not able|unable|not allowed|not permitted|not comfortable)"
    r"|(?:don['\u2019]t|do not) feel comfortable"
)
# "I cannot ...", or an apology or a remark on being a model with such words in the same sentence.
_REFUSAL = re.compile(
    rf"(?:(?:{_SORRY}|{_AS_A_MODEL})[^.!?\n]*\b)?(?:i|we) ?(?:{_UNABLE})\b", re.IGNORECASE
)
_REFUSAL_ZH = re.compile(
    r"(?:(?:\S{0,2}抱歉|对不起|不好意思|作为)[^。！？\n]*|我)(?:无法|不能|没法|没有办法|不便)"
)
_WORD = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]|[^\s\u3400-\u4dbf\u4e00-\u9fff]+")
_OPEN = ",-(/，、（"  # what a text that goes on may have as its last character


def refuses(text: str) -> bool:
    """Tell whether an answer begins like a refusal."""
    beginning = text.lstrip()[:_BEGINNING]
    return bool(_REFUSAL.match(beginning) or _REFUSAL_ZH.match(beginning))


def breaks_off(text: str) -> bool:
    """Tell whether an answer ends like a text that goes on: after a word, a comma, in a code block.

    Short answers often end so on purpose; see `audit.banks.describe`.
    """
    end = text.rstrip()[-1:]
    return code_left_open(text) or (bool(end) and (end.isalnum() or end in _OPEN))


def code_left_open(text: str) -> bool:
    """Tell whether the last fenced block of code in `text` has no end."""
    return text.count("```") % 2 == 1


def words(text: str) -> int:
    """Return how many words a text has, where a Chinese character counts as one."""
    if text.isascii() and len(text) < _SPLIT_BELOW:  # the same, only faster
        return len(text.split())
    return sum(1 for _ in _WORD.finditer(text))
