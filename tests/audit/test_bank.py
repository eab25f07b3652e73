"""A bank is read as it stands on disk, and what contradicts itself is refused with its line."""

import os
from datetime import date
from pathlib import Path

import pytest

from audit.bank import Bank, Group, Model, Truth, answer_files, load, read_labels
from audit.errors import InputError
from tests.fakes import banks

REAL = Path(__file__).parents[3] / "shared" / "lineage"


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return load(banks.tiny(tmp_path / "bank"))


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load(path)
    sentence = str(caught.value)
    assert str(path) in sentence and "\n" not in sentence
    return sentence


def edited(path: Path, table: str, old: str, new: str) -> Path:
    """A tiny bank with one text of one of its tables replaced."""
    banks.tiny(path)
    text = (path / table).read_text()
    assert old in text
    (path / table).write_text(text.replace(old, new, 1))
    return path


# What is read.


def test_models_come_in_the_order_of_the_table_with_what_it_says(bank):
    assert [model.name for model in bank.models] == ["a-1", "a-2", "b-1", "pupil", "lone"]
    assert bank.model("pupil") == Model(
        name="pupil",
        family="pupil",
        role="student",
        group=None,
        teachers=("A",),
        relation="single",
        confidence="",
        source="",
        same_base_as=None,
        published=None,
    )
    with pytest.raises(KeyError):
        bank.model("nobody")


def test_groups_and_truths_are_read(bank):
    assert bank.groups == (
        Group(name="A", vendor="alpha", launch=date(2022, 11, 30), members=("a-1", "a-2")),
        Group(name="B", vendor="beta", launch=None, members=("b-1",)),
    )
    assert len(bank.truths) == 5
    assert bank.truths["pupil", "A"] == Truth(truth="positive", basis="documented")


def test_without_groups_and_pairs_there_are_none(tmp_path):
    bank = load(banks.write(tmp_path, {"one": {"p": "text"}}))
    assert bank.groups == () and bank.truths == {}


def test_only_three_columns_are_needed_and_unknown_ones_are_ignored(tmp_path):
    banks.write(tmp_path, {"one": {"p": "x"}}, labels={"one": {"colour": "red"}})
    assert load(tmp_path).model("one").family == "one"


def test_several_teachers_and_members_are_parted_by_semicolons(tmp_path):
    edited(tmp_path, "models.csv", ",A,single", ", B ;A;;B,single")
    assert load(tmp_path).model("pupil").teachers == ("B", "A")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("folder", ["responses", "public", "any name"])
def test_answers_are_found_in_any_subfolder_packed_or_not(tmp_path, folder, packed):
    banks.write(tmp_path, {"one": {"p": "x", "q": ""}}, folder=folder, packed=packed)
    answers = load(tmp_path).answers("one")
    assert list(answers) == ["p", "q"]
    assert (answers["p"].prompt, answers["p"].response, answers["q"].response) == (
        "prompt p",
        "x",
        "",
    )


@pytest.mark.parametrize(
    "name", ["gpt+4.0 (new)", "a.jsonl", "x.gz", "模型", "-n", "100%", "it's", "a=b", "[a]*?"]
)
def test_names_may_hold_signs_that_mean_something_elsewhere(tmp_path, name):
    banks.write(tmp_path, {name: {"p": "x"}, "other": {"p": "y"}}, packed=name == "x.gz")
    bank = load(tmp_path)
    assert bank.models[0].name == name
    assert bank.answers(name)["p"].response == "x"


def test_files_may_differ_in_order_and_coverage(tmp_path):
    banks.write(tmp_path, {"one": {"p": "1", "q": "2"}, "two": {"r": "3", "p": "4"}})
    bank = load(tmp_path)
    assert list(bank.answers("two")) == ["r", "p"]


@pytest.mark.parametrize("name", ["one.jsonl", "one.jsonl.gz"])
def test_a_file_without_a_row_holds_no_answers(tmp_path, name):
    banks.write(tmp_path, {"one": {}}, packed=name.endswith(".gz"))
    bank = load(tmp_path)
    assert bank.files["one"].name == name
    assert bank.answers("one") == {}


def test_a_broken_answers_file_is_refused_when_it_is_read(tmp_path):
    banks.write(tmp_path, {"one": {"p": "x"}}, packed=True)
    bank = load(tmp_path)
    bank.files["one"].write_bytes(bank.files["one"].read_bytes()[:-9])
    with pytest.raises(InputError, match="cannot be read"):
        bank.answers("one")


