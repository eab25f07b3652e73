"""Prompts come in a fixed order; a budget buys the first of them and never more than it can."""

import json

import pytest

from audit.bank import load
from audit.errors import InputError
from audit.lineup import index
from audit.planning import asking
from audit.planning.asking import Prices, Prompt
from tests.fakes import banks
from tests.fakes.indices import VIEWS

PRICES = Prices(input_price=1.0, output_price=4.0, answer_tokens=100)


def prompts(count: int) -> list[Prompt]:
    return [Prompt(id=f"p{n}", prompt="word " * (4 + n)) for n in range(count)]


def indexed(path, **changes):
    bank = load(banks.tiny(path))
    return bank, index.of(bank, VIEWS, cache=None, tell=lambda done, steps: None)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("abc", 1), ("abcdefgh", 2), ("abcdefghi", 3), ("你好吗", 3), ("你好 abc", 3)],
)
def test_a_prompts_tokens_are_a_wide_character_or_four_letters_each(text, tokens):
    assert Prompt(id="p", prompt=text).tokens == tokens


def test_the_cost_is_what_is_read_and_written_at_their_prices():
    two = prompts(2)
    read = two[0].tokens + two[1].tokens
    assert PRICES.of(two) == pytest.approx((read * 1.0 + 200 * 4.0) / 1e6)
    assert PRICES.of([]) == 0.0


def test_every_model_that_is_asked_costs_the_same():
    three = Prices(input_price=1.0, output_price=4.0, answer_tokens=100, models=3)
    assert three.of(prompts(7)) == pytest.approx(3 * PRICES.of(prompts(7)))


@pytest.mark.parametrize("count", range(6))
def test_a_budget_of_what_some_cost_buys_those_and_no_more(count):
    five = prompts(5)
    budget = PRICES.of(five[:count])
    assert PRICES.bought(five, budget) == count
    assert PRICES.bought(five, budget * 0.999999) == max(count - 1, 0)


def test_what_costs_nothing_is_bought_whole():
    free = Prices(input_price=0.0, output_price=0.0, answer_tokens=100)
    assert free.bought(prompts(5), 0.0) == 5


def test_the_shipped_prompts_come_in_their_order_and_by_language():
    both = asking.shipped_prompts()
    assert len(both) == 360
    assert [p for p in both if p.language == "en"] == asking.shipped_prompts("en")
    assert {p.language for p in asking.shipped_prompts("zh")} == {"zh"}


def test_a_banks_prompts_come_in_one_random_order_each_once(tmp_path):
    bank, made = indexed(tmp_path)
    found = asking.bank_prompts(bank, made, seed=0)
    assert sorted(p.id for p in found) == sorted(made.prompts)
    assert [p.prompt for p in found] == [f"prompt {p.id}" for p in found]
    assert found == asking.bank_prompts(bank, made, seed=0)
    assert any(found != asking.bank_prompts(bank, made, seed=seed) for seed in (1, 2, 3))


def test_ids_without_texts_are_refused_by_number_and_name(tmp_path):
    bank, made = indexed(tmp_path)
    for teacher in made.teachers:
        path = bank.files[teacher]
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({**row, "prompt": ""}) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"6 prompts have an id alone, 'p\d' for one"):
        asking.bank_prompts(load(bank.path), made, seed=0)


def test_written_prompts_are_a_line_each(tmp_path):
    out = tmp_path / "deep" / "ask.jsonl"
    asking.write(out, [Prompt(id="a", prompt="Wie geht's, 你好?\n"), Prompt(id="b", prompt="x")])
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert rows == [{"id": "a", "prompt": "Wie geht's, 你好?\n"}, {"id": "b", "prompt": "x"}]
