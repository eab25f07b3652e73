"""Tokens, documents, choices and caches that do not fit a student are refused in one sentence."""

from dataclasses import replace

import pytest
import torch

from student.choices import Choices
from student.errors import ShapeError
from student.fit import check_tokens
from student.model import Cache, Student
from tests.fakes.students import MLA, V4, VOCABULARY, documents, stirred, text

LENGTHS = (37, 6)
TOKENS = sum(LENGTHS)
BOTH = pytest.mark.parametrize("config", [V4, MLA], ids=["v4", "mla"])
NO_TOKENS = [
    (text(TOKENS).float(), r"is of type torch\.float32; give a tensor of type torch\.int64"),
    (text(TOKENS).to(torch.int16), r"is of type torch\.int16; give"),
    (text(TOKENS).to(torch.int32), r"is of type torch\.int32; give"),
    (text(TOKENS) > 3, r"is of type torch\.bool; give"),
    (text(TOKENS).tolist(), r"is of type list; give"),
    (text(TOKENS).numpy(), r"is of type ndarray; give"),
    (text(TOKENS).to("meta"), r"is on meta and the student on cpu"),
    (text(TOKENS).index_fill(0, torch.tensor(5), -1), "has a token outside the vocabulary of 97"),
    (text(TOKENS).index_fill(0, torch.tensor(5), 97), "has a token outside the vocabulary of 97"),
]
EACH = pytest.mark.parametrize(("tokens", "message"), NO_TOKENS)


def replayed(student: Student, choices: Choices, **wanted):
    return student(text(TOKENS), documents(*LENGTHS), replay=choices, **wanted)


def chosen(student: Student) -> Choices:
    with torch.no_grad():
        return student(text(TOKENS), documents(*LENGTHS), ahead=True).choices


def with_one(choices: Choices, name: str, place: int, value) -> Choices:
    given = list(getattr(choices, name))
    given[place] = value
    return replace(choices, **{name: tuple(given)})


# Tokens and documents


@BOTH
@EACH
def test_what_are_no_tokens_is_refused_by_the_forward_pass(config, tokens, message):
    with pytest.raises(ShapeError, match=f"token_N {message}"):
        stirred(config)(tokens, documents(*LENGTHS))


@BOTH
@EACH
def test_and_by_both_halves_of_decoding(config, tokens, message):
    student = stirred(config)
    with pytest.raises(ShapeError, match=f"token_N {message}"):
        student.remember(tokens, documents(*LENGTHS), 50)
    _, cache = student.remember(text(TOKENS), documents(*[1] * TOKENS), 50)
    with pytest.raises(ShapeError, match=f"token_B {message}"):
        student.decode(tokens, cache)
    assert cache.clock.place.tolist() == [1] * TOKENS


@BOTH
def test_the_first_and_last_token_of_the_vocabulary_are_known(config):
    ends_N = torch.tensor([0, VOCABULARY.size - 1])
    assert stirred(config)(ends_N, documents(2)).hidden_ND.isfinite().all()


@BOTH
def test_a_document_longer_than_the_positions_is_refused(config):
    student = stirred(replace(config, max_position_embeddings=12))
    student(text(20), documents(8, 12))
    said = r"documents has one of 13 tokens, more than max_position_embeddings \(12\)"
    with pytest.raises(ShapeError, match=said):
        student(text(20), documents(7, 13))
    with pytest.raises(ShapeError, match=said):
        student.remember(text(13), documents(13), 12)


@BOTH
def test_what_are_no_documents_is_refused(config):
    student = stirred(config)
    with pytest.raises(ShapeError, match=r"documents is of type list; make it with Documents"):
        student(text(5), [5])
    with pytest.raises(ShapeError, match=r"documents is of type tuple; make it with Documents"):
        student.remember(text(5), (5,), 9)


@BOTH
@pytest.mark.parametrize(
    ("capacity", "message"),
    [
        (50.0, r"capacity is 50\.0; it must be a whole number"),
        (True, "capacity is True; it must be a whole number"),
        (0, "capacity is 0; it must be at least 1"),
        ("50", "capacity is '50'; it must be a whole number"),
    ],
)
def test_a_capacity_that_is_none_is_refused(config, capacity, message):
    with pytest.raises(ShapeError, match=message):
        stirred(config).remember(text(1), documents(1), capacity)


