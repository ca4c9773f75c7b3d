"""The description of one data source, validated before anything is read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class SourceSpec(BaseModel):
    """Files, a folder, a pattern, a URL or a hub dataset. Unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(
        min_length=1,
        pattern=r"^[^\x00]*$",
        description=(
            "File (.parquet, .jsonl, .json, .csv; each also .gz, .zst or .bz2), folder of such files, pattern "
            "(data/**/*.jsonl.gz), URL (s3://bucket/folder), or hub dataset id owner/name."
        ),
    )
    source: str | None = Field(
        None,
        min_length=1,
        description="Source name of all rows; without it the row's own `source`, else the file, folder or hub name.",
    )
    license: str | None = Field(
        None, min_length=1, description="Licence of all rows; without it the row's own `license`, else 'unknown'."
    )
    attribution: str | None = Field(
        None, min_length=1, description="Whom the licence asks to name, and how; goes into the exported card as it is."
    )
    languages: list[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]] = Field(
        [], description="ISO 639 codes of the languages of the rows, such as [en, de]; for the exported card."
    )
    domain: str | None = Field(
        None, min_length=1, description="Domain of all rows; without it the row's own `domain`, else 'unknown'."
    )
    capability: str | None = Field(
        None, min_length=1, description="Capability of all rows, for targets; without it the row's own `capability`."
    )
    shape: Literal["auto", "messages", "alpaca", "prompt_completion", "sharegpt", "multi_turn"] = Field(
        "auto", description="How a row holds its conversation; auto decides per row by its fields."
    )
    split: str | None = Field(None, description="Split of a hub dataset (default: train); not for local files.")
    subset: str | None = Field(None, description="Configuration name of a hub dataset; not for local files.")
    revision: str | None = Field(
        None, description="Commit, tag or branch of a hub dataset; a commit makes the run repeatable."
    )
    stream: bool = Field(
        False, description="Read a hub dataset over the network row by row, without a copy on disk; for large ones."
    )
    limit: int | None = Field(None, ge=1, description="Read only the first so many rows; all when absent.")
