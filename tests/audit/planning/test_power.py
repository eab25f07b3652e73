"""Power is the share of known students found: more prompts find more, and no stranger."""

import pytest

from audit.bank import load
from audit.lineup import index, reading
from audit.lineup.ruling import Rules
from audit.planning.power import Point, Share, needed, power, relations
from tests.fakes import lineups

PEOPLE = [
    *lineups.teachers(4),
    *lineups.unrelated(14),
    *[lineups.student(f"s{n}", n % 4, 0.5) for n in range(8)],
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    bank = load(lineups.write(tmp_path_factory.mktemp("power") / "bank", PEOPLE))
    return bank, index.of(bank, reading.VIEWS, cache=None, tell=lambda done, steps: None)


def counted(world, counts, **changes) -> list[Point]:
    bank, made = world
    given = {"rules": Rules(), "least_prompts": 5, "seed": 0, **changes}
    told: list[tuple] = []
    found = power(bank, made, counts=counts, progress=lambda *said: told.append(said), **given)
    assert told[-1][1] == told[-1][2] == len(told)
    return found


def test_more_prompts_find_more_students_and_no_stranger(world):
    points = counted(world, (5, 20, 1000))
    assert [point.prompts for point in points] == [5, 20, 60]
    found = [point.related["single"] for point in points]
    assert [share.pairs for share in found] == [8, 8, 8]
    assert found[0].supported < found[2].supported
    assert found[2].share >= 0.75
    assert all(point.unrelated.supported == 0 for point in points)
    assert points[0].unrelated.pairs == 8 * 3


def test_counts_below_the_least_and_beyond_all_are_left_out(world):
    assert [p.prompts for p in counted(world, (3, 10, 60, 61), least_prompts=5)] == [10, 60]


def test_with_all_prompts_it_is_what_a_validation_says(world, tmp_path):
    from audit.validate import validate

    bank, _ = world
    found = validate(
        bank.path,
        tmp_path / "out",
        rules=Rules(),
        least_prompts=5,
        cache=None,
        say=lambda said: None,
        progress=lambda *told: None,
    )
    (point,) = counted(world, ())
    assert point.related["single"].supported == found.metrics["by_relation"]["single"]["supported"]


def test_relations_are_those_of_students_whose_teachers_are_in_the_bank(world, tmp_path):
    assert relations(world[0]) == ["single"]
    people = [
        *lineups.teachers(2),
        lineups.student("elsewhere", 7),
        lineups.student("both", 1, relation="mixed"),
    ]
    assert relations(load(lineups.write(tmp_path / "bank", people, prompts=3))) == ["mixed"]


def point(prompts: int, supported: int) -> Point:
    return Point(
        prompts=prompts,
        related={"single": Share(supported=supported, pairs=10)},
        unrelated=Share(supported=0, pairs=0),
    )


@pytest.mark.parametrize(
    ("supported", "wanted", "fewest"),
    [
        ((2, 8, 9), 0.8, 40),
        ((8, 7, 9), 0.8, 80),  # a lucky small draw is not enough
        ((8, 8, 8), 0.8, 20),
        ((1, 2, 3), 0.8, None),
        ((9, 9, 7), 0.8, None),
        ((10, 10, 10), 1.0, 20),
    ],
)
def test_the_number_needed_is_the_least_from_which_on_the_power_holds(supported, wanted, fewest):
    points = [point(n, s) for n, s in zip((20, 40, 80), supported, strict=True)]
    assert needed(points, "single", wanted) == fewest


def test_a_share_of_none_is_nothing_and_its_interval_everything():
    nothing = Share(supported=0, pairs=0)
    assert (nothing.share, nothing.interval) == (0.0, (0.0, 1.0))


def test_banks_are_never_written_to(world):
    bank, _ = world
    before = {path: path.read_bytes() for path in bank.path.rglob("*") if path.is_file()}
    counted(world, (10,))
    assert before == {path: path.read_bytes() for path in bank.path.rglob("*") if path.is_file()}
