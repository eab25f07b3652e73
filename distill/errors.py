"""The errors a user of `distill` may meet: each message says what, where, and what to do."""


class DistillError(Exception):
    """Anything this package refuses or cannot do; exits 1."""

    exit_code = 1


class InputError(DistillError):
    """A file the user gave that cannot be used as it is; names the file and the line. Exits 2."""

    exit_code = 2


class MismatchError(DistillError):
    """Things that do not belong together: another vocabulary, another config. Exits 2."""

    exit_code = 2


class TeacherError(DistillError):
    """A teacher that is not installed, not readable, or not usable."""


class StorageError(DistillError):
    """The disk refused, or a stored file does not match its digest."""
