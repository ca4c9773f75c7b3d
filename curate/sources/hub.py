"""Raw rows of a Hugging Face hub dataset through `datasets`, at a commit that is known before the first row is read.

A branch moves, so it is resolved to its commit once and the rows are read at that commit; offline, the commit is the
one the local cache was filled from. The dataset is loaded, so that a second run needs no network; the first run
downloads the whole split even under a `limit`. `stream: true` reads row by row over the network and keeps nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curate.sources.errors import SourceError, nearest_path
from curate.sources.files import RawRow, known_columns
from curate.sources.opening import file_kind
from curate.sources.spec import SourceSpec

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def looks_like_hub_id(path: str) -> bool:
    """`owner/name`, and not the name of a data file."""
    return _HUB_ID.fullmatch(path) is not None and file_kind(path) is None


def resolve_commit(spec: SourceSpec) -> str | None:
    """The commit that the spec's revision is now; None when the hub cannot be asked."""
    import huggingface_hub

    if spec.revision and _COMMIT.fullmatch(spec.revision):
        return spec.revision
    try:
        return huggingface_hub.HfApi().dataset_info(spec.path, revision=spec.revision).sha
    # The hub client raises its own, httpx' and OS errors; loading will say what is wrong, or find the cache.
    except Exception:
        return None


class HubRows:
    """The rows of one split. `commit` is known at the latest when the first row is; None where even the cache does
    not tell."""

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec
        self.split = spec.split or "train"
        self.commit = resolve_commit(spec)

    def __iter__(self) -> Iterator[RawRow]:
        """Every row as `(origin, fields)`; `SourceError` if the dataset cannot be had, or not to its end."""
        spec = self.spec
        number = 0
        try:
            for number, row in enumerate(self._load(), start=1):
                yield f"{self._place()}:{number}", dict(row)
        except SourceError:
            raise
        # `datasets` raises its own, the hub client's, httpx' and OS errors here; all mean the same to the user.
        except Exception as error:
            if number:
                raise SourceError(
                    f"{spec.path}: reading stopped after row {number} of split {self.split!r}: {type(error).__name__}. "
                    "Run again; for a weak network leave `stream` out, so that the files are fetched first"
                ) from error
            nearest = nearest_path(Path(spec.path))
            hint = f" or did you mean the local {nearest}?" if nearest else ""
            raise SourceError(
                f"{spec.path}: no such local path, and as a hub dataset (split {self.split!r}) it could not be loaded: "
                f"{type(error).__name__}. Check the id, `subset`, `split`, `revision`, the network (HF_HUB_OFFLINE) "
                f"and, for a gated dataset, the login; or download it and give the folder{hint}"
            ) from error

    def _place(self) -> str:
        """`hub:owner/name@commit/subset/split`, without what is not known or not set."""
        commit = f"@{self.commit}" if self.commit else ""
        return "/".join(part for part in (f"hub:{self.spec.path}{commit}", self.spec.subset, self.split) if part)

    def _load(self) -> Any:
        import datasets

        spec = self.spec
        builder = datasets.load_dataset_builder(spec.path, name=spec.subset, revision=self.commit or spec.revision)
        self._check(str(builder.hash))
        if spec.stream:
            rows = builder.as_streaming_dataset(split=self.split)
        else:
            builder.download_and_prepare()
            rows = builder.as_dataset(split=self.split)
        columns = known_columns(rows.column_names or [])
        return rows.select_columns(columns) if columns else rows

    def _check(self, found: str) -> None:
        """`datasets` names a hub dataset's cache by its commit, and offline takes the newest cache, whatever was asked
        for."""
        if not _COMMIT.fullmatch(found):
            return
        if self.commit and found != self.commit:
            raise SourceError(
                f"{self.spec.path}: the hub could not be asked, and the local cache holds commit {found}, not "
                f"{self.commit}; set `revision` to that one, or run once with the network"
            )
        self.commit = found
