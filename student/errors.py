"""The errors a user of `student` may meet: each message says what, where, and what to do."""


class StudentError(Exception):
    """Anything this package refuses or cannot do; exits 1."""

    exit_code = 1


class ConfigError(StudentError):
    """An impossible student configuration; names the field and the rule. Exits 2."""

    exit_code = 2


class ShapeError(ConfigError):
    """Tokens, documents or a cache that do not fit the student or one another."""


class DeviceError(StudentError):
    """A device that was asked for and is not there; never answered by a silent run on CPU."""


class WeightsError(StudentError):
    """A model directory that cannot be read or written."""


class WarmStartError(ConfigError):
    """A teacher whose weights no student can inherit, or a student that cannot inherit them."""
