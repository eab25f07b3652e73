"""The figures of a run's first screen are those of its records, and no judgement of their own."""

import pytest

from distill.papers import glance
from tests.fakes import records


def test_a_measure_is_better_when_it_moved_the_way_that_is_better():
    evaluation = records.evaluation()
    evaluation["after"] |= {"top1_agreement": 0.05, "bits_per_byte": 2.914}
    found = {one.name: one.better for one in glance.changes(evaluation)}
    assert found == {
        "KL to the teacher, nats per token": True,  # 3.412 to 0.6127
        "top-1 agreement": False,  # 0.081 to 0.05
        "bits per byte": False,  # where it was
    }


def test_what_was_not_measured_on_both_sides_has_not_changed():
    evaluation = records.evaluation()
    evaluation["before"]["kl"] = evaluation["after"]["top1_agreement"] = None
    assert [one.name for one in glance.changes(evaluation)] == ["bits per byte"]
    assert glance.changes(evaluation)[0].teacher == 0.9712


def test_the_most_uneven_layer_is_named_and_idle_experts_of_all_layers_are_counted():
    even, idle, heavy = [0.25] * 4, [0.0, 0.4, 0.3, 0.3], [0.0, 0.6, 0.2, 0.2]
    found = glance.uneven([{"expert_load": [even, heavy, idle]}] * 30)
    assert found is not None
    assert (found.layer, found.layers, found.idle, found.experts) == (2, 3, 2, 12)
    assert found.ratio == pytest.approx(2.4) and found.steps == 20


@pytest.mark.parametrize("metrics", [[], [{"expert_load": []}]])
def test_without_experts_or_steps_there_is_nothing_uneven(metrics):
    assert glance.uneven(metrics) is None


def test_sums_are_those_of_the_bill_in_its_own_words():
    bill = records.full_evaluation()["bill"]
    names = [line["name"] for line in glance.sums(bill)]
    assert names == [
        "Tokens trained on", "Operations together", "Device time together", "Energy",
        "Money together",
    ]  # fmt: skip
    assert glance.sums(None) == []


def test_inputs_are_counted_by_kind():
    manifest = records.manifest()
    manifest["inputs"].append({**manifest["inputs"][0], "name": "more.txt"})
    assert glance.inputs(manifest) == [("text", 2), ("prompts", 1), ("tokenizer", 1)]