def test_an_id_given_twice_is_refused_when_it_is_read(tmp_path):
    banks.write(tmp_path, {"one": {"p": "x"}})
    bank = load(tmp_path)
    bank.files["one"].write_bytes(2 * bank.files["one"].read_bytes())
    with pytest.raises(InputError, match="line 2: id 'p' was on line 1 already"):
        bank.answers("one")


def test_hidden_folders_and_files_beside_the_answers_do_not_disturb(tmp_path):
    banks.tiny(tmp_path)
    banks.answers_file(tmp_path / ".trash" / "a-1.jsonl", {"p": "old"})
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read.me").write_text("by hand")
    (tmp_path / "responses" / "._a-1.jsonl").write_bytes(b"\0\5\x16\7")
    assert "._a-1" not in answer_files(tmp_path)
    assert len(load(tmp_path).files) == 5


@pytest.mark.parametrize(
    ("written", "first", "last"),
    [
        ("2023-07-15", date(2023, 7, 15), date(2023, 7, 15)),
        ("2024-02", date(2024, 2, 1), date(2024, 2, 29)),
        ("2023-12", date(2023, 12, 1), date(2023, 12, 31)),
        ("2023", date(2023, 1, 1), date(2023, 12, 31)),
    ],
)
def test_a_vague_date_never_makes_a_group_older_or_a_suspect_younger_than_it_may_be(
    tmp_path, written, first, last
):
    edited(tmp_path / "l", "groups.csv", "2022-11-30", written)
    assert load(tmp_path / "l").groups[0].launch == first
    edited(tmp_path / "p", "models.csv", "2023-07-15", written)
    assert load(tmp_path / "p").model("a-2").published == last


@pytest.mark.parametrize("table", ["models.csv", "groups.csv", "pairs.csv"])
def test_marks_line_ends_spaces_and_blank_lines_of_spreadsheets_do_not_matter(tmp_path, table):
    path = banks.tiny(tmp_path)
    before = load(path)
    text = (path / table).read_text().replace("\n", "\r\n\r\n,\r\n").replace(",", " , ")
    (path / table).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load(path) == before


# The digest.


def test_the_digest_pins_tables_and_answers_and_nothing_else(tmp_path):
    path = banks.tiny(tmp_path)
    before = load(path).sha256()
    (path / "README.md").write_text("more")
    assert load(path).sha256() == before
    for file in ("models.csv", "groups.csv", "pairs.csv", "responses/lone.jsonl"):
        whole = (path / file).read_bytes()
        (path / file).write_bytes(whole + b"\n")
        assert load(path).sha256() != before, file
        (path / file).write_bytes(whole)
    assert load(path).sha256() == before


def test_the_digest_changes_when_two_models_swap_their_answers(tmp_path):
    one, two = ({"m": {"p": a}, "n": {"p": b}} for a, b in ("xy", "yx"))
    first = load(banks.write(tmp_path / "1", one)).sha256()
    assert load(banks.write(tmp_path / "2", two)).sha256() != first
    assert load(banks.write(tmp_path / "3", one)).sha256() == first


def test_reading_writes_nothing(tmp_path):
    path = banks.tiny(tmp_path)
    for folder in (path / "responses", path):
        folder.chmod(0o555)
    before = sorted((p, p.stat().st_mtime_ns) for p in path.rglob("*"))
    bank = load(path)
    bank.sha256()
    bank.answers("lone")
    assert sorted((p, p.stat().st_mtime_ns) for p in path.rglob("*")) == before
    for folder in (path, path / "responses"):
        folder.chmod(0o755)


# What is refused.


def test_a_place_that_is_no_bank_is_refused(tmp_path):
    assert "is not a directory" in refusal(tmp_path / "nowhere")
    assert "has no models.csv" in refusal(tmp_path)


def test_a_model_without_answers_is_refused_with_its_line(tmp_path):
    banks.tiny(tmp_path)
    os.remove(tmp_path / "responses" / "b-1.jsonl")
    os.remove(tmp_path / "responses" / "lone.jsonl")
    sentence = refusal(tmp_path)
    assert "models.csv, line 4: no answers of b-1, lone; add b-1.jsonl" in sentence


def test_two_subfolders_of_answers_are_refused(tmp_path):
    banks.tiny(tmp_path)
    banks.answers_file(tmp_path / "more" / "x.jsonl", {"p": "x"})
    assert "both more and responses hold answers" in refusal(tmp_path)


def test_answers_packed_and_unpacked_are_refused(tmp_path):
    banks.tiny(tmp_path)
    banks.answers_file(tmp_path / "responses" / "lone.jsonl.gz", {"p": "x"})
    assert "packed and unpacked" in refusal(tmp_path)


