"""The report page shows every number of a finding, is the same each time, and runs nothing."""

import dataclasses
import html
import re

import pytest

from audit.attest import digest
from audit.evidence import Controls, Exhibit, Material, Rate, Verdict, from_json, to_json
from audit.report.frame import MOST_BYTES, clip, figure, p_value, style
from audit.report.render import SCALE, parts, render, strength, tally, would_change
from audit.report.reveal import reveal
from tests.fakes import reports
from tests.fakes.pages import (
    HOSTILE,
    Page,
    assert_policy_allows_the_style_alone,
    assert_self_contained,
    drawings,
)


@pytest.fixture(scope="module")
def page() -> str:
    return render(reports.report())


def values(page: str) -> set[str]:
    """Return the exact numbers that the page carries."""
    return set(re.findall(r'<data value="([^"]*)"', page))


def prose(page: str, language: str = "en") -> str:
    return " ".join(html.unescape(Page(page, language).text).split())


def section(page: str, name: str) -> str:
    return page.split(f'<section id="{name}"')[1].split("</section>", maxsplit=1)[0]


def test_the_page_is_self_contained(page):
    assert_self_contained(page)
    assert "http" not in re.sub("http-equiv", "", page)


def test_the_content_policy_allows_the_style_alone(page):
    assert_policy_allows_the_style_alone(page)


def test_the_same_report_gives_the_same_bytes(page):
    again = from_json(to_json(reports.report()))
    assert render(again) == page


def test_the_page_prints_the_digest_of_the_report(page):
    report = reports.report()
    assert digest(to_json(report)) in page
    other = dataclasses.replace(report, command="another")
    assert digest(to_json(other)) in render(other) and digest(to_json(other)) not in page


def test_every_number_of_every_finding_appears(page):
    report = reports.report()
    shown = values(page)
    for finding in (*report.findings, *report.controls.findings):
        names = ("score", "low", "high", "rank", "p_value", "p_adjusted", "log10_lr")
        for name in (*names, "log10_lr_low"):
            assert repr(dataclasses.asdict(finding)[name]) in shown
        for probe in finding.probes:
            numbers = [probe.score, probe.low, probe.high, probe.p_value, probe.n_prompts]
            numbers += [row.p_value for row in probe.replication]
            numbers += [row.n for row in probe.replication]
            numbers += [v for c in probe.contrasts for v in (c.mean, c.low, c.high, c.p_value)]
            assert {repr(number) for number in numbers if number is not None} <= shown


def test_every_text_of_the_report_appears(page):
    report, text = reports.report(), prose(page)
    told = [*report.propositions, *report.limits, report.command, report.controls.description]
    told += [item.reason for item in report.not_run] + [item.would_need for item in report.not_run]
    told += [*report.controls.matched, *report.controls.unmatched, report.suspect.reference]
    told += [probe.null for f in report.findings for probe in f.probes]
    told += [said for f in report.findings for probe in f.probes for said in probe.cannot_say]
    told += [band.word for band in SCALE]
    assert [said for said in told if " ".join(said.split()) not in text] == []


def test_sections_come_in_reading_order(page):
    order = re.findall(r'<section id="([^"]*)"', page)
    assert order == [
        "finding", "meaning", "teachers", "population", "ladder", "controls", "sensitivity",
        "exhibits", "probes", "prior", "materials", "limits", "glossary", "reproduce",
    ]  # fmt: skip


@pytest.mark.parametrize("verdict", Verdict)
def test_each_verdict_has_a_word_and_what_would_change_it(verdict):
    text = prose(render(reports.report(findings=(reports.finding(verdict),))))
    assert verdict.value.replace("_", " ").capitalize() in text
    assert "What would change it." in text


def test_an_insufficient_probe_says_why_and_what_it_would_need(page):
    text = prose(page)
    assert "Why it is insufficient. Only 9 prompts have a checkable answer" in text
    assert "What it would need. About 40 prompts with a checkable wrong answer." in text


def headline(report, language: str = "en") -> str:
    said = section(render(report), "finding").split('<p class="lead answer">')[1].split("</p>")[0]
    return prose(said, language)


