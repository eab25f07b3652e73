"""The errors a user of `audit` may meet: each message says what, where, and what to do."""


class AuditError(Exception):
    """Anything this package refuses or cannot do; exits 1."""

    exit_code = 1


class ConfigError(AuditError):
    """A wrong setting; the message names file, line, key and rule. Exits 2."""

    exit_code = 2


class InputError(AuditError):
    """A file the user gave that cannot be used as it is; names the file and the line. Exits 2."""

    exit_code = 2
