"""The label of a corpus says what was stated and the corpus's own digest, and invents nothing."""

import json
from dataclasses import fields

from distill.aigc import FILE, AigcConfig, block, write
from tests.fakes.records import SHA

FIELDS = [
    "Label", "ContentProducer", "ProduceID", "ReservedCode1", "ContentPropagator", "PropagateID",
    "ReservedCode2",
]  # fmt: skip


def test_the_block_has_the_fields_of_the_standard():
    assert list(block(AigcConfig(), SHA)) == ["AIGC"]
    assert list(block(AigcConfig(), SHA)["AIGC"]) == FIELDS


def test_what_is_not_stated_is_empty_and_the_number_is_the_digest():
    found = block(AigcConfig(), SHA)["AIGC"]
    assert found.pop("ProduceID") == SHA
    assert set(found.values()) == {""}


def test_every_value_that_is_stated_stands_in_its_own_field():
    names = [field.name for field in fields(AigcConfig)]
    found = block(AigcConfig(**{name: name for name in names}), SHA)["AIGC"]
    said = {name.replace("_", ""): value.replace("_", "") for name, value in found.items()}
    del said["ProduceID"]
    assert all(name.lower() == value for name, value in said.items())
    assert len(said) == len(names)


def test_it_lies_beside_the_corpus(tmp_path):
    write(AigcConfig(label="1"), tmp_path, SHA)
    found = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    assert found == block(AigcConfig(label="1"), SHA)
