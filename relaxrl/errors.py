"""Errors that users meet; each message says what was expected, what came and what to do.

All of them derive from `RelaxRLError`, which the command line turns into one line on standard error and exit status 2.
"""


class RelaxRLError(Exception):
    """Base of all errors that relaxrl raises on purpose."""


class StructureError(RelaxRLError, ValueError):
    """A structure or a file of structures can't be used."""


class CalculatorError(RelaxRLError, RuntimeError):
    """A calculator is unknown, can't be made, or failed to give energies and forces."""


class ConfigError(RelaxRLError, ValueError):
    """A configuration has an unknown key, a wrong type or a value out of range."""


class CheckpointError(RelaxRLError, ValueError):
    """A checkpoint is truncated, foreign, or belongs to another architecture."""


class ResultsError(RelaxRLError, ValueError):
    """Stored results of a run or of an evaluation are missing, broken or foreign."""
