"""Raw rows of a Hugging Face hub dataset through `datasets`, from its local cache when that holds it.

The dataset is loaded, not streamed: a second run then needs no network and a pinned `revision` gives the same rows.
The first run therefore downloads the whole split even under a `limit`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from curate.sources.files import SUPPORTED, RawRow, SourceError, nearest_path
from curate.sources.spec import SourceSpec

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def looks_like_hub_id(path: str) -> bool:
    """`owner/name`, and not the name of a data file."""
    return _HUB_ID.fullmatch(path) is not None and Path(path).suffix.lower() not in SUPPORTED


def read_hub_rows(spec: SourceSpec) -> Iterator[RawRow]:
    """Every row of the split as `(origin, fields)`; `SourceError` if the dataset cannot be had."""
    import datasets

    split = spec.split or "train"
    try:
        rows = datasets.load_dataset(spec.path, name=spec.subset, split=split, revision=spec.revision)
    # `datasets` raises its own, the hub client's, httpx' and OS errors here; all mean the same to the user.
    except Exception as error:
        nearest = nearest_path(Path(spec.path))
        hint = f" or did you mean the local {nearest}?" if nearest else ""
        raise SourceError(
            f"{spec.path}: no such local path, and as a hub dataset (split {split!r}) it could not be loaded: "
            f"{type(error).__name__}. Check the id, `subset`, `split`, `revision`, the network (HF_HUB_OFFLINE) and, "
            f"for a gated dataset, the login; or download it and give the folder{hint}"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"hub:{spec.path}@{split}:{number}", dict(row)