@BOTH
def test_hidden_states_of_another_width_have_no_logits(config):
    student = stirred(config)
    assert student.logits(torch.zeros(2, 3, 32)).shape == (2, 3, 97)
    for shape in [(2, 31), (32, 2), ()]:
        with pytest.raises(ShapeError, match=r"hidden_ND has shape .*hidden_size \(32\)"):
            student.logits(torch.zeros(shape))


# Choices


@BOTH
def test_choices_of_another_stream_are_refused(config):
    student = stirred(config)
    with torch.no_grad():
        shorter = student(text(9), documents(9)).choices
    place = 0 if config is V4 else 1
    said = rf"replay\.experts\[{place}\] is \(9, 2\) of torch\.int64; these tokens need \(43, 2\)"
    with pytest.raises(ShapeError, match=said):
        replayed(student, shorter)


def test_choices_of_the_other_family_are_refused_even_where_all_shapes_agree():
    alike = replace(MLA, num_layers=4), replace(V4, index_top_k=500)
    students = [stirred(config) for config in alike]
    for student, other in (students, students[::-1]):
        theirs = chosen(other)
        said = f"of the family {other.config.family} and this one is {student.config.family}"
        for given in (theirs, theirs.routing_only(), theirs.to(torch.device("cpu"))):
            with pytest.raises(ShapeError, match=said):
                replayed(student, given)
    unsigned = replace(chosen(students[0]), family=None)
    made = replayed(students[1], unsigned, ahead=True).choices
    assert all(map(torch.equal, made.experts[1:], unsigned.experts[1:]))


@BOTH
@pytest.mark.parametrize("change", [-2, 1])
def test_choices_of_another_number_of_layers_are_refused(config, change):
    student, layers = stirred(config), config.num_layers
    places = layers + 1 + change
    said = f"has {places} places; this student needs {layers}, .* and at most {layers + 1}"
    for experts, entries in ((places, layers), (layers, places)):
        with pytest.raises(ShapeError, match=said):
            replayed(student, Choices(experts=(None,) * experts, entries=(None,) * entries))


WRONG_EXPERTS = [
    (torch.zeros(TOKENS, 3).long(), r"is \(43, 3\) of torch\.int64; .* \(43, 2\) of torch\.int64"),
    (torch.zeros(TOKENS).long(), r"is \(43,\) of torch\.int64; these tokens need \(43, 2\)"),
    (torch.zeros(TOKENS, 2), r"is \(43, 2\) of torch\.float32; these tokens need"),
    (torch.full((TOKENS, 2), 6), "has an expert outside 0 to 5"),
    (torch.full((TOKENS, 2), -1), "has an expert outside 0 to 5"),
    (torch.zeros(TOKENS, 2, device="meta").long(), "is on meta and the student on cpu"),
]


@BOTH
@pytest.mark.parametrize(("experts", "message"), WRONG_EXPERTS)
def test_experts_that_do_not_fit_are_refused_by_place(config, experts, message):
    student = stirred(config)
    given = with_one(chosen(student), "experts", 2, experts)
    with pytest.raises(ShapeError, match=rf"replay\.experts\[2\] {message}"):
        replayed(student, given)


def test_experts_are_not_for_a_dense_layer_nor_entries_for_one_without_an_indexer():
    student = stirred(MLA)
    given = chosen(student)
    with pytest.raises(ShapeError, match=r"experts\[0\] is given to a dense layer"):
        replayed(student, with_one(given, "experts", 0, given.experts[1]))
    with pytest.raises(ShapeError, match=r"entries\[1\] is given to a layer without an indexer"):
        replayed(student, with_one(given, "entries", 1, given.experts[1]))
    student = stirred(V4)
    given = chosen(student)
    for place in (0, 2, 4):  # a window alone, every entry, a prediction layer
        said = rf"entries\[{place}\] is given to a layer without an indexer"
        with pytest.raises(ShapeError, match=said):
            replayed(student, with_one(given, "entries", place, given.entries[1]), ahead=True)


