"""The one error of an evaluation that its caller can mend."""

from __future__ import annotations


class EvaluationError(ValueError):
    """An evaluation that cannot be done as asked, or whose process failed."""
