"""What a run stands on below Python: processor, memory, kernel, C library, operating system.

All of it is read from files and from the interpreter. What cannot be found is left out, never
guessed, and nothing here raises. `root` is where the file system begins: `/`, or a tree of a test.
"""

import os
import platform
from pathlib import Path

_CPU_INFO = "proc/cpuinfo"
_OS_RELEASE = "etc/os-release"


def describe(root: Path = Path("/")) -> dict[str, str | int]:
    """Return what is known of `cpu`, `host_memory_bytes`, `kernel`, `libc`, `os`, `os_version`."""
    release = fields(root / _OS_RELEASE)
    libc, version = platform.libc_ver()
    found: dict[str, str | int] = {
        "cpu": processor(root),
        "host_memory_bytes": _memory_bytes(),
        "kernel": f"{platform.system()} {platform.release()}".strip(),
        "libc": f"{libc} {version}".strip(),
        "os": release.get("NAME", ""),
        "os_version": release.get("VERSION_ID", ""),
    }
    return {name: value for name, value in found.items() if value}


def processor(root: Path = Path("/")) -> str:
    """Return the processor's name, or its numbers where it has no name; empty where unknown."""
    said = fields(root / _CPU_INFO, separator=":")
    if "model name" in said:
        return said["model name"]
    numbers = [said.get(f"CPU {name}") for name in ("implementer", "part", "revision")]
    if None in numbers[:2]:
        return ""
    words = zip(("implementer", "part", "revision"), numbers, strict=True)
    return ", ".join(f"{name} {number}" for name, number in words if number)


def fields(path: Path, separator: str = "=") -> dict[str, str]:
    """Return the first value of each name in a file of `name = value` lines; empty without one.

    Quotes around a value, and lines without a separator, are left out.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in lines:
        name, between, value = line.partition(separator)
        if between:
            found.setdefault(name.strip(), value.strip().strip("\"'"))
    return found


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
