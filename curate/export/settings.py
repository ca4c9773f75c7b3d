"""What the export is told, `export` in a run."""

from __future__ import annotations

from pydantic import Field

from train.settings import Settings

ROWS_PER_SHARD = 200_000


class ExportSettings(Settings):
    rows_per_shard: int = Field(ROWS_PER_SHARD, ge=1, description="rows of one Parquet file of the exported dataset")
    allow_licenses: list[str] = Field(
        [],
        description="licences whose rows may be exported and uploaded although their terms forbid it or are not known, "
        "such as [cc-by-nd-4.0, unknown]; you then answer for having the right",
    )
    creator: str | None = Field(None, min_length=1, description="who publishes the dataset, for citation and Croissant")
