"""The page of a validation says its own words in Chinese too, and of a ruling what it says."""

import re
import tomllib
from importlib.resources import files

import pytest

from audit.evidence import Verdict
from audit.lineup.ruling import NONE, NOT_SEPARATED, OPEN, SAME_WEIGHTS, SERVED, SIBLING, TRAINED
from audit.report import validation as page
from audit.report.languages import Catalogue
from tests.fakes import validations
from tests.fakes.pages import left_in_english, said_by
from tests.fakes.validations import judged, validation

WORDS = Catalogue.load(("audit.report",))
TEMPLATE = files("audit.report").joinpath("validation.html.j2").read_text(encoding="utf-8")
# Names, abbreviations of the field, and the reasons of findings, which are records' words.
NAMES = (
    "tiny-bank", "spiritsafe.validation/1", "SHA-256", "AUC", "F0.5u", "TPR", "c@1", "log10",
    "positive", "negative", "unknown", "Benjamini", "Hochberg", "Wilson", "Tippett", "Cllr",
    "Brier", "ENFSI", "findings.jsonl", "verdicts.csv", "metrics.json",
)  # fmt: skip
MODELS = re.compile(r"(?:model|maker|student|family)-[\w-]+|maker-\w")


def models(html: str) -> set[str]:
    return set(MODELS.findall(html))


@pytest.fixture(scope="module")
def pages() -> list[str]:
    """Return pages of validations that have, together, everything to say."""
    every = [
        judged(f"model-{place}", truth=truth, verdict=verdict, role=role, documented=documented)
        for place, (truth, verdict, role, documented) in enumerate(
            [
                ("negative", Verdict.SUPPORTED, "control", "none"),
                ("unknown", Verdict.SUPPORTED, "vendor", "edited"),
                ("positive", Verdict.NOT_SUPPORTED, "student", "mixed"),
                ("positive", Verdict.INSUFFICIENT, "teacher", "derivative"),
                ("positive", Verdict.SUPPORTED, "student", "edited"),
            ]
        )
    ]
    makers = [f"maker-{place}" for place in range(page.MOST_SHARES + 2)]
    crowd = [judged(f"model-{place}", score=1.0) for place in range(60)]
    return [
        page.render(validation()),
        page.render(validation(every, calibration=validations.strata(makers))),
        page.render(validation([], calibration=())),
        page.render(validation(crowd)),
        page.render(validation(validations.population(models=12, groups=210))),
    ]


def test_every_word_of_the_template_has_its_chinese():
    assert not [said for said in said_by(TEMPLATE) if WORDS.in_chinese(said) is None]


def test_every_heading_relation_and_word_has_its_chinese():
    names = [name for _, name in page.SECTIONS] + [*page.RELATIONS, *page.RELATIONS.values()]
    names += [*page.ROLES, *page.WORDS.values(), *(band.word for band in page.SCALE)]
    names += [TRAINED, SERVED, SAME_WEIGHTS, NOT_SEPARATED, SIBLING, NONE, OPEN]
    names += validations.CHECKS
    assert not [name for name in names if WORDS.chinese(name) is None]


def test_no_page_leaves_its_reader_with_english(pages):
    for drawn in pages:
        assert left_in_english(drawn, {*NAMES, *models(drawn)}) == []


def test_no_entry_of_the_page_is_idle(pages):
    said, shown = said_by(TEMPLATE), "".join(pages)
    place = files("audit.report").joinpath("zh", "validation.toml")
    idle = [
        english
        for english, chinese in tomllib.loads(place.read_text("utf-8")).items()
        if english not in said
        and not all(part in shown for part in re.split(r"\{\w+\}", chinese.rstrip("。")))
    ]
    assert idle == []
