"""The bill of materials of a student: CycloneDX 1.7 (ECMA-424) JSON with a model card.

The student is a `machine-learning-model` whose pedigree names its teachers as ancestors, each with
its licence, its terms and what they oblige to as they were stated. Data, tokenizer, libraries and
hardware are components. It is a function of manifest and evaluation, and its serial number is that
of the manifest, so that the same run has the same bill of materials.

A digest stands as a `hash` where it is of one file; digests of directories, texts and signals are
this tool's own (`audit.attest`), and stand as properties.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from audit.attest import digest
from distill.papers import wording
from distill.papers.comparison import compared
from distill.terms import owed

FILE = "bom.cdx.json"

Record = Mapping[str, Any]
Part = dict[str, Any]
_Stated = tuple[str, str, str, str, Record]
"""A component: type, reference, name, version, properties."""

# What each kind of input is; anything else is a file.
_TYPES = {
    "text": "data",
    "prompts": "data",
    "teacher signals": "data",
    "teacher's answers": "data",
    "answers a teacher wrote": "data",
    "answers on the way": "data",
    "student's answers": "data",
    "teacher weights": "machine-learning-model",
}
_OF_ONE_FILE = ("tokenizer", "prompts")
_MEASURES = ("kl", "reverse_kl", "top1_agreement", "bits_per_byte", "perplexity")


def bill_of_materials(manifest: Record, evaluation: Record) -> dict[str, Any]:
    """Return the bill of materials of a run, ready to be written as JSON."""
    inputs = [_input(place, row) for place, row in enumerate(manifest["inputs"], start=1)]
    libraries = [_library(name, version) for name, version in sorted(manifest["packages"].items())]
    machine = _machine(manifest["device"])
    components = [*inputs, *libraries, *machine]
    sha256 = digest(manifest)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'urn:sha256:{sha256}')}",
        "version": 1,
        "metadata": {
            "timestamp": manifest["created"],
            "lifecycles": [{"phase": "build"}],
            "tools": {"components": [_tool(manifest)]},
            "component": _student(manifest, evaluation, inputs),
            "properties": _properties({"manifest_sha256": sha256}),
        },
        "components": components,
        "dependencies": [{"ref": "student", "dependsOn": [part["bom-ref"] for part in components]}],
    }


def _student(manifest: Record, evaluation: Record, inputs: Sequence[Part]) -> Part:
    run, kind = manifest["run"], manifest["student"]["model_type"]
    taught = run["role"] != "control"
    teachers = manifest["teachers"] if taught else ()
    weights = next((row["sha256"] for row in manifest["outputs"] if row["name"] == "student"), "")
    stated = {f"run:{name}": value for name, value in run.items()}
    stated |= {"tree_sha256": weights, "config_sha256": manifest["config_sha256"]}
    part = {
        "type": "machine-learning-model",
        "bom-ref": "student",
        "name": run["role"],
        "version": weights[:12] or "unknown",
        "description": f"A {kind} language model with {run['parameters']:,} parameters.",
        "modelCard": _model_card(manifest, evaluation, inputs),
        "properties": [
            *_properties(stated),
            *_bill(evaluation),
            *(_property("obligation", text) for text, _ in owed(teachers)),
        ],
    }
    if teachers:
        ancestors = [_teacher(place, row) for place, row in enumerate(teachers, start=1)]
        part["pedigree"] = {"ancestors": ancestors, "notes": wording.beginning(manifest)}
    return part


def _model_card(manifest: Record, evaluation: Record, inputs: Sequence[Part]) -> Part:
    # What a teacher says of a text is its label; text alone is its own.
    approach = "self-supervised" if manifest["run"]["role"] == "control" else "supervised"
    losses = {f"loss:{row['name']}": row["weight"] for row in manifest["losses"]}
    return {
        "modelParameters": {
            "approach": {"type": approach},
            "task": "text-generation",
            "architectureFamily": "transformer, mixture of experts",
            "modelArchitecture": manifest["student"]["model_type"],
            "datasets": [{"ref": part["bom-ref"]} for part in inputs if part["type"] == "data"],
        },
        "quantitativeAnalysis": {"performanceMetrics": _metrics(evaluation)},
        "properties": _properties(losses),
    }


def _metrics(evaluation: Record) -> list[Part]:
    after = evaluation["after"]
    found = [
        {
            "type": name,
            "value": str(after[name]),
            "slice": f"held-out text, {after['tokens']} tokens",
        }
        for name in _MEASURES
        if after.get(name) is not None
    ]
    return [*found, *map(_difference, compared(evaluation.get("comparison", ())))]


def _difference(row: Record) -> Part:
    metric: Part = {
        "type": f"{row['measure']}, behind the teacher",
        "value": str(row["behind"]),
        "slice": row["name"],
    }
    if row["low"] is not None:
        ends = {"lowerBound": str(row["low"]), "upperBound": str(row["high"])}
        metric["confidenceInterval"] = ends
    return metric


def _teacher(place: int, row: Record) -> Part:
    """Return a teacher as an ancestor, with what was stated of it."""
    terms = row["terms"] or {}
    stated = {
        "owned": row["owned"],
        "kind": row["kind"],
        "sha256": row["sha256"],
        "permits_training": terms.get("permits_training"),
        "terms_owner": terms.get("owner"),
        "terms_retrieved": terms.get("retrieved"),
        "terms_basis": terms.get("basis"),
        "weight": row["weight"],
        "tokens": row["tokens"],
    }
    properties = _properties(stated)
    properties += [_property("tag", tag) for tag in row["tags"]]
    properties += [_property("obligation", text) for text in row["obligations"]]
    part: Part = {
        "type": "machine-learning-model",
        "bom-ref": f"teacher-{place}",
        "name": row["name"],
        "version": row["model"] or row["sha256"][:12] or "unknown",
        "properties": properties,
    }
    if row["licence"]:
        licence = {"name": row["licence"], "acknowledgement": "declared"}
        part["licenses"] = [{"license": licence}]
    if terms:
        part["externalReferences"] = [_terms(terms)]
    return part


def _terms(terms: Record) -> Part:
    return {
        "type": "license",
        "url": terms["url"],
        "comment": f"terms as read on {terms['retrieved']}",
        "hashes": [_hash(terms["sha256"])],
    }


def _input(place: int, row: Record) -> Part:
    kind = _TYPES.get(row["kind"], "file")
    part: Part = {
        "type": kind,
        "bom-ref": f"input-{place}",
        "name": row["name"],
        "description": ". ".join(filter(None, (row["kind"], row["note"]))),
    }
    if kind == "data":
        part["data"] = [{"type": "dataset", "name": row["name"]}]
    if row["kind"] in _OF_ONE_FILE:
        part["hashes"] = [_hash(row["sha256"])]
    else:
        part["properties"] = _properties({"sha256": row["sha256"]})
    return part


def _library(name: str, version: str) -> Part:
    return {
        "type": "library",
        "bom-ref": f"library-{name}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{quote(name)}@{quote(version, safe='.')}",
    }


def _machine(device: Record) -> list[Part]:
    """Return the hardware of a run and what it stands on, as far as the record has them."""
    name, is_host = device["name"], device["kind"] == "cpu"
    own = {key: device.get(key) for key in ("kind", "threads", "count", "memory_bytes")}
    own |= {"host_memory_bytes": device.get("host_memory_bytes")} if is_host else {}
    stated: list[_Stated] = [
        ("device", "device", name, "", own),
        ("device-driver", "driver", f"driver of {name}", device.get("driver", ""), {}),
        ("firmware", "firmware", f"firmware of {name}", device.get("firmware", ""), {}),
        ("firmware", "bios", f"BIOS of {name}", device.get("bios", ""), {}),
        ("platform", "toolkit", device.get("toolkit", ""), device.get("toolkit_version", ""), {}),
        ("platform", "python", "Python", device["python"], {}),
        *([] if is_host else _processor(device)),
        *_system(device),
    ]
    needs_version = ("device-driver", "firmware")
    return [
        _component(*part)
        for part in stated
        if part[2] and (part[3] or part[0] not in needs_version)
    ]


def _processor(device: Record) -> list[_Stated]:
    memory = {"host_memory_bytes": device.get("host_memory_bytes")}
    return [("device", "cpu", device.get("cpu", ""), "", memory)]


def _system(device: Record) -> list[_Stated]:
    """Return operating system, kernel and C library; of these older records have the first."""
    kernel, _, release = device.get("kernel", "").partition(" ")
    libc, _, version = device.get("libc", "").partition(" ")
    machine = {"system": device["system"]}
    distribution = device.get("os") or device["system"]
    return [
        ("operating-system", "system", distribution, device.get("os_version", ""), machine),
        ("operating-system", "kernel", kernel, release, {}),
        ("library", "libc", libc, version, {}),
    ]


def _component(kind: str, ref: str, name: str, version: str, stated: Record) -> Part:
    part: Part = {"type": kind, "bom-ref": ref, "name": name}
    if version:
        part["version"] = version
    properties = _properties(stated)
    return {**part, "properties": properties} if properties else part


def _tool(manifest: Record) -> Part:
    return {
        "type": "application",
        "name": "spiritsafe",
        "version": manifest["code"]["version"],
        "properties": _properties({"code_sha256": manifest["code"]["sha256"]}),
    }


def _bill(evaluation: Record) -> list[Part]:
    """Return the lines of the bill that are known."""
    lines = evaluation.get("bill", {"lines": ()})["lines"]
    return [
        _property(f"bill:{line['key']}", f"{line['value']} {line['unit']} ({line['name']})")
        for line in lines
        if line["value"] is not None
    ]


def _properties(stated: Record) -> list[Part]:
    """Return properties of what is stated; what is None or empty is not."""
    return [_property(name, value) for name, value in stated.items() if value not in (None, "")]


def _property(name: str, value: object) -> Part:
    said = str(value).lower() if isinstance(value, bool) else str(value)
    return {"name": f"spiritsafe:{name}", "value": said}


def _hash(sha256: str) -> Part:
    return {"alg": "SHA-256", "content": sha256}
