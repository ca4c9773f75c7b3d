"""What selection is told: frozen, validated, part of the run configuration as it is."""

from __future__ import annotations

from pydantic import Field, model_validator

from curate.selection import METHODS
from train.names import nearest
from train.settings import Settings


class SelectionSettings(Settings):
    methods: list[str] = Field(["bids", "random"], min_length=1, description="selections to train and compare")
    budget: int | float = Field(0.1, description="rows to select: a number, or a fraction of the pool below 1")

    @model_validator(mode="after")
    def _known_methods(self) -> SelectionSettings:
        for method in self.methods:
            if method not in METHODS:
                raise ValueError(f"unknown method {method!r}{nearest(method, METHODS)}; methods: {', '.join(METHODS)}")
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("a method is listed twice")
        if not self.budget > 0 or (isinstance(self.budget, float) and self.budget > 1):
            raise ValueError(f"budget {self.budget} is neither a whole number of rows nor a fraction from 0 to 1")
        return self
