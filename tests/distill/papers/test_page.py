"""The run page tells a run from its files, and tells a control from a student."""

import copy
import html
import re

import pytest

from distill.papers import wording
from distill.papers.page import render_run
from tests.fakes import records
from tests.fakes.pages import (
    HOSTILE,
    Page,
    apart,
    assert_policy_allows_the_style_alone,
    assert_self_contained,
    drawings,
)


def draw(metrics=None, evaluation=None, manifest=None, title="a run"):
    return render_run(
        records.metrics() if metrics is None else metrics,
        evaluation or records.evaluation(),
        manifest or records.manifest(),
        records.CONFIG_YAML,
        title,
    )


@pytest.fixture(scope="module")
def page() -> str:
    return draw()


@pytest.fixture(scope="module")
def full() -> str:
    """A page with everything a run may have."""
    return draw(
        metrics=records.metrics(own=True),
        evaluation=records.full_evaluation(),
        manifest=records.full_manifest(),
    )


def prose(page: str) -> str:
    return " ".join(html.unescape(Page(page).text).split())


def section(page: str, anchor: str) -> str:
    """Return the words of one section, those of neighbouring cells apart."""
    (found,) = re.findall(rf'<section id="{anchor}">.*?</section>', page, re.DOTALL)
    return prose(apart(found))


def titles(page: str) -> list[str]:
    return [drawing.findtext("title") for drawing in drawings(page)]


def headings(page: str) -> list[str]:
    """Return the headings that are numbered; that of the first screen is not."""
    return [prose(found) for found in re.findall(r"<h2>(\d.*?)</h2>", page)]


def test_the_page_is_self_contained(page, full):
    assert_self_contained(page)
    assert_self_contained(full)
    assert "http" not in page.replace("http-equiv", "")


def test_the_content_policy_allows_the_style_alone(page, full):
    assert_policy_allows_the_style_alone(page)
    assert_policy_allows_the_style_alone(full)


def test_the_same_run_gives_the_same_bytes(page):
    assert draw() == page


def test_every_number_of_the_evaluation_appears(page):
    shown = set(re.findall(r'<data value="([^"]*)"', page))
    evaluation = records.evaluation()
    numbers = [v for k, v in evaluation["before"].items() if k not in ("tokens", "bytes")]
    numbers += evaluation["after"].values()
    numbers += [v for v in evaluation["teacher"].values() if not isinstance(v, str)]
    assert {repr(number) for number in numbers} <= shown


def test_what_was_not_measured_has_no_tile():
    evaluation = records.evaluation()
    for side in ("before", "after"):
        evaluation[side] |= {"kl": None, "reverse_kl": None, "top1_agreement": None}
    tiles = re.findall(r'<div class="tile">\s*<h3>(.*?)</h3>', draw(evaluation=evaluation))
    assert [prose(tile) for tile in tiles] == ["Bits per byte", "Tokens per second"]
    assert "no divergence is known" in section(draw(evaluation=evaluation), "result")
    assert "no divergence is known" not in prose(draw())


def test_the_machine_is_told_as_far_as_the_record_knows_it():
    manifest = records.manifest()
    manifest["device"] |= {"driver": "570.1", "firmware": "96.00", "toolkit": "CANN"}
    manifest["device"] |= {"cpu": "a processor", "host_memory_bytes": 25_000_000_000}
    text = section(draw(manifest=manifest), "materials")
    for fact in ("Driver 570.1", "Firmware 96.00", "Toolkit CANN", "Processor a processor"):
        assert fact in text
    assert "Memory of the host, bytes 25,000,000,000" in text
    assert "BIOS" not in text


def test_materials_and_configuration_appear(page):
    text = prose(page)
    assert all(name in text for name in ("help-topics.txt", "prompts.jsonl", "torch 2.13.0"))
    assert "preset: tiny" in text
    assert page.count(records.SHA) == 7


def test_the_page_has_curves_loads_and_a_time_split(page):
    assert titles(page) == [
        "Loss",
        "Terms of the network",
        "Learning rate",
        "Gradient norm",
        "Throughput",
        "Heaviest expert over the mean, by layer",
        "Share of each expert over the last 20 steps",
        "Where the time went",
        "Where the time of a training step went",
    ]


