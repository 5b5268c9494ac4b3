"""The errors that only the runtime raises, and error_line(), which prints any error in one line."""

from aim_cost.errors import AimError


class PatchError(AimError):
    """A model that cannot be patched, or a call that a patched model cannot serve."""


class LoadError(AimError):
    """A checkpoint or a config that cannot become a model here."""


class InputError(AimError):
    """A video or a prompt that cannot be used."""


class MeasurementError(AimError):
    """A measurement that cannot be made here, or a file of rows that cannot be continued."""


def error_line(error: BaseException) -> str:
    """An exception in one line of at most 300 characters and its class."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
