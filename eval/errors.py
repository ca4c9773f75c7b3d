"""What an evaluation can fail of: what its caller can mend, and a death of the engine."""

from __future__ import annotations


class EvaluationError(ValueError):
    """An evaluation that cannot be done as asked, or whose process failed."""


class EngineDiedError(EvaluationError):
    """The evaluation process died, or lost its server: the same command may well go on where it ended."""