def test_every_loss_term_has_its_line_and_its_row(page):
    loss, network = (drawing.findtext("desc") for drawing in drawings(page)[:2])
    named = r"(?:^|\. )([\w -]+): from"
    assert re.findall(named, loss) == ["forward KL", "cross-entropy", "loss as trained"]
    assert re.findall(named, network) == ["balance"]
    names = ["Tokens", "Loss", "Forward KL", "Cross-entropy", "Balance", "Learning rate"]
    told = section(page, "curves").split("First and last step. Figure Step 1 Step 120")[1]
    assert re.search(" .*".join(names), told)
    first, last = (records.metrics()[place]["terms"]["balance"] for place in (0, -1))
    assert f"Balance {first:.3g} {last:.3g}" in told


def test_a_term_that_is_always_nothing_is_left_out(page):
    assert "ndexer" not in section(page, "curves")


def test_a_kind_of_term_that_comes_twice_is_told_apart():
    rows = records.metrics(10)
    for row in rows:
        row["terms"] |= {"jsd": 0.5, "jsd_2": 0.25}
    summary = drawings(draw(metrics=rows))[0].findtext("desc")
    assert (
        "Jensen-Shannon divergence: from 0.5 " in summary
        and "Jensen-Shannon divergence (2): from 0.25 " in summary
    )


def test_a_term_of_some_text_alone_is_named_with_it():
    losses = [{"name": "forward_kl", "kind": "forward_kl", "weight": 0.9, "on": "own"}]
    page = draw(manifest={**records.manifest(), "losses": losses})
    assert "forward KL, own answers: from" in drawings(page)[0].findtext("desc")
    assert "Forward KL, own answers" in section(page, "curves")


def test_a_loss_below_zero_is_drawn_on_a_straight_axis():
    rows = records.metrics(10)
    rows[4]["terms"]["sampled_reverse_kl"] = -0.5
    drawn = drawings(draw(metrics=rows))
    assert "reverse KL, sampled: from \u22120.5" in drawn[0].findtext("desc")
    assert "log scale" not in "".join(drawn[0].itertext())
    assert "log scale" in "".join(drawings(draw())[0].itertext())


def test_sections_are_numbered_without_gaps_and_reached_from_the_top(page, full):
    for drawn in (page, full):
        found = headings(drawn)
        assert [name.split(".")[0] for name in found] == [str(n + 1) for n in range(len(found))]
        (nav,) = re.findall(r"<nav.*?</nav>", drawn, re.DOTALL)
        assert prose(nav) == " ".join(found)
    assert len(headings(page)) == 8
    assert len(headings(full)) == 14


def glance(page: str) -> dict[str, str]:
    """Return the first screen: each question with its answer, and the sections it leads to."""
    found = re.search(r'<section id="glance">.*?</section>', page, re.DOTALL)
    rows = re.findall(r"<dt>(.*?)</dt>(.*?)</div>", found[0] if found else "", re.DOTALL)
    return {prose(asked): prose(apart(answer)) for asked, answer in rows}


def test_the_first_screen_answers_five_questions_each_with_a_link(full):
    said = glance(full)
    assert list(said) == [
        "Did it learn?",
        "What did it cost?",
        "Is it balanced?",
        "What went in, what came out?",
        "What may be published?",
    ]
    learnt, cost, balanced, went, publish = said.values()
    assert learnt.startswith("Better by 3 of 3 held-out measures.")
    assert "bits per byte 2.91 \u2192 to 1.19 (teacher: 0.971)" in learnt
    assert "compared with its teacher: behind 2, ahead 1, not told apart 1" in learnt
    assert cost.startswith("2 min 52 s of capture, training and evaluation.")
    assert "Energy: unknown" in cost and "Money together: at least 0.0861 EUR" in cost
    assert "has 1.17 times the mean; 0 of 64 experts are idle." in balanced
    assert went.startswith("3 in, 1 out, each with its digest.") and "Out: student" in went
    assert "keeps the 2 obligations" in publish and "teacher-b, as stated: conditional" in publish
    anchors = re.findall(r'<dd class="more">(.*?)</dd>', full, re.DOTALL)
    assert all('<a href="#' in links for links in anchors) and len(anchors) == 5


def test_a_measure_that_moved_the_other_way_is_not_called_better():
    evaluation = records.evaluation()
    evaluation["after"] |= {"kl": 3.5, "top1_agreement": 0.08}
    learnt = glance(draw(evaluation=evaluation))["Did it learn?"]
    assert learnt.startswith("Better by 1 of 3 held-out measures.")


