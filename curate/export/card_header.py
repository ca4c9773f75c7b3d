"""The YAML header of the card, as the hub (its `datasetcard.md`) and `datasets` read it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from curate.export.licenses import canonical, terms
from curate.export.lineage import LINEAGE
from curate.export.rows import EXPORT_SCHEMA, SHARDS

DEFAULT = "default"
SEVERAL = "several-see-license-md"
_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
    (10**10, "1B<n<10B"),
    (10**11, "10B<n<100B"),
    (10**12, "100B<n<1T"),
)
_LARGEST_SIZE = "n>1T"


@dataclass(frozen=True)
class DataSize:
    """Bytes of the rows in memory and of their files."""

    rows: int
    files: int


def header(
    *,
    title: str,
    rows: int,
    licenses: Iterable[str],
    languages: Sequence[str],
    tags: Sequence[str],
    data: DataSize | None,
) -> str:
    """YAML without its rules. One licence that the hub knows is named; else `other` with a name and LICENSE.md."""
    from datasets import DatasetInfo, Features, SplitDict, SplitInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    told = DatasetCardData(
        language=list(languages) or None,
        **_license(licenses),
        task_categories=["text-generation"],
        size_categories=[next((name for limit, name in _SIZES if rows < limit), _LARGEST_SIZE)],
        tags=list(tags),
        pretty_name=title,
        configs=[
            {"config_name": DEFAULT, "default": True, "data_files": [{"split": "train", "path": SHARDS}]},
            {"config_name": "lineage", "data_files": [{"split": "train", "path": LINEAGE}]},
        ],
    )
    if data:
        split = SplitInfo("train", num_bytes=data.rows, num_examples=rows)
        info = DatasetInfo(
            config_name=DEFAULT,
            features=Features.from_arrow_schema(EXPORT_SCHEMA),
            splits=SplitDict({"train": split}),
            download_size=data.files,
            dataset_size=data.rows,
        )
        DatasetInfosDict({DEFAULT: info}).to_dataset_card_data(told)
    return str(told.to_yaml())


def _license(licenses: Iterable[str]) -> dict[str, Any]:
    found = {known.name: known for known in map(terms, licenses)}
    only = next(iter(found.values())) if len(found) == 1 else None
    if only and only.hub and only.hub != "other":
        return {"license": only.hub}
    name = re.sub(r"[^a-z0-9.]+", "-", canonical(only.name)).strip("-.")[:60] if only else SEVERAL
    return {"license": "other", "license_name": name or "custom", "license_link": "LICENSE.md"}
