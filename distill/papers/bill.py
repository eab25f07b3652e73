"""What a run cost: tokens, operations, device-seconds, energy and money.

Every line says how it is found (`ledger.py`); what nobody stated stays unknown and says what to
state. A bill is written to eval.json, and page, card and terminal read it from there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from distill.papers import ledger
from distill.papers.ledger import Line
from distill.prices import Asked, Prices

# What a count, a time or a sum holds, where its name alone would promise another thing.
_AGAIN = "without steps that were taken again after an interruption"
_COUNTED = {
    "trained on": f"positions of all steps, counted by the run {_AGAIN}",
    "captured": "positions of the signals that this run read, whoever had them captured",
    "read as prompts": "tokens that the student read before it wrote its own answers",
    "generated": "tokens of answers written on the way that steps learnt from",
    "evaluated": "positions of the held-out text, each time it was read",
}
_TIMED = {
    "capture": "wall time of the processes that captured, in this run or before it",
    "training": f"wall time of all steps by this process's clock {_AGAIN}",
}
_UNTIMED = "the lines above; loading, and what teachers on disk write or answer, are not timed"
_LEFT_OUT = "the lines above; sample answers and the optimizer's arithmetic are left out"


def bill(
    *,
    tokens: Mapping[str, int],
    work: Sequence[Line],
    seconds: Mapping[str, float],
    prices: Prices,
    asked: Sequence[Asked] = (),
    devices: int = 1,
) -> dict[str, Any]:
    """Return the bill of a run as it stands in eval.json: `currency`, and `lines` of `Line`.

    Args:
        tokens: how many by what was done with them: `trained on`, `captured`, `evaluated`.
        work: operations, a line for each kind of pass (`work.py`); their keys are given here.
        seconds: wall time of each stage of the run.
        prices: as stated by the user.
        asked: an entry for each teacher that is served.
        devices: how many worked side by side.
    """
    lines = [*_tokens(tokens, asked), *_operations(work)]
    stages = _stages(seconds, devices)
    spent = ledger.total("device_seconds", "time", "Device time together", "s", stages)
    spent = replace(spent, source=_UNTIMED)
    energy = _energy(spent, prices)
    money = [*_machine_money(spent, energy, prices), *_endpoint_money(asked, prices)]
    unit = prices.currency or "money"
    together = ledger.total("money", "money", "Money together", unit, money)
    lines += [*stages, spent, energy, *money, together]
    return {"currency": prices.currency, "lines": [asdict(line) for line in lines]}


def _tokens(tokens: Mapping[str, int], asked: Sequence[Asked]) -> list[Line]:
    lines = [
        ledger.counted(
            f"tokens_{place}",
            "tokens",
            f"Tokens {done}",
            count,
            "tokens",
            source=_COUNTED.get(done, "counted by the run"),
        )
        for place, (done, count) in enumerate(tokens.items(), start=1)
    ]
    for place, one in enumerate(asked, start=1):
        for verb, count in (("read", one.read), ("written", one.written)):
            name = f"Tokens {verb} by {one.teacher}"
            source = "as its endpoint counted them"
            key = f"{verb}_{place}"
            lines.append(ledger.counted(key, "tokens", name, count, "tokens", source=source))
    return lines


def _operations(work: Sequence[Line]) -> list[Line]:
    lines = [replace(line, key=f"flop_{place}") for place, line in enumerate(work, start=1)]
    whole = ledger.total("flop", "operations", "Operations together", "FLOP", lines)
    return [*lines, replace(whole, source=_LEFT_OUT)]


def _stages(seconds: Mapping[str, float], devices: int) -> list[Line]:
    return [
        ledger.worked_out(
            f"seconds_{place}",
            "time",
            f"Device time, {stage}",
            "s",
            "seconds * devices",
            {"seconds": spent, "devices": devices},
            source=_TIMED.get(stage, "wall time by this process's clock"),
        )
        for place, (stage, spent) in enumerate(seconds.items(), start=1)
    ]


def _energy(spent: Line, prices: Prices) -> Line:
    return ledger.worked_out(
        "kilowatt_hours",
        "energy",
        "Energy",
        "kWh",
        "device_seconds * device_watts / 3600000",
        {"device_seconds": spent.value, "device_watts": prices.device_watts},
        source="watts as stated, not measured",
        unknown="state prices.device_watts",
    )


def _machine_money(spent: Line, energy: Line, prices: Prices) -> list[Line]:
    """Return what the device's time and its electricity cost.

    Whoever hires a device pays its electricity with it, so one of the two prices is enough.
    """
    unit, stated = prices.currency or "money", "prices as stated"
    hired = ledger.worked_out(
        "device_money",
        "money",
        "Devices",
        unit,
        "device_seconds / 3600 * device_hour",
        {"device_seconds": spent.value, "device_hour": prices.device_hour},
        source=stated,
        unknown="state prices.device_hour",
    )
    power = ledger.worked_out(
        "power_money",
        "money",
        "Electricity",
        unit,
        "kilowatt_hours * kilowatt_hour",
        {"kilowatt_hours": energy.value, "kilowatt_hour": prices.kilowatt_hour},
        source=stated,
        unknown="state prices.device_watts and prices.kilowatt_hour",
    )
    stated_for = ((hired, prices.device_hour), (power, prices.kilowatt_hour))
    return [line for line, price in stated_for if price is not None] or [hired]


def _endpoint_money(asked: Sequence[Asked], prices: Prices) -> list[Line]:
    return [
        ledger.worked_out(
            f"endpoint_money_{place}",
            "money",
            f"Endpoint of {one.teacher}",
            prices.currency or "money",
            "read / 1000000 * input_tokens + written / 1000000 * output_tokens",
            {
                "read": one.read,
                "input_tokens": _own(one.input_tokens, prices.input_tokens),
                "written": one.written,
                "output_tokens": _own(one.output_tokens, prices.output_tokens),
            },
            source="prices as stated, tokens as the endpoint counted them",
            unknown=f"state the prices of a million tokens of {one.teacher}",
        )
        for place, one in enumerate(asked, start=1)
    ]


def _own(own: float | None, common: float | None) -> float | None:
    return common if own is None else own


def in_words(bill: Mapping[str, Any]) -> str:
    """Return a bill of eval.json on one line, as a run ends with it."""
    lines = {line["key"]: line for line in bill["lines"]}
    tokens = [
        f"{line['value']:,.0f} {line['name'].lower()}"
        for line in lines.values()
        if line["group"] == "tokens" and line["value"]
    ]
    flop = _said(lines["flop"], "operations", lambda v: f"{_short(v)} FLOP")
    time = _said(lines["device_seconds"], "device time", lambda v: f"{_seconds(v)} device-seconds")
    energy = _said(lines["kilowatt_hours"], "energy", lambda v: f"{v:.3g} kWh")
    money = _said(lines["money"], "money", lambda v: f"{v:,.2f} {lines['money']['unit']}")
    return "bill: " + ", ".join([*tokens, flop, time, energy, money])


def _said(line: Mapping[str, Any], name: str, written: Callable[[float], str]) -> str:
    """Return an amount, or that it is unknown or only a part, with what is missing."""
    if line["value"] is None:
        return f"{name} unknown ({line['unknown']})"
    least = f"at least {written(line['value'])} ({line['unknown']})"
    return least if line["without"] else written(line["value"])


def _seconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _short(value: float) -> str:
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"
