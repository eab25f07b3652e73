"""What things cost, as the user states it, and what was asked at a price."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@checked(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
class Prices:
    """What the user pays; whatever is left out stays unknown, and the bill says so.

    Attributes:
        currency: of all prices, for example EUR.
        device_hour: of one device for an hour.
        device_watts: mean draw of one device with its share of the machine, in watts.
        kilowatt_hour: of electricity, where it is paid besides `device_hour`.
        input_tokens: of a million tokens that an endpoint reads.
        output_tokens: of a million tokens that it writes.
    """

    currency: Annotated[str, Field(min_length=1)] | None = None
    device_hour: Price | None = None
    device_watts: Price | None = None
    kilowatt_hour: Price | None = None
    input_tokens: Price | None = None
    output_tokens: Price | None = None

    def __post_init__(self) -> None:
        prices = self.device_hour, self.kilowatt_hour, self.input_tokens, self.output_tokens
        if self.currency is None and any(price is not None for price in prices):
            raise ValueError("prices need a currency, for example currency: EUR")


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What was asked of a teacher that is served.

    Attributes:
        teacher: its name.
        read: tokens its endpoint read, as it counted them.
        written: tokens it wrote.
        input_tokens: its own price of a million tokens read, in place of that of `Prices`.
        output_tokens: its own price of a million tokens written.
    """

    teacher: str
    read: int
    written: int
    input_tokens: float | None = None
    output_tokens: float | None = None
