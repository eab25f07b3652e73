"""What a student knows of its tokenizer."""

from dataclasses import dataclass

from student.arguments import whole
from student.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """Size and special tokens of the tokenizer a student is built for.

    Attributes:
        size: tokens, padding of the table included.
        bos: id of the token a text begins with.
        eos: id of the token a text ends with.
        pad: id of the token that fills a batch, or None.
    """

    size: int
    bos: int
    eos: int
    pad: int | None = None

    def __post_init__(self) -> None:
        """Refuse ids outside the table.

        Raises:
            ConfigError: names the field.
        """
        size = whole("size", self.size, 1)
        found = {"size": size}
        for name, token in (("bos", self.bos), ("eos", self.eos), ("pad", self.pad)):
            if name != "pad" or token is not None:
                found[name] = whole(name, token)
                if not 0 <= found[name] < size:
                    raise ConfigError(
                        f"{name} is {token}; it must be a token of the vocabulary, 0 to {size - 1}."
                    )
        for name, value in found.items():  # Python's numbers, for numpy's are no JSON
            object.__setattr__(self, name, value)