def test_the_first_screen_of_a_control_owes_nothing_and_that_of_an_heir_names_its_licence():
    manifest = records.manifest("control")
    page = draw(metrics=records.metrics(control=True), manifest=manifest)
    assert "nothing is owed" in glance(page)["What may be published?"]
    manifest = records.manifest()
    manifest["student"]["inherited"] = {
        "teacher": "teacher-a", "cache": 0.5, "experts": None, "depth": 1,
    }  # fmt: skip
    page = draw(manifest=manifest)
    said = "holds weights of teacher-a, licence as stated: Apache-2.0"
    assert said in glance(page)["What may be published?"]
    lead = prose(page.split('<p class="lead">')[1].split("</p>")[0])
    assert "inherits the weights of teacher-a, with 50% of the teacher's cache." in lead


def test_a_run_without_steps_without_a_bill_and_without_experts_still_answers():
    said = glance(draw(metrics=[]))
    assert "no expert layers" in said["Is it balanced?"]
    assert said["What did it cost?"].startswith("2 min 52 s")


def test_a_control_says_that_it_had_no_signal_and_draws_no_kl():
    page = draw(metrics=records.metrics(control=True), manifest=records.manifest("control"))
    assert "No teacher signal was used in training" in prose(page)
    assert "Control run" in prose(page)
    assert "KL" not in drawings(page)[0].findtext("desc")


def test_a_student_does_not_claim_to_lack_a_signal(page):
    assert "no teacher signal" not in prose(page).lower()


def test_a_student_without_experts_has_no_load_charts():
    rows = [{**row, "expert_load": []} for row in records.metrics()]
    page = draw(metrics=rows)
    assert "The student has no expert layers." in prose(page)
    assert len(drawings(page)) == 7


def test_a_deep_student_has_three_load_lines_and_not_sixty():
    rows = [{**row, "expert_load": row["expert_load"] * 15} for row in records.metrics(40)]
    page = draw(metrics=rows)
    assert "most uneven layer" in page
    assert len(page) < 200_000


def test_a_run_of_no_step_and_a_run_of_one_step_have_pages():
    assert_self_contained(draw(metrics=[]))
    assert_self_contained(draw(metrics=records.metrics(1)))


def test_a_diverged_run_has_a_page():
    rows = records.metrics()
    rows[-1] = {**rows[-1], "loss": float("nan"), "gradient_norm": float("inf")}
    page = draw(metrics=rows)
    assert "not finite" in prose(page)


def test_an_evaluation_without_a_number_says_so():
    evaluation = copy.deepcopy(records.evaluation())
    evaluation["before"]["kl"] = None
    assert re.search('class="absent">(<span class="en">)?none<', draw(evaluation=evaluation))


def test_how_far_behind_is_above_zero_where_the_teacher_is_better(full):
    text = section(full, "behind")
    assert (
        "held-out text bits per byte 1.19 0.971 0.216 0.195 to 0.237 412 in 37 groups behind"
        in text
    )
    assert "arithmetic accuracy 0.41 0.93 0.52 0.46 to 0.58 200 behind" in text
    assert "spelling accuracy 0.88 0.79 \u22120.09 \u22120.14 to \u22120.04 150 ahead" in text
    near = "held-out help topics bits per byte 1.31 1.3 0.008 \u22120.022 to 0.038 120 in 11 groups"
    assert f"{near} not told apart" in text


def test_what_no_teacher_was_asked_stands_alone_with_its_interval(full):
    text = section(full, "behind")
    told = text.split("tell of the student alone")[1]
    assert "riddles accuracy 0.4 0.305 to 0.503 90" in told and "spelling" not in told
    evaluation = records.full_evaluation()
    evaluation["comparison"] = evaluation["comparison"][-1:]
    page = draw(evaluation=evaluation)
    assert "riddles accuracy 0.4 0.305 to 0.503 90" in section(page, "behind")
    assert "asked of both" not in prose(page)


def test_measures_of_different_units_have_charts_of_their_own(full):
    behind = [d for d in drawings(full) if d.findtext("title").startswith("Behind")]
    assert [d.findtext("title") for d in behind] == [
        "Behind the teacher: bits per byte",
        "Behind the teacher: accuracy",
    ]
    assert [d.findtext("desc") for d in behind] == [
        "2 estimates; 1 with the whole interval above zero."
    ] * 2


