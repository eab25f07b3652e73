"""A config means what it says: nothing is ignored, and what is wrong is named with its place."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import get_args, get_type_hints

import pytest
import yaml

from audit import strict_yaml
from audit.errors import ConfigError
from distill.config import RunConfig, load
from distill.errors import InputError
from distill.loss.objective import CrossEntropy, Divergence, Prediction, Router, Term
from distill.resources import shipped

STATED = (
    "{owner: o, url: 'http://h/terms', retrieved: 2026-01-31, permits_training: conditional, "
    f"sha256: {'a' * 64}, obligations: [say so]}}"
)


def read(text: str, *overrides: str) -> RunConfig:
    return strict_yaml.load(RunConfig, text, source="run.yaml", overrides=overrides)


def refused(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text, *overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


Path = tuple[str | int, ...]


def keys(value: object, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every key of a config: sections, items of lists of sections, leaves."""
    for field in fields(value):
        inner, place = getattr(value, field.name), (*path, field.name)
        yield place
        if is_dataclass(inner):
            yield from keys(inner, place)
        elif isinstance(inner, tuple):
            for number, item in enumerate(inner):
                if is_dataclass(item):
                    yield from keys(item, (*place, number))


def at(value: object, path: Path) -> object:
    for name in path:
        plain = isinstance(value, dict | list | tuple)
        value = value[name] if plain else getattr(value, name)
    return value


def dotted(path: Path) -> str:
    return ".".join(map(str, path))


LEAVES = [path for path in keys(RunConfig()) if not is_dataclass(at(RunConfig(), path))]
# Of a term only what differs from its defaults is written down.
DOCUMENTED = [path for path in LEAVES if path[0] != "loss" or len(path) == 1]


def test_quick_scratch_is_the_default_config():
    shipped_config = load(shipped("presets/quick-scratch.yaml"))
    for path in LEAVES:
        assert at(shipped_config, path) == at(RunConfig(), path), dotted(path)
    assert shipped_config == RunConfig()


@pytest.mark.parametrize("path", DOCUMENTED, ids=dotted)
def test_quick_scratch_documents_every_key(path):
    written = yaml.safe_load(shipped("presets/quick-scratch.yaml").read_text(encoding="utf-8"))
    assert path[-1] in at(written, path[:-1])


def test_quick_scratch_names_every_kind_of_term():
    kinds = [get_args(get_type_hints(one)["kind"]) for one in get_args(get_args(Term)[0])]
    text = shipped("presets/quick-scratch.yaml").read_text(encoding="utf-8")
    section = text[text.index("\nloss:") : text.index("\noptimizer:")]
    named = set(section.replace(",", " ").split())
    assert {kind for several in kinds for kind in several} - named == set()


def test_quick_scratch_is_mostly_explained_by_comments():
    text = shipped("presets/quick-scratch.yaml").read_text(encoding="utf-8")
    assert sum("#" in line for line in text.splitlines()) > len(DOCUMENTED) / 2


def test_what_is_left_out_has_its_default_and_an_empty_file_is_all_defaults():
    assert read("") == RunConfig()
    assert read("train: {steps: 3}").train.batch_size == RunConfig().train.batch_size


def test_a_config_written_and_read_again_is_the_same():
    config = read(
        "seed: 5\ntext: {sources: [a.txt, b.md]}\noptimizer: {learning_rate: 3e-4}\n"
        "loss: [{kind: jsd, mix: 0.5, weight: 1e-2}, {kind: hidden_mse, weight: 0}, {kind: mtp}]\n"
        "teachers:\n"
        f"- {{name: near, path: /m, tags: [a], terms: {STATED}}}\n"
        "- {name: far, endpoint: {url: 'http://h/v1', model: m}, says: prompt_logprobs, weight: 2}"
    )
    text = strict_yaml.dump(config)
    assert read(text) == config
    found = yaml.safe_load(text)
    for path in keys(config):
        at(found, path)  # KeyError where it is not explicit


