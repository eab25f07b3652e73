"""The bill: every line can be worked out again, and what nobody stated is unknown."""

import json

import pytest

from audit import strict_yaml
from audit.errors import ConfigError
from distill.papers import work
from distill.papers.bill import bill, in_words
from distill.papers.ledger import counted
from distill.prices import Asked, Prices
from student.catalogue import presets

STATED = Prices(
    currency="EUR",
    device_hour=2.0,
    device_watts=360.0,
    kilowatt_hour=0.3,
    input_tokens=1.0,
    output_tokens=4.0,
)
ASKED = Asked(teacher="far", read=3_000_000, written=500_000)
TRAINING = work.student_training(presets()["tiny"], 320, sequence_tokens=32, tokens=640)
PASSES = [TRAINING, counted("x", "operations", "Teacher", 1e9, "FLOP", source="a guess")]


def made(prices: Prices = STATED, **changes):
    fields = {
        "tokens": {"trained on": 184_320, "captured": 93_184, "generated": 0},
        "work": PASSES,
        "seconds": {"capture": 70.0, "training": 100.0, "evaluation": 10.0},
        "prices": prices,
        "asked": [ASKED],
    }
    return bill(**{**fields, **changes})


def by_key(made_bill):
    return {line["key"]: line for line in made_bill["lines"]}


def test_every_amount_is_what_its_formula_gives():
    lines = made()["lines"]
    worked_out = [line for line in lines if line["formula"]]
    assert len(worked_out) >= 10
    for line in worked_out:
        assert line["value"] == eval(line["formula"], {"__builtins__": {}}, dict(line["inputs"]))


def test_every_line_says_where_its_numbers_come_from():
    assert all(line["source"] for line in made()["lines"])


def test_a_sum_says_what_it_leaves_out():
    lines = by_key(made())
    assert (
        "what teachers on disk write or answer, are not timed" in lines["device_seconds"]["source"]
    )
    assert "sample answers and the optimizer's arithmetic" in lines["flop"]["source"]
    assert "whoever had them captured" in lines["tokens_2"]["source"]
    assert "after an interruption" in lines["tokens_1"]["source"]
    assert "or before it" in lines["seconds_1"]["source"]


def test_keys_are_unique_and_a_formula_names_inputs_or_lines():
    lines = made()["lines"]
    keys = [line["key"] for line in lines]
    assert len(set(keys)) == len(keys)
    for key in ("flop", "device_seconds", "money"):
        assert set(by_key(made())[key]["inputs"]) <= set(keys)


def test_a_bill_is_plain_json():
    again = json.loads(json.dumps(made()))
    assert [line["value"] for line in again["lines"]] == [line["value"] for line in made()["lines"]]


def test_the_amounts_by_hand():
    lines = by_key(made())
    assert lines["device_seconds"]["value"] == 180
    assert lines["kilowatt_hours"]["value"] == pytest.approx(180 * 360 / 3.6e6)
    assert lines["device_money"]["value"] == pytest.approx(180 / 3600 * 2.0)
    assert lines["power_money"]["value"] == pytest.approx(0.018 * 0.3)
    assert lines["endpoint_money_1"]["value"] == pytest.approx(3 * 1.0 + 0.5 * 4.0)
    assert lines["money"]["value"] == pytest.approx(0.1 + 0.0054 + 5.0)
    assert lines["flop"]["value"] == TRAINING.value + 1e9
    assert lines["money"]["unit"] == "EUR"


def test_devices_side_by_side_are_counted_each():
    assert by_key(made(devices=8))["device_seconds"]["value"] == 8 * 180


def test_without_prices_energy_and_money_are_unknown_and_say_what_to_state():
    lines = by_key(made(Prices(), asked=[]))
    assert lines["kilowatt_hours"]["value"] is None
    assert lines["kilowatt_hours"]["unknown"] == "state prices.device_watts"
    assert lines["money"]["value"] is None
    assert lines["money"]["unknown"] == "state prices.device_hour"


def test_an_hourly_price_alone_is_enough_for_money():
    lines = by_key(made(Prices(currency="EUR", device_hour=2.0), asked=[]))
    assert lines["money"]["value"] == pytest.approx(0.1)
    assert lines["money"]["without"] == ()
    assert "power_money" not in lines


def test_a_price_of_electricity_without_watts_is_said_to_be_missing():
    prices = Prices(currency="EUR", device_hour=2.0, kilowatt_hour=0.3)
    money = by_key(made(prices, asked=[]))["money"]
    assert money["value"] == pytest.approx(0.1)
    assert money["without"] == ("Electricity",)
    assert "prices.device_watts" in money["unknown"]


def test_electricity_alone_is_a_way_to_pay():
    prices = Prices(currency="EUR", device_watts=360.0, kilowatt_hour=0.3)
    lines = by_key(made(prices, asked=[]))
    assert "device_money" not in lines
    assert lines["money"]["value"] == pytest.approx(0.0054)


def test_an_endpoints_own_price_comes_before_the_common_one():
    own = Asked(teacher="far", read=1_000_000, written=0, input_tokens=7.0, output_tokens=0.0)
    assert by_key(made(asked=[own]))["endpoint_money_1"]["value"] == 7.0


def test_an_endpoint_without_a_price_leaves_money_a_part():
    prices = Prices(currency="EUR", device_hour=2.0)
    money = by_key(made(prices))["money"]
    assert money["without"] == ("Endpoint of far",)
    assert "at least 0.10 EUR" in in_words(made(prices))


def test_operations_of_a_served_teacher_are_left_out_and_named():
    flop = by_key(made(work=[*PASSES, work.served("far", 9)]))["flop"]
    assert flop["value"] == TRAINING.value + 1e9
    assert flop["without"] == ("far, served",)


def test_the_last_line_of_a_run():
    assert in_words(made(Prices(), asked=[], work=PASSES[1:])) == (
        "bill: 184,320 tokens trained on, 93,184 tokens captured, 1.0e9 FLOP, 180 device-seconds, "
        "energy unknown (state prices.device_watts), money unknown (state prices.device_hour)"
    )
    assert in_words(made()).endswith("0.018 kWh, 5.11 EUR")


def test_a_short_run_has_its_seconds_to_a_tenth():
    assert ", 0.9 device-seconds, " in in_words(made(seconds={"training": 0.94}))


def test_the_last_line_is_the_same_from_the_file():
    assert in_words(json.loads(json.dumps(made()))) == in_words(made())


def test_prices_are_read_strictly():
    read = strict_yaml.load(Prices, "currency: EUR\ndevice_hour: 2\n", source="run.yaml")
    assert read == Prices(currency="EUR", device_hour=2.0)
    with pytest.raises(ConfigError, match="need a currency"):
        strict_yaml.load(Prices, "device_hour: 2\n", source="run.yaml")
    with pytest.raises(ConfigError, match=r"run\.yaml:2: device_watts"):
        strict_yaml.load(Prices, "currency: EUR\ndevice_watts: -1\n", source="run.yaml")
    assert Prices(device_watts=300.0).currency is None
