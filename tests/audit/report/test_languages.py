"""A page says everything in both languages, and what a record holds stays what it is."""

import re
import tomllib
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from audit.report.languages import Catalogue
from tests.fakes.pages import HOSTILE

WORDS = Catalogue.of(
    {
        "Finding": "结论",
        "suspect": "受测模型",
        "{n} teachers were asked about.": "共询问 {n} 个教师模型。",
        "{name}: from {low} to {high}": "{name}：由 {low} 到 {high}",
        "with {m} reference models no p-value can be below {p}": (
            "仅有 {m} 个参照模型，p 值不可能低于 {p}"
        ),
    }
)


def spans(markup: Markup) -> dict[str, str]:
    return dict(re.findall(r'<span class="(en|zh)"[^>]*>(.*?)</span>', markup))


def test_a_sentence_stands_in_both_languages():
    assert spans(WORDS.say("Finding")) == {"en": "Finding", "zh": "结论"}


def test_a_capital_and_a_full_stop_do_not_make_another_sentence():
    assert WORDS.chinese("Finding.") == "结论。"
    assert WORDS.chinese("finding") == "结论"


def test_places_are_filled_alike_in_both():
    said = spans(WORDS.say("{n} teachers were asked about.", n=12))
    assert said == {"en": "12 teachers were asked about.", "zh": "共询问 12 个教师模型。"}


def test_words_of_a_record_are_found_by_their_pattern():
    told = spans(WORDS.told("With 2 reference models no p-value can be below 0.33."))
    assert told["zh"] == "仅有 2 个参照模型，p 值不可能低于 0.33。"


def test_what_stands_in_a_place_is_translated_where_it_has_an_entry():
    assert WORDS.chinese("suspect: from 1 to 2") == "受测模型：由 1 到 2"
    assert WORDS.chinese("vicuna: from 1 to 2") == "vicuna：由 1 到 2"


def test_sentences_are_translated_one_by_one_and_others_stay():
    assert WORDS.chinese("Finding. Nobody knows this. Suspect.") == (
        "结论。Nobody knows this. 受测模型。"
    )


def test_a_sentence_without_an_entry_is_translated_clause_by_clause():
    assert WORDS.chinese("Suspect; nobody knows. Finding: suspect.") == (
        "受测模型；nobody knows. 结论：受测模型。"
    )


def test_a_place_at_the_end_holds_no_further_sentence():
    assert (
        WORDS.chinese("one: from 1 to 2. two: from 3 to 4.") == "one：由 1 到 2。two：由 3 到 4。"
    )


def test_a_name_that_looks_like_a_short_key_stays_what_it_is():
    words = Catalogue.of({"{n} of {m}": "{m} 中的 {n}"})
    assert words.chinese("House of cards") is None
    assert words.chinese("3 of 1,200") == "1,200 中的 3"
    assert spans(words.say("{n} of {m}", n="any", m="all"))["zh"] == "all 中的 any"


def test_several_things_in_a_place_are_translated_one_by_one():
    words = Catalogue.of(
        {
            "{name}: shares {facts}": "{name}：共有{facts}",
            "text": "文本",
            "number of steps": "步数",
            "{n} supported": "{n} 个获支持",
        }
    )
    assert words.chinese("c-1: shares text, number of steps") == "c-1：共有文本、步数"
    assert words.chinese("c-1: shares text, colour") == "c-1：共有文本、colour"
    assert words.chinese("1 supported, 2 supported") == "1 个获支持、2 个获支持"
    assert words.chinese("text, colour") is None


def test_a_place_called_n_holds_a_number():
    words = Catalogue.of({"{n} references": "{n} 个参照模型"})
    assert words.chinese("12 references") == "12 个参照模型"
    assert words.chinese("prompts and references") is None


def test_two_translations_of_a_sentence_are_refused(tmp_path, monkeypatch):
    for name, entry in (("one", '"Finding." = "结论"'), ("two", '"finding" = "发现"')):
        place = tmp_path / name / "zh"
        place.mkdir(parents=True)
        (tmp_path / name / "__init__.py").touch()
        (place / "words.toml").write_text(entry, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="two translations"):
        Catalogue.load(("one", "two"))


def test_a_title_has_its_places_filled_in_both():
    words = Catalogue.of({"Audit of {suspect}": "对 {suspect} 的审计"})
    assert words.title("Audit of {suspect}", suspect="m") == "Audit of m · 对 m 的审计"


def test_what_is_in_both_already_is_told_as_it_is():
    said = WORDS.say("Finding")
    assert WORDS.told(said) == said


def test_what_has_no_entry_stays_as_it_is_without_spans():
    assert WORDS.told("Nobody knows <this>.") == Markup("Nobody knows &lt;this&gt;.")
    assert WORDS.chinese("") is None


def test_what_a_suspect_wrote_is_escaped_and_shown_in_both():
    said = str(WORDS.say("{n} teachers were asked about.", n=HOSTILE))
    told = str(WORDS.told(f"{HOSTILE}: from 1 to {HOSTILE}"))
    for markup in (said, told):
        assert "<script" not in markup and "<img" not in markup and "\u202e" not in markup
        assert "⟨U+202E⟩" in markup and markup.count("alert(1)") % 2 == 0


def test_markup_among_the_values_stays_markup():
    said = WORDS.say("{n} teachers were asked about.", n=Markup("<b>3</b>"))
    assert said.count("<b>3</b>") == 2


def test_a_cell_names_its_column_in_both_languages():
    assert WORDS.label("Finding") == 'data-label="Finding" data-label-zh="结论"'
    assert WORDS.label("Other") == 'data-label="Other" data-label-zh="Other"'


def test_a_drawing_has_its_words_in_both_languages_and_its_numbers_once():
    drawn = Markup("<svg><title>Finding</title><text x='1'>suspect</text><text>0.5</text></svg>")
    made = WORDS.drawing(drawn)
    assert '<title>Finding</title><title lang="zh-Hans">结论</title>' in made
    assert (
        "<text x='1'><tspan class=\"en\">suspect</tspan>"
        '<tspan class="zh" lang="zh-Hans">受测模型</tspan></text>' in made
    )
    assert made.count("0.5") == 1


def test_a_long_hostile_text_is_matched_in_one_pass():
    patterns = {f"a{{x}} b{{y}} c{{z}} d{{w}} e{place}": "无" for place in range(200)}
    words, text = Catalogue.of(patterns), "a" + " b c d" * 330
    assert words.chinese(text) is None  # by backtracking it would take years


@given(st.text(max_size=60))
def test_no_text_breaks_the_catalogue(text):
    for one in (text, f"{text}: from {text} to 2"):
        assert "<" not in WORDS.told(one).replace("<span", "").replace("</span>", "")


PACKAGES = ("audit.report", "distill.papers")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_shipped_entry_has_the_same_places_in_both_languages(package):
    for place in files(package).joinpath("zh").iterdir():
        for english, chinese in tomllib.loads(place.read_text(encoding="utf-8")).items():
            names = [set(re.findall(r"\{(\w+)\}", one)) for one in (english, chinese)]
            assert names[0] == names[1], english
            assert re.search(r"[\u4e00-\u9fff]", chinese) or "{" in chinese, english


def test_the_catalogue_of_all_packages_loads():
    assert Catalogue.load(PACKAGES).chinese("Skip to the content") == "跳到正文"