def test_an_unknown_key_names_file_line_and_the_nearest_name():
    assert refused("seed: 1\nteacher: {}\n") == (
        "run.yaml:2: unknown key 'teacher'; did you mean 'teachers'?"
    )


def test_an_unknown_nested_key_names_its_section_too():
    text = "train:\n  batch_size: 2\n  stepps: 4\n"
    assert refused(text) == "run.yaml:3: unknown key 'stepps' in train; did you mean 'steps'?"


def test_an_unknown_key_near_to_none_lists_the_known_ones():
    message = refused("checkpoint:\n  zzz: 4\n")
    known = "every_steps, sync_seconds."
    assert message == f"run.yaml:2: unknown key 'zzz' in checkpoint; known keys: {known}"


@pytest.mark.parametrize(
    ("text", "where", "named"),
    [
        ("train:\n  steps: many", "run.yaml:2:", "train.steps"),
        ("train:\n  steps: 1.5", "run.yaml:2:", "train.steps"),
        ("train:\n  steps: true", "run.yaml:2:", "train.steps"),
        ("train:\n  steps: '12'", "run.yaml:2:", "train.steps"),
        ("train:\n  steps: 0", "run.yaml:2:", "train.steps"),
        ("seed: -1", "run.yaml:1:", "seed"),
        ("dtype: float16", "run.yaml:1:", "dtype"),
        ("text:\n  held_out: 1.0", "run.yaml:2:", "text.held_out"),
        ("text:\n  sources: pydoc", "run.yaml:2:", "text.sources"),
        ("text:\n  sources:\n  - 3", "run.yaml:3:", "text.sources.0"),
        ("\n\nstudent: 4", "run.yaml:3:", "student"),
        ("teachers:\n", "run.yaml:1:", "teachers"),
        ("teachers: {}", "run.yaml:1:", "teachers"),
        ("teachers:\n- name: a\n  path: b\n  weight: 0", "run.yaml:4:", "teachers.0.weight"),
        ("teachers:\n- {name: a, path: b}\n- {name: 3}", "run.yaml:3:", "teachers.1.name"),
        ("teachers:\n- path: b", "run.yaml:2:", "teachers.0.name"),
        ("loss: {forward_kl: 1}", "run.yaml:1:", "loss"),
        ("loss:\n- kind: tvd\n- 3", "run.yaml:3:", "loss.1"),
        ("loss:\n- kind: tvd\n- kind: mtp\n  late: -1", "run.yaml:4:", "loss.1.late"),
        ("loss:\n- kind: tvd\n  on: texts", "run.yaml:3:", "loss.0.on"),
        ("loss:\n- kind: tvd\n- kind: jsd", "run.yaml:3:", "loss.1"),
        ("rollout:\n  top_p: 0", "run.yaml:2:", "rollout.top_p"),
        ("rollout:\n  endpoint: {url: here, model: m}", "run.yaml:2:", "rollout.endpoint"),
        ("prices: {device_hour: 2}", "run.yaml:1:", "prices"),
        ("optimizer: {learning_rate: .nan}", "run.yaml:1:", "optimizer.learning_rate"),
    ],
)
def test_a_wrong_value_names_its_line_and_key(text, where, named):
    message = refused(text)
    assert message.startswith((f"{where} {named}: ", f"{where} {named} is required"))
    assert "\n" not in message


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "0.001", "1.0e-3", "+1e-3", "1_0e-4"])
def test_a_number_with_an_exponent_is_a_number(number):
    rate = read(f"optimizer: {{learning_rate: {number}}}").optimizer.learning_rate
    assert rate == pytest.approx(1e-3)


def test_a_text_that_only_looks_like_an_exponent_stays_text():
    assert read("text: {tokenizer: 1e-3b}").text.tokenizer == "1e-3b"
    assert read("text: {tokenizer: '1e-3'}").text.tokenizer == "1e-3"


