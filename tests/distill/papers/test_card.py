"""The model card repeats the record: teachers, their terms, the bill; and claims no more."""

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from audit.report.reveal import reveal
from distill.papers.card import model_card
from tests.fakes import records


def card(manifest=None, evaluation=None):
    return model_card(evaluation or records.evaluation(), manifest or records.manifest())


def header(text):
    return yaml.safe_load(text.split("---")[1])


def test_the_header_names_all_teachers_and_no_base_model():
    found = header(card(records.full_manifest()))
    assert found["distilled_from"] == ["teacher-a", "teacher-b"]
    assert found["tags"] == ["distillation", "mla", "mixture-of-experts"]
    assert "base_model" not in found and "license" not in found


def test_a_name_that_yaml_would_read_otherwise_stays_a_name():
    manifest = records.manifest()
    manifest["teachers"][0]["name"] = name = 'yes: "no" # \u00e9\u202e'
    assert header(card(manifest))["distilled_from"] == [name]


def test_it_says_what_the_student_is_and_learnt_by():
    text = card()
    assert "A `deepseek_v3` language model with 12,345,678 parameters" in text
    assert "distilled from teacher-a, on 245,760 tokens of help-topics.txt." in text
    assert "learnt by forward KL (0.9) and cross-entropy (0.1), weights in brackets." in text
    assert "| KL to the teacher, nats a token | 3.412 | 0.613 |" in text


def test_a_term_of_no_weight_or_of_the_network_is_not_named():
    manifest = records.manifest()
    manifest["losses"].append({"name": "jsd", "kind": "jsd", "weight": 0.0})
    manifest["losses"].append({"name": "indexer", "kind": "indexer", "weight": 1.0})
    assert "Jensen" not in card(manifest) and "indexer" not in card(manifest)


def test_terms_and_obligations_are_copied_with_whom_they_are_of():
    text = card(records.full_manifest())
    assert "| teacher-a | Apache-2.0 | owned | not stated |" in text
    assert "| conditional | <https://example.org/terms>, read 2026-11-20 |" in text
    assert "- name the teacher in the model card (teacher-b)\n" in text
    assert "- show a notice where it is served (teacher-b)\n" in text


def test_without_obligations_there_is_no_list_of_them():
    assert "oblige" not in card()


def test_a_control_has_no_teacher():
    text = card({**records.full_manifest(), "run": records.manifest("control")["run"]})
    assert "trained without a teacher, as a control" in text
    assert "distilled_from" not in header(text)
    assert header(text)["tags"][0] == "control"
    assert "teacher-b" not in text


def test_the_bill_and_the_comparison_are_there_where_the_run_has_them():
    full, bare = card(evaluation=records.full_evaluation()), card()
    assert "| arithmetic | accuracy | 0.41 | 0.93 | 0.52 [0.46, 0.58] | behind |" in full
    assert "| not told apart |" in full
    assert "172 device-seconds, energy unknown (state prices.device_watts)" in full
    assert "## Bill" not in bare and "behind" not in bare


def test_what_no_teacher_was_asked_stands_apart():
    full = card(evaluation=records.full_evaluation())
    before, after = full.split("## What no teacher was asked")
    assert "| riddles | accuracy | 0.4 [0.305, 0.503] | 90 |" in after
    assert "riddles" not in before and "What no teacher" not in card()


def test_a_difference_without_an_interval_is_told_without_one():
    evaluation = records.full_evaluation()
    evaluation["comparison"][0] |= {"low": None, "high": None}
    assert "| 0.216 | not told apart |" in card(evaluation=evaluation)


def test_only_a_small_student_is_said_to_write_fragments():
    manifest = records.manifest()
    assert "fragments" in card(manifest)
    manifest["run"]["parameters"] = 2_000_000_000
    assert "fragments" not in card(manifest)


def test_a_name_stays_inside_its_cell():
    manifest = records.full_manifest()
    manifest["teachers"][1]["name"] = "a | b\n# c"
    assert "| a \\| b # c | not stated |" in card(manifest)


def test_the_hubs_own_parser_reads_the_header_and_writes_it_back():
    manifest = records.full_manifest()
    manifest["student"]["inherited"] = {
        "teacher": "org/teacher-a",
        "cache": 0.5,
        "experts": None,
        "depth": 1,
    }
    found = ModelCard(card(manifest)).data.to_dict()
    assert found["distilled_from"] == ["teacher-a", "teacher-b"]
    assert found["base_model"] == "org/teacher-a"
    assert found["library_name"] == "transformers"
    assert found["pipeline_tag"] == "text-generation"
    again = ModelCard(str(ModelCard(card(manifest))))
    assert again.data.to_dict() == found


HOSTILE = (
    "a\n---\nlicense: mit\n---\n", "<script>alert(1)</script>", "![x](javascript:alert(1))",
    "\U0001f600 \u6559\u5e08 \u202e", "\x00\x1b[31m\x85\u2028", "\ud800", "- [ ] *a* _b_ ~~c~~",
    "{{ x }} {% y %} ${z}", "'\"` \\", "&lt; &#x3c;", "# a", "1. a", "| a |", "https://example.com",
    "www.example.com", "*" * 3000, "!!python/object:os.system", "&anchor *alias", "- ", "",
)  # fmt: skip


def named(name):
    """Return a card with one name in every place where a name can stand."""
    manifest, evaluation = records.full_manifest(), records.full_evaluation()
    manifest["teachers"][0] |= {"name": name, "licence": name}
    manifest["teachers"][1] |= {"obligations": [name]}
    manifest["inputs"][0]["name"] = evaluation["comparison"][0]["name"] = name
    manifest["student"]["inherited"] = {"teacher": name, "cache": 0.5, "experts": None, "depth": 1}
    return card(manifest, evaluation)


def shape(markdown):
    """Return what a renderer makes of it: everything but the text."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    blocks = parser.parse(markdown)
    marks = [mark for block in blocks for mark in (block, *(block.children or ()))]
    text = ("text", "text_special", "softbreak")
    return [(mark.type, mark.tag, mark.attrs) for mark in marks if mark.type not in text]


def words(markdown):
    """Return the text that a reader sees."""
    blocks = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    marks = [mark for block in blocks for mark in block.children or ()]
    return "".join(mark.content for mark in marks)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_a_name_in_the_header_and_text_in_the_body(name):
    made = named(name)
    found = ModelCard(made)
    assert found.data.to_dict()["distilled_from"] == [name, "teacher-b"]
    assert found.data.to_dict()["base_model"] == name
    assert "license" not in found.data.to_dict()
    assert made[: -len(found.text)].isascii()
    assert shape(found.text) == shape(ModelCard(named("a name")).text)
    assert words(found.text).count(" ".join(reveal(name).split())) >= 5
    if name.startswith(("http", "www")):  # no renderer is to find a link that has no marks
        assert name not in found.text
