"""A config is refused where it cannot work, and shows no key; a question has one key."""

from dataclasses import replace
from pathlib import Path

import pytest

from audit import strict_yaml
from audit.endpoint import EndpointConfig
from audit.errors import ConfigError
from tests.fakes.wire import CONFIG, URL, Script, ask, ok, opened


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "responses.jsonl"


SECRET = "sk-very-secret-1234"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"url: {URL}\nmodel: m\nkey_env: {SECRET}\n", "key_env is no name of an environment"),
        (f"url: https://me:{SECRET}@host/v1\nmodel: m\n", "url holds credentials"),
        (f"url: https://host/v1?key={SECRET}\nmodel: m\n", "url holds credentials"),
        ("url: localhost:8000\nmodel: m\n", "url should look like"),
        (f"url: {URL}\nmodel: m\nmax_cost: 1.0\n", "max_cost needs price_input and price_output"),
        (f"url: {URL}\nmodel: m\napi: completions\nsystem: s\n", "system needs api: chat"),
        (f"url: {URL}\nmodel: m\nmodels: [a]\n", "e.yaml:3: unknown key 'models'"),
        (f"url: {URL}\nmodel: m\nretries: -1\n", "e.yaml:3: retries"),
        (f"url: {URL}\nmodel: m\nmax_requests: 0\n", "e.yaml:3: max_requests"),
    ],
)
def test_a_config_that_cannot_work_or_holds_a_key_is_refused_without_showing_it(text, said):
    with pytest.raises(ConfigError) as caught:
        strict_yaml.load(EndpointConfig, text, source="e.yaml")
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_config_loads_as_it_was_written():
    config = replace(CONFIG, extra={"chat_template_kwargs": {"thinking": False}}, max_requests=4)
    text = strict_yaml.dump(config)
    assert strict_yaml.load(EndpointConfig, text, source="e.yaml") == config


def test_every_part_of_a_question_changes_its_key(log):
    script = Script(ok())
    others = [
        replace(CONFIG, model="n"),
        replace(CONFIG, system="s"),
        replace(CONFIG, extra={"k": 1}),
    ]
    questions = [ask(), ask("b"), ask(sample=1), *(ask(config=other) for other in others)]
    keys = {q.key(URL) for q in questions} | {ask().key(URL + "x")}
    assert len(keys) == 7
    assert ask().key(URL) == ask().key(URL)
    with opened(log, script, replace(CONFIG, url=URL + "/")) as endpoint:
        endpoint.ask([ask()])
    with opened(log, script) as endpoint:  # a slash at the end is no other endpoint
        endpoint.ask([ask()])
    assert len(script.asked) == 1