def test_a_key_given_twice_is_refused_at_its_second_place():
    assert refused("seed: 1\nseed: 2\n") == "run.yaml:2: key 'seed' is given twice; keep one."
    nested = refused("train:\n  steps: 1\n  batch_size: 2\n  steps: 3\n")
    assert nested == "run.yaml:4: key 'steps' is given twice; keep one."


def test_the_same_key_in_two_sections_is_not_given_twice():
    text = "teachers: [{name: n, path: a}, {name: m, path: a}]\nsignal: {path: b}"
    config = read(text)
    assert [*(teacher.path for teacher in config.teachers), config.signal.path] == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("seed: [1", "run.yaml:1: not valid YAML"),
        ("a:\n\t- b", "run.yaml:2: not valid YAML"),
        ("- seed", "run.yaml:1: a config is a mapping of keys to values, not a list."),
        ("seed", "run.yaml:1: a config is a mapping of keys to values, not a text."),
    ],
)
def test_what_is_no_mapping_or_no_yaml_is_refused(text, start):
    assert refused(text).startswith(start)


@pytest.mark.parametrize("text", ["seed: 2024-01-01", "seed: 1\x07"], ids=["date", "control"])
def test_yaml_that_holds_no_config_value_is_refused_like_any_other(text):
    assert refused(text).startswith("run.yaml:1: ")


def test_overrides_are_typed_applied_last_and_in_order():
    config = read(
        "train: {steps: 5}",
        "train.steps=6",
        "train.steps=7",
        "optimizer.learning_rate=1e-4",
        "text.sources=[a.txt, b.txt]",
        "student.tie_word_embeddings=true",
        "signal.path=null",
        "teachers.0.name=a name = with signs",
    )
    assert config.train.steps == 7
    assert config.optimizer.learning_rate == 1e-4
    assert config.text.sources == ("a.txt", "b.txt")
    assert config.student.tie_word_embeddings is True
    assert config.signal.path is None
    assert config.teachers[0].name == "a name = with signs"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps", "-s train.steps: write it as key.path=value."),
        ("=3", "-s =3: write it as key.path=value."),
        ("trian.steps=3", "-s trian.steps: unknown key 'trian'; did you mean 'train'?"),
        ("train.step=3", "-s train.step: unknown key 'step' in train; did you mean 'steps'?"),
        ("seed.x=3", "-s seed.x=3: 'seed' is a value, not a section."),
        ("seed=[", "-s seed=[: the value is not valid YAML."),
    ],
)
def test_a_wrong_override_is_refused_by_its_own_words(override, message):
    assert refused("seed: 1", override) == message


def test_a_wrong_value_in_an_override_is_blamed_on_the_override():
    assert refused("train: {steps: 5}", "train.steps=none").startswith("-s train.steps: train.")