def test_the_first_sentence_of_a_finding_weighs_two_propositions_with_its_word():
    single = reports.report(findings=(reports.finding(),))
    assert headline(single) == (
        "For teacher-a, the evidence favours proposition 1, that the answers of student-b-v1 "
        "derive from it, over proposition 2, that they do not: moderate support for proposition "
        "1, likelihood ratio 34.2."
    )
    assert "对命题 1 的中等支持，似然比 34.2" in headline(single, "zh")


def test_the_first_sentence_about_several_teachers_names_those_it_favours_or_none():
    named = headline(reports.report())
    assert named.startswith("Of 2 teachers asked about, the evidence favours proposition 1")
    assert named.endswith(
        "for 1: teacher-a (moderate support for proposition 1, likelihood ratio 34.2)."
    )
    doubtful = tuple(reports.finding(Verdict.INCONCLUSIVE, teacher=name) for name in "xy")
    said = headline(reports.report(findings=doubtful))
    assert said.endswith("for none: 0 supported, 2 inconclusive.")


@pytest.mark.parametrize("verdict", [Verdict.INCONCLUSIVE, Verdict.INSUFFICIENT])
def test_what_is_not_decided_is_said_with_its_reason(verdict):
    finding = reports.finding(verdict)
    said = headline(reports.report(findings=(finding,)))
    assert said.endswith(f": {finding.reason}")
    assert "favours" not in said


def test_ten_questions_lead_to_sections_that_answer_them(page):
    first = section(page, "finding")
    links = re.findall(r'<dt><a href="#([\w-]+)">', first)
    assert len(links) == 10
    assert all(f'<section id="{link}"' in page for link in links)
    questions = first.split('<dl class="pairs questions">')[1].split("</dl>")[0]
    assert not re.search(r"<dd>\s*</dd>", questions)


def test_reports_without_a_ratio_say_so_beside_the_prior():
    report = reports.report(findings=(reports.finding(Verdict.INSUFFICIENT),))
    said = prose(section(render(report), "prior"))
    assert "No finding of this report has a likelihood ratio" in said
    both = (reports.finding(), reports.finding(Verdict.INSUFFICIENT, teacher="teacher-z"))
    said = prose(section(render(reports.report(findings=both)), "prior"))
    assert "Without a likelihood ratio: teacher-z." in said


def test_the_prior_table_is_the_readers_arithmetic(page):
    said = prose(section(page, "prior"))
    assert "That is the reader's to say, not this tool's." in said
    odds = 10**1.534 / 99
    assert f"{odds:.3g} to 1" in said and f"{100 * odds / (1 + odds):.3g} %" in said


def sided(side: str, number: int) -> Exhibit:
    return Exhibit(
        id=f"{side}-{number}", prompt="p", answers={"a": "x", "b": "y"}, note="n", side=side
    )


def test_counter_examples_stand_beside_exhibits_and_are_as_many():
    exhibits = [sided("for", n) for n in range(3)] + [sided("against", n) for n in range(3)]
    probe = dataclasses.replace(reports.probe(), exhibits=tuple(exhibits))
    page = render(reports.report(findings=(reports.finding(probes=(probe,)),)))
    order = re.findall(r"(for|against)-(\d)</span>", section(page, "exhibits"))
    assert order == [(side, str(n)) for n in range(3) for side in ("for", "against")]
    assert "Chosen by rule and not by hand" in prose(section(page, "exhibits"))


def test_what_no_audit_computes_is_named_under_sensitivity(page):
    assert "Not computed: Each reference or control left out in turn" in prose(
        section(page, "sensitivity")
    )


def test_what_the_deciding_probe_needs_is_said_first():
    probe = dataclasses.replace(reports.probe(Verdict.INCONCLUSIVE), would_need="more controls")
    found = dataclasses.replace(reports.finding(probes=(probe,)), verdict=Verdict.INCONCLUSIVE)
    assert would_change(found, ()).startswith("More controls. More reference models")
    # The probe itself supported this one; what would change that is no help to the finding.
    held_back = dataclasses.replace(probe, verdict=Verdict.SUPPORTED)
    found = dataclasses.replace(found, probes=(held_back,))
    assert would_change(found, ()).startswith("More reference models")