def test_a_difference_without_an_interval_is_told_and_not_drawn():
    evaluation = records.full_evaluation()
    evaluation["comparison"] = evaluation["comparison"][:1]
    evaluation["comparison"][0] |= {"low": None, "high": None, "clusters": 1}
    page = draw(evaluation=evaluation)
    assert "0.216 one group: no interval 412 in 1 groups not told apart" in section(page, "behind")
    assert not [title for title in titles(page) if title.startswith("Behind")]


def test_a_run_that_was_glanced_at_has_no_own_answers_for_that():
    evaluation = records.full_evaluation()
    found = headings(draw(evaluation=evaluation))
    assert "4. Held-out text during training" in found
    assert not [name for name in found if "Own answers" in name]


def test_counts_of_a_run_have_their_thousands_apart(page):
    text = section(page, "materials")
    assert "Active parameters 9,876,543" in text and "Dtype float32" in text


def test_learning_from_its_own_answers_is_drawn_beside_the_given_text(full):
    assert "learnt from its own answers at 0.5 of the positions" in section(full, "own")
    assert titles(full)[7:10] == [
        "Divergence by whose text",
        "Held-out KL to the teacher",
        "Held-out accuracy: sums, 64 of 200",
    ]
    both = drawings(full)[8].findtext("desc")
    assert "own answers: from 3.4 to 0.71" in both and "given text: from 3.4 to 0.73" in both


def test_steps_that_take_turns_are_drawn_as_two_lines():
    rows = records.metrics(10, own=True)
    for row in rows:
        own = row["step"] % 2
        row.update({"own_tokens": 2048.0 * own, "kl_off" if own else "kl_on": None})
    page = draw(metrics=rows)
    assert "at 0.5 of the positions" in section(page, "own")
    (drawing,) = [d for d in drawings(page) if d.findtext("title") == "Divergence by whose text"]
    lines = [p.get("d") for p in drawing.iter("path") if p.get("class").startswith("line ")]
    assert [d.count("M") for d in lines[2:]] == [1, 1]  # after the two of the key
    assert [d.count("L") for d in lines[2:]] == [4, 4 - 1]


def captions(page: str) -> list[str]:
    return [prose(found) for found in re.findall(r"<figcaption>(.*?)</figcaption>", page)]


def beside(**changes) -> str:
    """Return a page whose second run differs by these from the first."""
    evaluation = records.full_evaluation()
    evaluation["held_out"][1] |= changes
    return draw(evaluation=evaluation)


def test_runs_over_other_tokens_are_drawn_on_one_axis_and_their_budgets_told(full):
    page = beside(tokens=[0, 50_000, 100_000, 150_000, 200_000])
    (drawing,) = [d for d in drawings(page) if d.findtext("title") == "Held-out KL to the teacher"]
    lines = [p.get("d") for p in drawing.iter("path") if p.get("class").startswith("line ")]
    assert [(d.count("M"), d.count("L")) for d in lines[2:]] == [(1, 4), (1, 4)]
    right = [float(re.findall(r"([\d.]+) [\d.]+$", d)[0]) for d in lines[2:]]
    assert right[1] - 54 == pytest.approx((right[0] - 54) * 200_000 / 245_760, abs=0.1)
    assert (
        "Held-out KL to the teacher; given text ends after 200,000 of 245,760 tokens (19% less)"
    ) in captions(page)
    assert "Held-out KL to the teacher" in captions(full)


def test_runs_measured_on_other_text_are_said_to_be():
    found = captions(beside(text="9 tokens, 30 bytes"))
    assert "Held-out KL to the teacher; held-out texts differ" in found
    evaluation = records.full_evaluation()
    del evaluation["held_out"][1]["text"]  # of a run that did not say
    assert "Held-out KL to the teacher" in captions(draw(evaluation=evaluation))


def test_runs_of_one_name_are_told_apart():
    page = beside(name="own answers")
    (drawing,) = [d for d in drawings(page) if d.findtext("title") == "Held-out KL to the teacher"]
    assert "own answers: from 3.4 to 0.71" in drawing.findtext("desc")
    assert "own answers (2): from 3.4 to 0.73" in drawing.findtext("desc")


def test_several_runs_are_not_said_to_prove_anything(full):
    assert "one run, with one seed" in section(full, "glances")
    evaluation = records.full_evaluation()
    evaluation["held_out"] = evaluation["held_out"][:1]
    assert "one run, with one seed" not in prose(draw(evaluation=evaluation))


def test_a_run_on_the_given_text_alone_has_no_section_of_own_answers():
    assert "Own answers" not in prose(draw(metrics=records.metrics(9)))


