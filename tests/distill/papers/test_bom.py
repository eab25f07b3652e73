"""The bill of materials is valid CycloneDX, and names teachers with what they oblige to."""

import copy
import json
import re

import pytest

from distill.papers.bom import bill_of_materials
from tests.fakes import records

BOTH = [
    (records.full_manifest(), records.full_evaluation()),
    (records.manifest(), records.evaluation()),
    (records.manifest("control"), records.evaluation()),
]


def made(manifest=None, evaluation=None):
    return bill_of_materials(
        manifest or records.full_manifest(), evaluation or records.full_evaluation()
    )


def student(bom):
    return bom["metadata"]["component"]


def properties(part):
    found = {}
    for row in part["properties"]:
        found.setdefault(row["name"].removeprefix("spiritsafe:"), []).append(row["value"])
    return found


def by_name(bom, name):
    (part,) = [part for part in bom["components"] if part["name"] == name]
    return part


def validate(bom):
    """Return what CycloneDX's own schema of 1.7 has against `bom`; None for nothing."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_7).validate_str(json.dumps(bom))


@pytest.mark.parametrize(("manifest", "evaluation"), BOTH)
def test_it_is_valid_by_the_schema_of_cyclonedx(manifest, evaluation):
    assert validate(made(manifest, evaluation)) is None


def test_the_schema_refuses_what_is_not_cyclonedx():
    bom = made()
    student(bom)["modelCard"]["modelParameters"]["approach"]["type"] = "distilled"
    assert validate(bom) is not None


def test_hostile_names_leave_it_valid():
    manifest = records.full_manifest()
    manifest["teachers"][1]["name"] = 'a "quoted" <name> \u202e\x00'
    manifest["device"] |= {"name": "\x1b[31m", "driver": "1.2\u202e", "os": "</os>", "libc": "\x00"}
    assert validate(made(manifest)) is None


def test_references_are_unique_and_all_there():
    bom = made()
    parts = [student(bom), *student(bom)["pedigree"]["ancestors"], *bom["components"]]
    names = [part["bom-ref"] for part in parts]
    assert len(set(names)) == len(names)
    asked = [row["ref"] for row in student(bom)["modelCard"]["modelParameters"]["datasets"]]
    asked += bom["dependencies"][0]["dependsOn"]
    assert set(asked) <= set(names)


def test_the_same_run_has_the_same_number_and_another_run_another():
    assert made() == made()
    other = {**records.full_manifest(), "created": "2026-11-21T08:00:01Z"}
    number = re.fullmatch(r"urn:uuid:([0-9a-f-]{36})", made()["serialNumber"])
    assert number and number[1][14] == "5"
    assert made(other)["serialNumber"] != made()["serialNumber"]


def test_teachers_are_ancestors_with_licence_terms_and_obligations():
    first, second = student(made())["pedigree"]["ancestors"]
    assert first["licenses"] == [{"license": {"name": "Apache-2.0", "acknowledgement": "declared"}}]
    assert properties(first)["owned"] == ["true"]
    assert "externalReferences" not in first
    stated = properties(second)
    assert "licenses" not in second
    assert stated["owned"] == ["false"] and stated["permits_training"] == ["conditional"]
    assert stated["obligation"] == records.terms()["obligations"]
    assert stated["tag"] == ["prompts", "code"]
    (terms,) = second["externalReferences"]
    assert terms["type"] == "license" and terms["url"] == "https://example.org/terms"
    assert terms["hashes"] == [{"alg": "SHA-256", "content": records.SHA}]
    assert "2026-11-20" in terms["comment"]


def test_terms_that_say_no_are_told_as_they_are_stated():
    manifest = records.manifest()
    manifest["teachers"] = [records.teacher(terms=records.terms(permits_training=False))]
    (teacher,) = student(made(manifest))["pedigree"]["ancestors"]
    assert properties(teacher)["permits_training"] == ["false"]


def test_the_student_carries_every_obligation_once():
    manifest = records.full_manifest()
    manifest["teachers"].append(copy.deepcopy(manifest["teachers"][1]))
    assert properties(student(made(manifest)))["obligation"] == records.terms()["obligations"]


def test_a_control_has_no_ancestors_and_owes_nothing():
    control = student(made({**records.full_manifest(), "run": records.manifest("control")["run"]}))
    assert "pedigree" not in control
    assert "obligation" not in properties(control)
    assert control["modelCard"]["modelParameters"]["approach"] == {"type": "self-supervised"}


def test_only_digests_of_one_file_are_hashes():
    bom = made()
    assert by_name(bom, "tokenizer.json")["hashes"][0]["content"] == records.SHA
    assert by_name(bom, "prompts.jsonl")["type"] == "data"
    text = by_name(bom, "help-topics.txt")
    assert "hashes" not in text and properties(text)["sha256"] == [records.SHA]
    assert text["description"] == "text. PSF licence"
    assert properties(student(bom))["tree_sha256"] == [records.SHA]


def test_a_teachers_weights_are_a_model_and_its_answers_are_data():
    manifest = records.manifest()
    for name, kind in (
        ("w", "teacher weights"),
        ("s", "teacher signals"),
        ("a", "teacher's answers"),
    ):
        manifest["inputs"].append({"name": name, "kind": kind, "sha256": records.SHA, "note": ""})
    bom = made(manifest)
    assert [by_name(bom, name)["type"] for name in "wsa"] == [
        "machine-learning-model", "data", "data",
    ]  # fmt: skip
    asked = student(bom)["modelCard"]["modelParameters"]["datasets"]
    assert [row["ref"] for row in asked] == ["input-1", "input-2", "input-5", "input-6"]
    assert validate(bom) is None


def test_libraries_and_hardware_are_components():
    bom = made()
    assert by_name(bom, "torch")["purl"] == "pkg:pypi/torch@2.13.0%2Bcpu"
    assert by_name(bom, "x86_64, two cores")["type"] == "device"
    assert by_name(bom, "Linux x86_64")["type"] == "operating-system"
    assert not [part for part in bom["components"] if part["type"] == "device-driver"]


def test_everything_an_accelerator_stands_on_is_a_component():
    manifest = records.manifest()
    manifest["device"] |= {
        "kind": "npu", "name": "Ascend910B", "count": 8, "memory_bytes": 2**36,
        "driver": "25.0.rc1.1", "firmware": "7.7.0.1.231", "bios": "96.00", "toolkit": "CANN",
        "toolkit_version": "8.5.0", "cpu": "implementer 0x48, part 0xd01",
        "host_memory_bytes": 2**40, "kernel": "Linux 5.10.0-60.aarch64", "libc": "glibc 2.34",
        "os": "openEuler", "os_version": "22.03",
    }  # fmt: skip
    bom = made(manifest)
    assert validate(bom) is None
    found = {part["name"]: (part["type"], part.get("version")) for part in bom["components"]}
    stack = {
        "Ascend910B": ("device", None),
        "driver of Ascend910B": ("device-driver", "25.0.rc1.1"),
        "firmware of Ascend910B": ("firmware", "7.7.0.1.231"),
        "BIOS of Ascend910B": ("firmware", "96.00"),
        "CANN": ("platform", "8.5.0"),
        "implementer 0x48, part 0xd01": ("device", None),
        "openEuler": ("operating-system", "22.03"),
        "Linux": ("operating-system", "5.10.0-60.aarch64"),
        "glibc": ("library", "2.34"),
    }
    assert stack.items() <= found.items()
    device = properties(by_name(bom, "Ascend910B"))
    assert device["count"] == ["8"] and device["memory_bytes"] == [str(2**36)]


def test_a_processor_that_is_the_device_is_one_component():
    manifest = records.manifest()
    manifest["device"] |= {"cpu": "x86_64, two cores", "host_memory_bytes": 2**34}
    bom = made(manifest)
    assert properties(by_name(bom, "x86_64, two cores"))["host_memory_bytes"] == [str(2**34)]


def test_figures_have_their_intervals_and_a_bill_only_what_is_known():
    card = student(made())["modelCard"]
    metrics = {
        (row["type"], row["slice"]): row for row in card["quantitativeAnalysis"].popitem()[1]
    }
    assert metrics["kl", "held-out text, 20480 tokens"]["value"] == "0.6127"
    behind = metrics["accuracy, behind the teacher", "spelling"]
    assert float(behind["value"]) == pytest.approx(-0.09)
    ends = behind["confidenceInterval"]
    assert float(ends["lowerBound"]) == pytest.approx(-0.14)
    assert float(ends["upperBound"]) == pytest.approx(-0.04)
    stated = properties(student(made()))
    assert stated["bill:device_seconds"] == ["172.1 s (Device time together)"]
    assert "bill:kilowatt_hours" not in stated
