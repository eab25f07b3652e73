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


class EndpointError(AuditError):
    """A served model that refuses, fails, or is not what was asked for.

    Attributes:
        status: the HTTP status it answered with; None where it gave no answer.
        reason: what happened, as a phrase without advice.
    """

    def __init__(self, message: str, status: int | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason or message.rstrip(".")


class BudgetError(AuditError):
    """A stated limit of requests, tokens or money is reached; answers are kept. Exits 4."""

    exit_code = 4
