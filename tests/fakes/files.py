"""Files on disk, as tests compare them."""

from pathlib import Path


def bytes_of(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Return every file below a directory: what is in it, and when it was written."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
