"""Quality, diversity and complexity of the pool and of each selection, side by side.

The three aspects and most figures are those that the survey arXiv 2412.02980 groups data measures by. They describe;
none of them says that a selection is better. `text` measures words and bytes, `spread` embeddings and shares,
`difficulty` what a model loses on the answers, `groups` puts rows into equal samples, `table` names every figure and
computes them all.
"""

from curate.figures.settings import FigureSettings
from curate.figures.table import FIGURES, RowFacts, figure_table

__all__ = ["FIGURES", "FigureSettings", "RowFacts", "figure_table"]