@pytest.mark.parametrize(
    ("place", "entry"),
    [
        (36, -2),  # is no place and not none
        (0, 0),  # not closed yet
        (36, 9),  # another document's, later
        (42, 8),  # another document's, earlier
        (42, 99),  # of no document
    ],
)
def test_an_entry_that_its_token_does_not_see_is_refused(place, entry):
    student = stirred(V4)
    given = chosen(student)
    entry_NK = given.entries[3].clone()
    entry_NK[place, 1] = entry
    with pytest.raises(ShapeError, match=r"replay\.entries\[3\] has an entry that its token does"):
        replayed(student, with_one(given, "entries", 3, entry_NK))


def test_entries_of_another_shape_are_refused_and_of_another_width_taken():
    student = stirred(V4)
    given = chosen(student)
    for wrong in (given.entries[1][:-1], given.entries[1].flatten(), given.entries[1].float()):
        with pytest.raises(ShapeError, match=r"replay\.entries\[1\] is .*need \(43, K\) of torch"):
            replayed(student, with_one(given, "entries", 1, wrong))
    narrow = given.entries[1][:, :2].contiguous()
    made = replayed(student, with_one(given, "entries", 1, narrow)).choices
    assert torch.equal(made.entries[1], narrow)


# Decoding


def begun(student: Student) -> Cache:
    return student.remember(text(TOKENS), documents(*LENGTHS), 50).cache


def test_a_step_refuses_choices_that_do_not_fit_and_moves_nothing():
    student, token_B = stirred(V4), torch.tensor([1, 2])
    cache, nothing = begun(student), (None,) * 4
    wrong = [
        (torch.zeros(3, 2).long(), r"entries\[1\] is \(3, 2\) of torch\.int64; .* \(2, K\)"),
        (torch.zeros(2, 2), r"entries\[1\] is \(2, 2\) of torch\.float32"),
        (torch.tensor([[9], [0]]), r"entries\[1\] has an entry that its token does not see"),
        (torch.tensor([[0], [1]]), r"entries\[1\] has an entry that its token does not see"),
        (torch.tensor([[0], [-2]]), r"entries\[1\] has an entry that its token does not see"),
    ]
    for entry_BK, message in wrong:
        given = with_one(Choices(experts=nothing, entries=nothing), "entries", 1, entry_BK)
        with pytest.raises(ShapeError, match=message):
            student.decode(token_B, cache, replay=given)
    with pytest.raises(ShapeError, match=r"replay\.experts has 3 places; this student needs 4"):
        student.decode(token_B, cache, replay=Choices(experts=nothing[1:], entries=nothing[1:]))
    with pytest.raises(ShapeError, match="of the family mla and this one is v4"):
        other = Choices(experts=nothing, entries=nothing, family="mla")
        student.decode(token_B, cache, replay=other)
    assert cache.clock.place.tolist() == list(LENGTHS)
    free_BD, _ = student.decode(token_B, cache)
    assert torch.equal(free_BD, student.decode(token_B, begun(student))[0])


def test_a_step_takes_every_entry_its_sequence_has_made():
    # Position 37 has closed 9 windows of 4 tokens; position 7 closes its second with this token.
    student, given = stirred(V4), torch.tensor([[8, 0, -1], [0, 1, -1]])
    cache = student.remember(text(44), documents(37, 7), 50).cache
    replay = Choices(experts=(None,) * 4, entries=(None, given, None, None))
    _, made = student.decode(torch.tensor([1, 2]), cache, replay=replay)
    assert torch.equal(made.entries[1], given)
    assert made.family == "v4"


@BOTH
def test_a_cache_of_another_student_is_refused(config):
    other = stirred(MLA if config is V4 else V4)
    with pytest.raises(ShapeError, match=r"cache has \d layers of \w+Cache; this student needs \d"):
        stirred(config).decode(torch.tensor([1, 2]), begun(other))
    cache = begun(stirred(config))
    with pytest.raises(ShapeError, match="make it with its own remember"):
        stirred(config).decode(torch.tensor([1, 2]), replace(cache, layers=cache.layers[:-1]))


def test_values_are_read_on_the_cpu_alone():
    # On another device the host would have to wait for them; these have none to be read.
    check_tokens("token_B", torch.full((3,), 1000, device="meta"), 97, torch.device("meta"))
    with pytest.raises(ShapeError, match="token_B has a token outside the vocabulary of 97"):
        check_tokens("token_B", torch.full((3,), 1000), 97, torch.device("cpu"))
