"""What can go wrong with a store that its user can mend: named with the store, the stage and the remedy."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT}
# what libraries and child processes make of ENOSPC when they lose its number
FULL_IN_WORDS = ("No space left on device", "Disk quota exceeded")
UNWRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM}
FULL_BYTES = 1 << 20  # with less than this left, a failed write has failed for want of room


class StoreError(RuntimeError):
    """A stage whose output cannot be trusted, or a store that cannot be used."""


def is_unwritable(error: OSError) -> bool:
    return error.errno in UNWRITABLE


def is_full(error: BaseException, folder: Path) -> bool:
    """Whether `error` comes from a full disk under `folder`; also when a child process or a library told it in words,
    or hid it (torch says only that writing failed)."""
    for each in _chain(error):
        if isinstance(each, OSError) and each.errno in FULL:
            return True
        if any(words in str(each) for words in FULL_IN_WORDS):
            return True
    told = isinstance(error, ValueError | StoreError)  # a reason of its own, which would be hidden
    return not told and _free(folder) < FULL_BYTES


def full_message(root: Path, stage: str, partial: Path) -> str:
    """One message for a full disk: where, at what, and how much room it takes to go on."""
    written = sum(path.lstat().st_size for path in partial.rglob("*") if path.is_file()) if partial.exists() else 0
    return (
        f"store {root}: no space left while stage {stage} was written ({in_words(_free(root))} free; the stage had "
        f"written {in_words(written)}). Free more than that there (`equipoise gc --store {root}` shows what can go, "
        "`equipoise validate` estimates what a run needs), or give another `store`; then run the same command again: "
        "what is finished is kept"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _free(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def in_words(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"