def test_the_time_of_a_step_is_split_by_stage_and_the_rest_is_named(page):
    split = drawings(page)[-1].findtext("desc")
    assert split == (
        "data 9.6 s; generation 9.6 s; teacher 9.6 s; student 9.6 s; loss 9.6 s; rest 6 s"
    )
    text = section(page, "time")
    assert "in 60 of 120 steps" in text
    assert "teacher 9.6 0.178 0.16" in text


def test_a_run_that_was_not_split_shows_its_stages_alone():
    rows = [{**row, "seconds_by_stage": None} for row in records.metrics(9)]
    page = draw(metrics=rows)
    assert titles(page)[-1] == "Where the time went"
    assert "by stage" not in section(page, "time")


def test_the_bill_shows_amounts_formulas_and_what_is_missing(full):
    text = section(full, "bill")
    assert (
        "Tokens trained on tokens_1 245,760 tokens Positions of all steps, counted by the run"
        in text
    )
    assert "teacher-a, forward flop_1 26 \u00d710\u00b9\u00b2 FLOP A test." in text
    assert "teacher-b, served flop_2 unknown tokens * forward, with tokens 41,000." in text
    assert "To know it: teacher-b is served, so its size is not known here." in text
    assert "device_seconds / 3600 * device_hour, with device_seconds 172; device_hour 1.8." in text
    assert (
        "Energy kilowatt_hours unknown" in text and "To know it: state prices.device_watts." in text
    )
    assert "Money together money at least 0.0861 EUR" in text
    assert "Without Endpoint of teacher-b." in text


def test_teachers_stand_with_their_terms_and_their_share(full):
    text = section(full, "teachers")
    assert f"teacher-a local weights {records.SHA} owned 1 the rest of the text 0.75" in text
    assert "teacher-b endpoint example/teacher-b-2026-10 conditional 0.5 prompts, code 0.25" in text
    for stated in ("https://example.org/terms", "The Example Works", "2026-11-20", "section 3"):
        assert stated in text


def test_what_is_owed_when_publishing_is_listed_with_whom_it_is_owed_to(full, page):
    text = section(full, "teachers")
    assert "Name the teacher in the model card. (teacher-b)" in text
    assert "Show a notice where it is served. (teacher-b)" in text
    assert "No obligation was stated." in section(page, "teachers")
    assert "No obligation" not in text


def test_a_control_owes_nothing_to_a_teacher_it_did_not_learn_from():
    manifest = records.full_manifest()
    manifest["run"]["role"] = "control"
    text = section(draw(manifest=manifest), "teachers")
    assert "nothing is owed" in text and "Name the teacher" not in text


@pytest.mark.parametrize(
    ("stated", "shown"), [(True, "yes"), (False, "no"), ("conditional", "conditional")]
)
def test_what_terms_permit_is_shown_as_stated(stated, shown):
    other = records.teacher(owned=False, terms=records.terms(permits_training=stated))
    text = section(draw(manifest={**records.manifest(), "teachers": [other]}), "teachers")
    assert f"{records.SHA} {shown} 1 all text" in text


def test_vocabularies_are_told_in_words(full):
    text = section(full, "vocabulary")
    assert "Ids of the same bytes in both 49,150" in text
    assert "The first of those, teacher's and student's none" in text
    assert "The first of those, teacher's and student's 3: '!' and 'the'" in text
    assert "bos: \u201c<s>\u201d, \u201c<s>\u201d; pad: none, \u201c<pad>\u201d" in text


def test_how_another_tokenizers_text_was_aligned_is_told_in_words(full):
    same, other = section(full, "vocabulary").split("teacher-b")
    assert "not the student's" not in same
    for said in (
        "28,411 of its 151,936 tokens stand for one of the student's; 30,012 are spelt alike",
        "They are heard at 61,950 of 93,184 positions (66.5%).",
        "90,211 of 93,184 positions of the student's training text (96.8%) are in 61,020 chunks",
        "2 documents could not be aligned: a.txt, b.txt.",
        "At 310 positions of such documents",
        "3 windows are of none of the documents",
    ):
        assert said in other
    assert "chunks:" not in other and "Tokens translated" not in other


