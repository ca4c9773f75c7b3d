"""Scorers of written answers by name: numbers, matches, LaTeX, verifiable instructions, programs that are run.

Each is one file. They import nothing heavy until an answer is scored.
"""

from __future__ import annotations

from eval.scorers.base import Document, Metrics, Scorer
from eval.scorers.code import CODE
from eval.scorers.instructions import INSTRUCTIONS
from eval.scorers.match import MATCH
from eval.scorers.math import MATH
from eval.scorers.numeric import NUMERIC

SCORERS: dict[str, Scorer] = {scorer.name: scorer for scorer in (NUMERIC, MATCH, MATH, INSTRUCTIONS, CODE)}

__all__ = ["SCORERS", "Document", "Metrics", "Scorer"]
