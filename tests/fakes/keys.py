"""Pairs of keys to sign weights with; statements are signed with those of `audit.envelope`."""

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


def pair(place: Path, name: str = "key", made: Any = None) -> tuple[Path, Path]:
    """Write a pair of keys, over P-256 unless `made` is a private key; private and public file."""
    found = made or ec.generate_private_key(ec.SECP256R1())
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    private, public = place / f"{name}.pem", place / f"{name}.pub.pem"
    private.write_bytes(found.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
    public.write_bytes(
        found.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public