def test_an_alignment_of_everything_says_so():
    (_, across) = records.full_manifest()["vocabularies"]
    across["alignment"] |= {"documents_without_chunks": [], "pairs_without_chunks": 0}
    across["alignment"]["windows_unread"] = 0
    for name in ("tokens_spelt_alike", "tokens_translated", "positions_translated"):
        del across[name]
    said = wording.met(across)
    assert len(said) == 3 and said[-1] == "Every document could be aligned."
    across["alignment"]["documents_without_chunks"] = [f"{n}" for n in range(7)]
    assert wording.met(across)[-1] == (
        "7 documents could not be aligned: 0, 1, 2, 3, 4 and 2 more."
    )


def test_a_served_teacher_has_no_vocabulary_to_tell_of():
    page = draw(manifest={**records.manifest(), "vocabularies": [{"teacher": "far"}]})
    assert not [name for name in headings(page) if "Vocabularies" in name]


def test_what_was_seen_of_a_server_stands_with_its_verdict(full, page):
    text = section(full, "served")
    assert "teacher-b example/teacher-b-2026-10, asked for prompt logprobs." in text
    assert "seed the same seed gave two answers failed" in text
    assert (
        "agreement with the same model on disk KL 0.0012 nats a token over 32 positions, 0.0131 at "
        "the worst; the same likeliest token at 97 %; 0.05 is allowed ok" in text
    )
    assert "Checks of served teachers" not in prose(page)


def test_each_teachers_answer_stands_beside_the_students():
    evaluation = records.evaluation()
    evaluation["samples"][1]["teachers"]["teacher-b"] = "While, for."
    text = section(draw(evaluation=evaluation), "answers")
    assert (
        "Name two loops. Teacher teacher-a For and while. Teacher teacher-b While, for. "
        "Student A loop is a loop" in text
    )


def test_a_long_answer_says_how_much_is_left_out():
    evaluation = records.evaluation()
    evaluation["samples"][0]["student"] = "word " * 1_000
    text = section(draw(evaluation=evaluation), "answers")
    assert "word [\u2026 999 more characters in the JSON file]" in text


def test_hostile_text_is_shown_and_never_obeyed():
    evaluation, manifest = records.full_evaluation(), records.full_manifest()
    evaluation["samples"] = [
        {"id": HOSTILE, "prompt": HOSTILE, "teachers": {HOSTILE: HOSTILE}, "student": HOSTILE}
    ]
    evaluation["comparison"][0] |= {"name": HOSTILE, "measure": HOSTILE}
    evaluation["held_out"][0] |= {"name": HOSTILE, "text": HOSTILE, HOSTILE: [1, 2, 3, 4, 5]}
    checks = [dict.fromkeys(("name", "seen", "outcome"), HOSTILE)]
    stated = dict.fromkeys(("teacher", "says", "model"), HOSTILE)
    evaluation["served"] = [{**stated, "checks": checks, "agreement": None}]
    evaluation["bill"]["lines"][0] |= dict.fromkeys(("name", "unit", "formula", "source"), HOSTILE)
    manifest["device"]["name"] = HOSTILE
    manifest["student"]["inherited"] = {
        "teacher": HOSTILE, "cache": 0.5, "experts": None, "depth": 1,
    }  # fmt: skip
    manifest["outputs"][0] = dict.fromkeys(("name", "kind", "sha256", "note"), HOSTILE)
    manifest["inputs"][0] = dict.fromkeys(("name", "kind", "sha256", "note"), HOSTILE)
    stated = ("owner", "url", "retrieved", "sha256", "permits_training", "basis")
    manifest["teachers"][1] |= {
        "name": HOSTILE,
        "model": HOSTILE,
        "tags": [HOSTILE],
        "obligations": [HOSTILE],
        "terms": dict.fromkeys(stated, HOSTILE),
    }
    manifest["vocabularies"][0] |= {"teacher": HOSTILE, "examples": [[1, HOSTILE, HOSTILE]]}
    manifest["vocabularies"][1]["alignment"]["documents_without_chunks"] = [HOSTILE]
    rows = [{**row, "terms": {HOSTILE: 1.0}} for row in records.metrics(5)]
    page = draw(metrics=rows, evaluation=evaluation, manifest=manifest, title=HOSTILE)
    page.encode()
    assert_self_contained(page)
    assert_policy_allows_the_style_alone(page)
    assert "<script>alert(1)</script>" in prose(page)
    assert "\u27e8U+202E\u27e9" in prose(page)


def test_a_long_run_stays_under_two_megabytes():
    rows = records.metrics(20_000, own=True)
    page = draw(
        metrics=rows, evaluation=records.full_evaluation(), manifest=records.full_manifest()
    )
    assert len(page.encode()) < 2_000_000
