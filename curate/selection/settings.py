"""What selection is told: frozen, validated, part of the run configuration as it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from curate.selection import METHODS
from curate.selection.constraints import SourceLimit
from train.names import nearest
from train.settings import Settings, existing


class SourceSettings(Settings):
    """Least and most of one source."""

    min: int | float = Field(0, description="least of the source: rows, or a share of the budget from 0.0 to 1.0")
    max: int | float | None = Field(None, description="most of the source, rows or share; null: no maximum")

    @model_validator(mode="after")
    def _amounts(self) -> SourceSettings:
        for name, value in (("min", self.min), ("max", self.max)):
            if value is not None and not _is_amount(value):
                raise ValueError(f"{name} {value} is neither a whole number of rows nor a share from 0.0 to 1.0")
        if self.max is not None and type(self.min) is type(self.max) and self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self

    def limit(self) -> SourceLimit:
        return SourceLimit(self.min, self.max)


class SelectionSettings(Settings):
    methods: list[str] = Field(["bids", "random"], min_length=1, description="selections to train and compare")
    budget: int | float = Field(0.1, description="rows to select: a number, or a fraction of the pool below 1")
    budget_tokens: int | float | None = Field(
        None, description="instead of budget: tokens to select, a number or a fraction of the pool's tokens"
    )
    sources: dict[str, SourceSettings] = Field({}, description="min and max per source of the pool, by its name")
    include: list[str] = Field([], description="ids that must be selected, or a text file with one id a line")
    exclude: list[str] = Field([], description="ids that must not be selected, or a text file with one id a line")
    max_per_cluster: int | None = Field(
        None,
        ge=1,
        description="rows of one cluster of near-duplicates at most; null: near-duplicates are not looked for",
    )
    near_duplicate_threshold: float = Field(
        0.8, gt=0, le=1, description="similarity of word triples (Jaccard) from which two rows are near-duplicates"
    )

    @field_validator("include", "exclude", mode="before")
    @classmethod
    def _ids_of_a_file(cls, value: Any) -> Any:
        if not isinstance(value, str | Path):
            return value
        path = existing(Path(value))
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a text file of ids, one a line: {error}") from error
        return [line.strip() for line in lines if line.strip()]

    @model_validator(mode="after")
    def _known_methods(self) -> SelectionSettings:
        for method in self.methods:
            if method not in METHODS:
                raise ValueError(f"unknown method {method!r}{nearest(method, METHODS)}; methods: {', '.join(METHODS)}")
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("a method is listed twice")
        return self

    @model_validator(mode="after")
    def _one_budget(self) -> SelectionSettings:
        if not _is_amount(self.budget) or not self.budget:
            raise ValueError(f"budget {self.budget} is neither a whole number of rows nor a fraction from 0 to 1")
        if self.budget_tokens is not None:
            if not _is_amount(self.budget_tokens) or not self.budget_tokens:
                raise ValueError(
                    f"budget_tokens {self.budget_tokens} is neither a whole number of tokens nor a fraction from 0 to 1"
                )
            # not by which fields were set: a deployment hands over every field
            if self.budget != type(self).model_fields["budget"].default:
                raise ValueError("budget and budget_tokens are both given; keep one of them")
        return self

    @model_validator(mode="after")
    def _ids_are_listed_once(self) -> SelectionSettings:
        for name, ids in (("include", self.include), ("exclude", self.exclude)):
            if repeated := [one for one, count in Counter(ids).items() if count > 1]:
                raise ValueError(f"{name} lists {repeated[0]!r} more than once ({len(repeated)} such ids)")
        if both := sorted(set(self.include) & set(self.exclude)):
            raise ValueError(f"{both[0]!r} is in include and in exclude ({len(both)} such ids); take it out of one")
        return self

    @property
    def budget_in_words(self) -> str:
        return f"{self.budget} (rows)" if self.budget_tokens is None else f"{self.budget_tokens} (tokens)"

    @property
    def constrained(self) -> bool:
        """Whether anything beside the budget is asked of the selection."""
        return bool(self.sources or self.include or self.exclude or self.max_per_cluster)


def _is_amount(value: int | float) -> bool:
    """A whole number, or a float from 0 to 1; NaN is neither."""
    return 0 <= value <= 1 if isinstance(value, float) else value >= 0
