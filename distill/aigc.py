"""The `AIGC` block of a corpus that models wrote, after the identifier of China's labelling rules.

The Measures for Labelling AI-generated Content, in force since 1 September 2025, ask that such
content carries an implicit label; GB 45438-2025 names its fields. Content producer, propagator and
label are what the config states, empty where it states nothing; the one value this package finds
by itself is `ProduceID`, the digest of the corpus. Whoever passes the corpus on completes the rest.
"""

from pathlib import Path

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from distill import files

FILE = "aigc.json"


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
class AigcConfig:
    """What the user states for corpora that models write in this run.

    Attributes:
        label: the standard's code for what the content is.
        content_producer: name or code of who is responsible for making it.
        reserved_code1: the producer's own, for example a signature over the other fields.
        content_propagator: name or code of who passes it on.
        propagate_id: the propagator's number for it.
        reserved_code2: the propagator's own.
    """

    label: str = ""
    content_producer: str = ""
    reserved_code1: str = ""
    content_propagator: str = ""
    propagate_id: str = ""
    reserved_code2: str = ""


def block(stated: AigcConfig, sha256: str) -> dict[str, dict[str, str]]:
    """Return the block of a corpus whose digest is `sha256`, as it stands in the metadata."""
    return {
        "AIGC": {
            "Label": stated.label,
            "ContentProducer": stated.content_producer,
            "ProduceID": sha256,
            "ReservedCode1": stated.reserved_code1,
            "ContentPropagator": stated.content_propagator,
            "PropagateID": stated.propagate_id,
            "ReservedCode2": stated.reserved_code2,
        }
    }


def write(stated: AigcConfig, corpus: Path, sha256: str) -> None:
    """Write the block into the directory of a corpus, where whoever copies it finds it.

    Raises:
        StorageError: the disk refused.
    """
    files.write_json(corpus / FILE, block(stated, sha256))