def test_an_absent_number_is_named_and_never_zero():
    report = reports.report(
        findings=(reports.finding(Verdict.INSUFFICIENT),),
        controls=Controls(description="None.", findings=(), matched=(), unmatched=()),
    )
    table = section(render(report), "teachers")
    assert table.count('<span class="absent">') == prose(table).count("none") == 5
    assert "<data" not in table


def test_a_report_without_findings_still_has_a_page():
    empty = Controls(description="None.", findings=(), matched=(), unmatched=())
    report = reports.report(
        findings=(), controls=empty, power=(), not_run=(), materials=(), limits=(), settings={}
    )
    assert_self_contained(render(report))


def hostile_report():
    probe = dataclasses.replace(
        reports.probe(),
        probe=HOSTILE,
        reason=HOSTILE,
        null=HOSTILE,
        unit=HOSTILE,
        cannot_say=(HOSTILE,),
        exhibits=(Exhibit(id=HOSTILE, prompt=HOSTILE, answers={HOSTILE: HOSTILE}, note=HOSTILE),),
    )
    finding = dataclasses.replace(
        reports.finding(), teacher=HOSTILE, group=HOSTILE, relation=HOSTILE, probes=(probe,)
    )
    suspect = dataclasses.replace(reports.report().suspect, name=HOSTILE, reference=HOSTILE)
    return reports.report(
        suspect=suspect,
        tool=HOSTILE,
        created=HOSTILE,
        findings=(finding, finding),
        materials=(Material(name=HOSTILE, kind=HOSTILE, sha256=HOSTILE, note=HOSTILE),),
        limits=(HOSTILE,),
        settings={HOSTILE: [HOSTILE]},
        packages={HOSTILE: HOSTILE},
        command=HOSTILE,
    )


def test_hostile_text_is_shown_and_never_obeyed():
    page = render(hostile_report())
    page.encode()
    assert_self_contained(page)
    assert_policy_allows_the_style_alone(page)
    text = prose(page)
    assert "<script>alert(1)</script>" in text
    assert "{{ 7 * 7 }}" in text
    for code in ("U+202E", "U+200B", "U+0000", "U+001B", "U+D800", "U+E0041", "U+2028"):
        assert f"\u27e8{code}\u27e9" in text
    assert len(drawings(page)) == 6


def test_characters_that_readers_need_are_left_alone():
    plain = "caf\u00e9 \u4e2d\u6587 \u05d0\u05d1 tab\tline\n \U0001f600 \u2764\ufe0f"
    assert reveal(plain) == plain


def test_a_large_report_stays_under_two_megabytes():
    probes = tuple(
        reports.probe(
            name=f"probe {i}", prompts=400, references=130, exhibits=6, text="a<b " * 2000
        )
        for i in range(4)
    )
    findings = tuple(reports.finding(teacher=f"t{i}", probes=probes) for i in range(16))
    controls = dataclasses.replace(reports.report().controls, findings=findings[:8])
    page = render(reports.report(findings=findings, controls=controls))
    assert len(page.encode()) <= MOST_BYTES
    assert "more characters in the JSON file" in page
    assert "no room for them" in page
    assert values(page) >= {repr(findings[0].log10_lr), repr(probes[0].p_value)}


def test_twelve_teachers_with_every_number_stay_under_two_megabytes():
    probe = reports.probe(prompts=400, references=200, exhibits=4)
    findings = tuple(reports.finding(teacher=f"t{i}", probes=(probe,)) for i in range(12))
    page = render(reports.report(findings=findings))
    assert len(page.encode()) <= MOST_BYTES
    assert page.count("<td>reference-199</td>") == 12
    assert page.count(f"<td>{probe.prompts[-1].id}</td>") == 12
    assert "more characters in the JSON file" not in page
    assert "十个问题" in page


def test_an_impossible_report_is_an_error_and_not_a_huge_file():
    with pytest.raises(ValueError, match="exceed"):
        render(reports.report(limits=("x" * MOST_BYTES,)))


def test_drawings_are_well_formed(page):
    found = drawings(page)
    assert len(found) == 6
    assert all(drawing.findtext("title") for drawing in found)


