"""`statement.json` of a run: SLSA provenance v1 over every file of its directory.

The predicate is a function of the run's records. The resolved config is what was asked for
(`externalParameters`); teachers, texts, tokenizer, prompts and signals are what went in
(`resolvedDependencies`), each with the digest that the manifest has. A run is made by an ordinary
process of its user, which could have done anything else as well: that is SLSA's Build level 0, and
the statement says so. Specification: SLSA provenance v1, slsa.dev/provenance/v1.

A digest of one file is its `sha256`. A directory's, a store's and a text's are this tool's own and
have names of their own.
"""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from audit import statement
from audit.attest import digest, file_digest
from audit.statement import TREE, resource
from distill import files
from distill.papers import render
from distill.papers.render import Records

PREDICATE = "https://slsa.dev/provenance/v1"
_BUILD_TYPE = "urn:spiritsafe:distill-run:1"
_BUILDER = "urn:spiritsafe:local-process"
_LEVEL = "Build L0: an ordinary process of whoever ran it, on no isolated builder"
# What the digest of an input is of, by its kind in the manifest; the others are of one file.
_ALGORITHMS = {
    "teacher weights": TREE,
    "text": "spiritsafe_text_sha256",
    "teacher signals": "spiritsafe_chain_sha256",
    "student's answers": "spiritsafe_chain_sha256",
}
_OF_A_TEACHER = ("kind", "model", "licence", "owned", "terms", "tokens")


def write(out: Path) -> None:
    """Write the statement of the finished run in `out`; a signature of an earlier one goes.

    Raises:
        InputError: the run is not finished.
        StorageError: a record cannot be read.
        AuditError: a file cannot be read, or the disk refuses.
    """
    records = render.read(out)
    subjects = statement.subjects(out)
    made = predicate(out, records)
    statement.write(out, statement.statement(subjects, PREDICATE, made))


def predicate(out: Path, records: Records) -> dict[str, Any]:
    """Return what is claimed of the run whose records these are.

    Raises:
        OSError: a record is gone.
        ValueError: the config is none that this package writes.
    """
    manifest = records.manifest
    found: dict[str, Any] = files.portable(
        {
            "buildDefinition": {
                "buildType": _BUILD_TYPE,
                "externalParameters": {"config": _config(records.config)},
                "internalParameters": {
                    "device": manifest["device"],
                    "dtype": manifest["run"]["dtype"],
                },
                "resolvedDependencies": _dependencies(manifest),
            },
            "runDetails": {
                "builder": _builder(manifest),
                "metadata": _metadata(records),
                "byproducts": [
                    resource(name, file_digest(out / name))
                    for name in (render.EVALUATION, render.METRICS)
                ],
            },
            "spiritsafe_slsa_level": _LEVEL,
        }
    )
    return found


def _config(text: str) -> Any:
    """Return the config; one with aliases, a few of which can stand for gigabytes, is refused."""
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
        raise ValueError("config.yaml has an alias, and no config of a run has one")
    return yaml.safe_load(text)


def _dependencies(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    teachers = {row["name"]: row for row in manifest["teachers"]}
    found = []
    for row in manifest["inputs"]:
        annotations = {name: row[name] for name in ("kind", "note") if row[name]}
        if row["kind"] in ("teacher weights", "teacher's answers"):
            stated = teachers.get(row["name"], {})
            annotations["teacher"] = {name: stated.get(name) for name in _OF_A_TEACHER}
        of = _ALGORITHMS.get(row["kind"], "sha256")
        found.append(resource(row["name"], row["sha256"], of=of, annotations=annotations))
    return found


def _builder(manifest: Mapping[str, Any]) -> dict[str, Any]:
    code = manifest["code"]
    return {
        "id": _BUILDER,
        "version": {"spiritsafe": code["version"], "spiritsafe_code_sha256": code["sha256"]},
        "builderDependencies": [
            {"name": name, "uri": f"pkg:pypi/{name}@{version}"}
            for name, version in sorted(manifest["packages"].items())
        ],
    }


def _metadata(records: Records) -> dict[str, str]:
    number = uuid.uuid5(uuid.NAMESPACE_URL, f"urn:sha256:{digest(records.manifest)}")
    found = {"invocationId": f"urn:uuid:{number}", "finishedOn": records.manifest["created"]}
    started = records.evaluation.get("started")
    return found | ({"startedOn": started} if started else {})
