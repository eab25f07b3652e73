"""What a student knows of its tokenizer."""

from dataclasses import dataclass

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
        if self.size < 1:
            raise ConfigError(f"size is {self.size}; a vocabulary has at least one token.")
        for name, token in (("bos", self.bos), ("eos", self.eos), ("pad", self.pad)):
            if token is not None and not 0 <= token < self.size:
                raise ConfigError(
                    f"{name} is {token}; it must be a token of the vocabulary, 0 to "
                    f"{self.size - 1}."
                )