@pytest.mark.parametrize(
    ("log10_lr", "words"),
    [
        (None, "no likelihood ratio"),
        (0.0, "no support for either proposition"),
        (0.29, "no support for either proposition"),
        (0.31, "weak support for proposition 1"),
        (1.0, "moderate support for proposition 1"),
        (2.5, "moderately strong support for proposition 1"),
        (-3.2, "strong support for proposition 2"),
        (4.0, "very strong support for proposition 1"),
        (6.5, "extremely strong support for proposition 1"),
        (400.0, "extremely strong support for proposition 1"),
    ],
)
def test_likelihood_ratios_have_the_words_of_the_scale(log10_lr, words):
    assert strength(log10_lr) == words


def test_a_tally_always_says_how_many_are_supported():
    assert tally([reports.finding(Verdict.INCONCLUSIVE)]) == "0 supported, 1 inconclusive"
    assert tally([]) == "0 supported"


def test_values_keep_the_exact_number_for_machines():
    assert figure(0.123456) == '<data value="0.123456">0.123</data>'
    assert p_value(0.5) == '<data value="0.5">0.500</data>'
    assert p_value(0.00031) == '<data value="0.00031">0.00031</data>'
    assert "0" not in figure(None)


def test_a_cut_text_says_how_much_is_missing():
    assert clip("abc", 3) == "abc"
    assert clip("a" * 1500, 100).endswith("[\u2026 1,400 more characters in the JSON file]")


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


TOKENS = dict(
    (name, (light, dark))
    for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\);", style())
)
GROUNDS = {"paper", "surface", "sunken"}
ORNAMENT = {"rule", "grid"}


def test_every_colour_is_a_token_of_both_themes():
    used = set(re.findall(r"var\(--([\w-]+)\)", style()))
    assert used <= TOKENS.keys()
    assert GROUNDS | ORNAMENT < TOKENS.keys()
    rest = re.sub(r":root \{.*?\}", "", style(), count=1, flags=re.DOTALL)
    screen = rest.split("@media print {")[0]
    assert not re.search(r"#[0-9a-f]{3,8}\b", screen)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("name", sorted(TOKENS.keys() - GROUNDS - ORNAMENT))
def test_text_and_marks_have_contrast_enough(name, theme):
    for ground in GROUNDS:
        assert contrast(TOKENS[name][theme], TOKENS[ground][theme]) >= 4.5


def rate(name: str, alpha: float, share: float, *, corrected: bool) -> Rate:
    return Rate(
        name=name,
        alpha=alpha,
        votes=40.0,
        share=share,
        low=share / 2,
        high=share * 2,
        corrected=corrected,
    )


def test_a_part_of_the_error_rates_is_one_row_with_what_the_correction_changed():
    rates = [
        rate("all", 0.05, 0.04, corrected=False),
        rate("all", 0.01, 0.008, corrected=False),
        rate("groups of acme", 0.05, 0.2, corrected=False),
        rate("groups of acme", 0.01, 0.1, corrected=False),
        rate("all", 0.05, 0.04, corrected=True),
        rate("all", 0.01, 0.008, corrected=True),
        rate("groups of acme", 0.05, 0.06, corrected=True),
        rate("groups of acme", 0.01, 0.1, corrected=True),
    ]
    plain, acme = parts(rates)
    assert (plain.name, plain.votes, plain.after) == ("all", 40.0, (None, None))
    assert [one.alpha for one in plain.before] == [0.05, 0.01]
    assert acme.after == (rates[6], None)


def test_without_any_rate_or_vote_there_is_no_part():
    assert parts([]) == []
    assert parts([dataclasses.replace(rate("all", 0.05, 0.0, corrected=False), votes=0.0)]) == []


def test_error_rates_stand_in_one_table_whose_cells_are_labelled():
    rates = (
        rate("all", 0.05, 0.04, corrected=False),
        rate("groups of <acme>", 0.05, 0.2, corrected=False),
        rate("groups of <acme>", 0.05, 0.06, corrected=True),
    )
    page = render(reports.report(error_rates=rates))
    (table,) = re.findall(
        r"<table[^>]*>\s*<caption><span class=\"en\">How often documented.*?</table>",
        page,
        re.DOTALL,
    )
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", table, re.DOTALL)
    assert [row.count('data-label="p ≤ 0.05"') for row in rows] == [1, 1]
    assert "groups of &lt;acme&gt;" in rows[1]
    assert ["after that: " in row for row in rows] == [False, True]
