"""How many rows the figures of pool and selections are computed on."""

from __future__ import annotations

from pydantic import Field

from train.settings import Settings


class FigureSettings(Settings):
    rows: int = Field(
        256, ge=0, description="rows of each group that a model reads, for losses and embeddings; 0: leave those out"
    )
    text_rows: int = Field(4000, ge=2, description="rows of each group whose text and lengths are measured")
    draws: int = Field(20, ge=2, description="samples of equal size behind every figure that depends on the size")