SERVER = "{url: 'http://h/v1', model: m}"
COMPLETIONS = SERVER.replace("{", "{api: completions, ", 1)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "text: {sequence_length: 4096}",
            ("text.sequence_length (4096)", "student.max_position_embeddings (2048)"),
        ),
        (
            "student: {max_position_embeddings: 300}\nevaluate: {continuation_tokens: 253}",
            ("evaluate.continuation_tokens (301)", "student.max_position_embeddings (300)"),
        ),
        ("loss: [{kind: balance}]", ("no term over the vocabulary", "nothing would be learnt")),
        ("loss: [{kind: tvd, weight: 0}]", ("has a weight; nothing would be learnt",)),
        ("loss: []", ("nothing would be learnt",)),
        ("text: {sources: []}", ("text", "sources is empty")),
        (
            "teachers: [{name: a, path: b}, {name: c, path: b}, {name: a, path: d}]",
            ("two teachers are called 'a'",),
        ),
        ("teachers: [{name: a}]", ("teachers.0: teacher 'a' needs a path or an endpoint",)),
        (
            f"teachers: [{{name: a, path: b, endpoint: {SERVER}}}]",
            ("teacher 'a' needs a path or an endpoint, and not both",),
        ),
        (
            f"teachers: [{{name: a, endpoint: {SERVER}, says: top_logprobs}}]",
            ("teacher 'a' is asked for text it writes", "an answers: block"),
        ),
        (
            f"teachers: [{{name: a, endpoint: {COMPLETIONS}, answers: {{prompts: p}}}}]",
            ("teacher 'a' goes on from plain text (endpoint.api: completions)", "form is chat"),
        ),
        (
            f"teachers: [{{name: a, endpoint: {SERVER}, answers: {{prompts: p, form: text}}}}]",
            ("teacher 'a' answers messages (endpoint.api: chat), but answers.form is text",),
        ),
        ("loss: [{kind: tvd}, {kind: hidden_mse}]", ("need signal.mode: hidden and one teacher",)),
        (
            "loss: [{kind: tvd}, {kind: hidden_cosine}]\nsignal: {mode: hidden}\n"
            "teachers: [{name: a, path: b}, {name: c, path: d}]",
            ("need signal.mode: hidden and one teacher",),
        ),
        (
            "rollout: {fraction: 0.5, max_new_tokens: 2017}",
            ("rollout.max_new_tokens (2049)", "max_position_embeddings (2048)"),
        ),
        ("rollout: {fraction: 0.01}", ("rollout.fraction (0.01)", "is none of its rows")),
        (
            "rollout: {fraction: 0.5}\ntrain: {routing_delay: 1}",
            ("does not go with train.routing_delay",),
        ),
        (
            f"rollout: {{fraction: 1}}\nteachers: [{{name: a, endpoint: {SERVER}, "
            "says: prompt_logprobs}]",
            ("rollout.fraction needs a teacher on disk",),
        ),
        (
            "rollout: {fraction: 1}\nloss: [{kind: cross_entropy}]",
            ("rollout.fraction needs a term of the loss that has a teacher",),
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(text, parts):
    message = refused(text)
    assert message.startswith("run.yaml:1: ")
    for part in parts:
        assert part in message


def test_passages_may_be_as_long_as_the_student_reads():
    config = read("student: {max_position_embeddings: 300}\nevaluate: {continuation_tokens: 252}")
    assert config.evaluate.continuation_tokens == 252


def test_a_hidden_term_without_weight_asks_for_nothing():
    assert read("loss: [{kind: tvd}, {kind: hidden_mse, weight: 0}]").uses_teacher


def test_rollouts_off_ask_for_nothing():
    config = read("rollout: {max_new_tokens: 9999}\ntrain: {routing_delay: 1}")
    assert config.rollout.max_new_tokens == 9999


def test_a_server_is_asked_in_the_form_its_answers_are_learnt_in():
    pairs = (SERVER, "chat"), (COMPLETIONS, "text")
    for server, form in pairs:
        row = f"{{name: a, endpoint: {server}, answers: {{prompts: p, form: {form}}}}}"
        assert read(f"teachers: [{row}]").teachers[0].answers.form == form
    for form in ("chat", "text"):
        row = f"{{name: a, path: p, answers: {{prompts: p, form: {form}}}}}"
        assert read(f"teachers: [{row}]").teachers[0].answers.form == form


def test_how_a_server_is_asked_may_change_between_two_calls_and_who_it_is_may_not():
    paced = "retries: 1, concurrency: 2, timeout_seconds: 3, requests_per_minute: 4, key_env: KEY"
    bound = "max_requests: 5, max_tokens: 6, accepted_models: [a]"
    other = SERVER.replace("{", f"{{{paced}, {bound}, ", 1)
    text = (
        "rollout: {{fraction: 0.5, endpoint: {0}}}\nteachers: [{{name: a, path: p}}, "
        "{{name: b, endpoint: {0}, says: prompt_logprobs}}]"
    )
    first, second = read(text.format(SERVER)), read(text.format(other))
    assert first != second and first == first.lasting() == second.lasting()
    for change in ("api: completions", "system: s", "extra: {top_k: 3}", "price_input: 1"):
        changed = read(text.format(SERVER.replace("{", f"{{{change}, ", 1)))
        assert changed == changed.lasting() != first


def test_a_server_may_write_in_the_students_place():
    assert read("rollout: {fraction: 0.5}").rollout.endpoint is None
    asked = read(f"rollout: {{fraction: 0.5, endpoint: {COMPLETIONS}}}").rollout.endpoint
    assert asked is not None and asked.api == "completions"


def test_a_teacher_that_only_writes_does_not_read():
    text = f"teachers: [{{name: a, endpoint: {SERVER}, answers: {{prompts: p}}}}, NEXT]"
    served = text.replace("NEXT", f"{{name: b, endpoint: {SERVER}, says: prompt_logprobs}}")
    assert [teacher.reads for teacher in read(served).teachers] == [False, True]
    disk = read(text.replace("NEXT", "{name: b, path: p, answers: {prompts: p}}")).teachers[1]
    assert disk.reads


def test_a_run_whose_loss_has_no_taught_term_of_any_weight_is_a_control():
    assert RunConfig().uses_teacher
    assert not read("", "loss.forward_kl.weight=0").uses_teacher
    assert not read("loss: [{kind: cross_entropy}, {kind: mtp}, {kind: balance}]").uses_teacher
    assert read("loss: [{kind: cross_entropy}, {kind: sorted_l1}]").uses_teacher


# Terms of the loss, and overrides that reach into lists.


def test_a_loss_is_a_list_of_terms_of_their_kinds_in_order():
    text = (
        "loss:\n- {kind: jsd, mix: 0.5, on: own}\n- {kind: mtp, late: 0}\n"
        "- {kind: cross_entropy, weight: 1e-1}\n- {kind: indexer}\n"
    )
    assert read(text).loss == (
        Divergence(kind="jsd", mix=0.5, on="own"),
        Prediction(late=0.0),
        CrossEntropy(weight=0.1),
        Router(kind="indexer"),
    )


def test_an_unknown_key_of_a_term_names_its_line_the_term_and_the_nearest_name():
    text = "seed: 1\nloss:\n- kind: tvd\n- kind: jsd\n  mix: 0.5\n  wieght: 3\n"
    assert refused(text) == ("run.yaml:6: unknown key 'wieght' in loss.1; did you mean 'weight'?")


def test_a_key_of_another_kind_of_term_is_unknown():
    said = refused("loss:\n- kind: cross_entropy\n  temperature: 2\n")
    assert said == ("run.yaml:3: unknown key 'temperature' in loss.0; known keys: kind, weight.")


def test_an_unknown_kind_of_term_names_its_line_and_the_nearest_kind():
    text = "loss:\n- kind: tvd\n- weight: 2\n  kind: forwad_kl\n"
    assert refused(text) == (
        "run.yaml:4: loss.1.kind 'forwad_kl' is unknown; did you mean 'forward_kl'?"
    )


def test_a_term_without_a_kind_is_told_that_it_needs_one():
    assert refused("loss:\n- weight: 2\n") == "run.yaml:2: loss.0.kind is required and missing."


def test_an_unknown_key_of_a_teacher_names_where_it_is():
    text = f"teachers:\n- name: a\n  pth: b\n- {{name: c, path: d, terms: {STATED}}}\n"
    assert refused(text) == ("run.yaml:3: unknown key 'pth' in teachers.0; did you mean 'path'?")
    deep = text.replace("pth", "path").replace("owner: o", "owner: o, owned: true")
    assert refused(deep) == (
        "run.yaml:4: unknown key 'owned' in teachers.1.terms; did you mean 'owner'?"
    )


TERMS = "loss: [{kind: tvd}, {kind: forward_kl}, {kind: cross_entropy}]\n"


@pytest.mark.parametrize(
    ("override", "place"), [("loss.forward_kl.weight=0.5", 1), ("loss.2.weight=5e-1", 2)]
)
@pytest.mark.parametrize("text", [TERMS, "seed: 3\n" + TERMS])
def test_an_override_names_a_term_by_its_kind_or_its_number(text, override, place):
    weights = [1.0, 1.0, 1.0]
    weights[place] = 0.5
    assert [term.weight for term in read(text, override).loss] == weights


def test_an_override_names_a_teacher_by_its_name_or_its_number():
    text = "teachers: [{name: first, path: a}, {name: second, path: b}]"
    config = read(text, "teachers.second.path=x", "teachers.0.tags=[t]", "teachers.first.weight=2")
    assert [(t.path, t.tags, t.weight) for t in config.teachers] == [
        ("a", ("t",), 2.0),
        ("x", (), 1.0),
    ]


def test_an_override_changes_one_item_of_a_list_that_the_file_leaves_out():
    config = read("seed: 3", "loss.cross_entropy.weight=0.7", "teachers.0.path=x")
    default = RunConfig()
    changed = [(a, b) for a, b in zip(config.loss, default.loss, strict=True) if a != b]
    assert changed == [(CrossEntropy(weight=0.7), CrossEntropy(weight=0.1))]
    assert config.teachers[0].path == "x"
    assert config.teachers[0].name == default.teachers[0].name
    assert config.teachers[0].terms == default.teachers[0].terms


def test_an_override_of_a_whole_list_can_be_changed_by_the_next():
    config = read("", "loss=[{kind: reverse_kl}, {kind: tvd}]", "loss.tvd.weight=3")
    assert config.loss == (Divergence(kind="reverse_kl"), Divergence(kind="tvd", weight=3.0))


def test_an_override_of_what_a_list_has_twice_is_refused():
    twice = "loss: [{kind: tvd}, {kind: tvd, temperature: 2}]"
    assert refused(twice, "loss.tvd.weight=2") == (
        "-s loss.tvd.weight=2: the list has 2 items called 'tvd'; use a number from 0 to 1."
    )
    assert [term.weight for term in read(twice, "loss.1.weight=2").loss] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("loss.tvd.weight=2", "the list has no item called 'tvd'; use a number from 0 to 4."),
        ("loss.5.weight=2", "the list has no item called '5'; use a number from 0 to 4."),
        ("loss.-1.weight=2", "the list has no item called '-1'; use a number from 0 to 4."),
        ("teachers.path=x", "the list has no item called 'path'; use a number from 0 to 0."),
        ("loss.0.weight.x=2", "'weight' is a value, not a section."),
    ],
)
def test_an_override_of_what_a_list_has_not_is_refused(override, said):
    assert refused("", override) == f"-s {override}: {said}"


def test_a_wrong_override_in_a_list_is_blamed_on_the_override():
    assert refused(TERMS, "loss.forward_kl.weight=-1").startswith(
        "-s loss.forward_kl.weight: loss.1.weight: "
    )
    assert refused(TERMS, "loss.tvd.wieght=1") == (
        "-s loss.tvd.wieght: unknown key 'wieght' in loss.0; did you mean 'weight'?"
    )
    assert refused(TERMS, "loss.tvd.kind=tvt") == (
        "-s loss.tvd.kind: loss.0.kind 'tvt' is unknown; did you mean 'tvd'?"
    )


def test_a_config_is_frozen():
    with pytest.raises(AttributeError):
        RunConfig().seed = 3


def test_a_config_file_that_cannot_be_used_is_named(tmp_path):
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"# caf\xe9\nseed: 1\n")
    blank = tmp_path / "blank.yaml"
    blank.write_text(" \n")
    expected = {
        tmp_path / "absent.yaml": "does not exist",
        tmp_path: "is a directory",
        latin: "is not UTF-8 (byte 5)",
        blank: "is empty",
    }
    for path, reason in expected.items():
        with pytest.raises(InputError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path} {reason}")
        assert caught.value.exit_code == 2
