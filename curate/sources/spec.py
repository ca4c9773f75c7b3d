"""The description of one data source, validated before anything is read."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SourceSpec(BaseModel):
    """One file, folder or hub dataset. Unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(
        min_length=1,
        description="File (.parquet, .jsonl, .json, .csv), folder of such files, or hub dataset id owner/name.",
    )
    source: str | None = Field(
        None,
        min_length=1,
        description="Source name of all rows; without it the row's own `source`, else the file, folder or hub name.",
    )
    license: str | None = Field(
        None, min_length=1, description="Licence of all rows; without it the row's own `license`, else 'unknown'."
    )
    domain: str | None = Field(
        None, min_length=1, description="Domain of all rows; without it the row's own `domain`, else 'unknown'."
    )
    capability: str | None = Field(
        None, min_length=1, description="Capability of all rows, for targets; without it the row's own `capability`."
    )
    shape: Literal["auto", "messages", "alpaca", "prompt_completion", "sharegpt"] = Field(
        "auto", description="How a row holds its conversation; auto decides per row by its fields."
    )
    split: str | None = Field(None, description="Split of a hub dataset (default: train); not for local files.")
    subset: str | None = Field(None, description="Configuration name of a hub dataset; not for local files.")
    revision: str | None = Field(
        None, description="Commit, tag or branch of a hub dataset; a commit makes the run repeatable."
    )
    limit: int | None = Field(None, ge=1, description="Read only the first so many rows; all when absent.")