def test_a_group_without_a_table_of_groups_is_refused(tmp_path):
    banks.tiny(tmp_path)
    os.remove(tmp_path / "groups.csv")
    assert "line 2: a-1 is in the group 'A', but there is no groups.csv" in refusal(tmp_path)


def test_groups_on_which_the_tables_disagree_are_refused(tmp_path):
    sentence = refusal(edited(tmp_path / "1", "models.csv", "beta,teacher,B", "beta,teacher,C"))
    assert "groups.csv, line 3: b-1 is listed, but its group in models.csv is 'C'" in sentence
    sentence = refusal(edited(tmp_path / "2", "models.csv", "beta,teacher,B", "beta,teacher,"))
    assert "groups.csv, line 3: b-1 is listed, but in models.csv it has no group" in sentence


@pytest.mark.parametrize(
    ("table", "old", "new", "said"),
    [
        ("models.csv", "lone,", "a-1,", "line 6: a-1 was on line 2 already"),
        ("models.csv", "lone,lone", "lone,", "line 6: vendor_or_family is empty"),
        ("models.csv", "lone,lone", ",lone", "line 6: model is empty"),
        ("models.csv", "lone,lone", '"lo\nne",lone', "line 6: model is 'lo\\nne'"),
        ("models.csv", "control", "Control", "line 6: role is 'Control'; write one of teacher"),
        ("models.csv", "control", "", "line 6: role is empty"),
        ("models.csv", "lone,lone,control,", "lone,lone,control,C", "line 6: lone is in the group"),
        ("models.csv", "lone,lone,control,", "lone,lone,control,B", "does not list it"),
        ("models.csv", "2023-07-15", "15.07.2023", "line 3: outputs_published_by is '15.07.2023'"),
        ("models.csv", "2023-07-15", "2023-02-29", "line 3: outputs_published_by"),
        ("models.csv", "2023-07-15", "2023-13", "line 3: outputs_published_by"),
        ("models.csv", "2023-07-15", "0000", "line 3: outputs_published_by"),
        ("models.csv", "2023-07-15", "20230715", "line 3: outputs_published_by"),
        ("models.csv", "vendor_or_family", "vendor", "line 1: no column 'vendor_or_family' among"),
        ("models.csv", ",H", ',"H', "line 6: not valid CSV"),
        ("models.csv", ",H", ",H,,,,,x", "line 6: 1"),
        ("models.csv", ",H", ",H\0", "line 6: holds a NUL"),
        ("groups.csv", "B,", "A,", "line 3: the group 'A' is there already"),
        ("groups.csv", "B,b-1", "B,", "line 3: models is empty"),
        ("groups.csv", "b-1", "b-1;b-2", "line 3: b-2 is not in models.csv"),
        ("groups.csv", "b-1", "b-1;lone", "line 3: lone is listed, but in models"),
        ("groups.csv", "2022-11-30", "soon", "line 2: public_launch is 'soon'"),
        ("pairs.csv", "lone,B", "ghost,B", "line 6: the suspect ghost is not in models.csv"),
        ("pairs.csv", "lone,B", "lone,C", "line 6: the group C is not in groups.csv"),
        ("pairs.csv", "lone,B", "lone,A", "line 6: lone and A are there already"),
        ("pairs.csv", "unknown", "maybe", "line 4: truth is 'maybe'; write one of positive"),
    ],
)
def test_a_wrong_cell_is_named_by_table_and_line(tmp_path, table, old, new, said):
    sentence = refusal(edited(tmp_path, table, old, new))
    assert f"{tmp_path / table}, " in sentence
    assert said in sentence


def test_a_table_without_a_model_is_refused(tmp_path):
    banks.tiny(tmp_path)
    (tmp_path / "models.csv").write_text("model,vendor_or_family,role\n")
    assert "lists no model" in refusal(tmp_path)


def test_tables_are_read_from_anywhere(tmp_path):
    banks.tiny(tmp_path)
    labels = read_labels(tmp_path / "models.csv", tmp_path / "groups.csv", None)
    assert labels.lines["pupil"] == 5
    assert (len(labels.groups), labels.truths) == (2, {})


@pytest.mark.skipif(not REAL.is_dir(), reason="the lineage set is not here")
def test_the_lineage_set_is_a_bank():
    bank = load(REAL)
    assert len(bank.models) > 100
    assert {m for group in bank.groups for m in group.members} == {
        model.name for model in bank.models if model.group
    }
    assert len(bank.answers(bank.models[0].name)) > 100
