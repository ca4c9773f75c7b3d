"""A store by what a configuration calls it: a local folder, or a URL with a local folder to work in."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from flows.store.digests import value_digest
from flows.store.stages import StageStore

DEFAULT_CACHE = Path(".equipoise-cache")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.")


def is_url(location: str) -> bool:
    return _URL.match(location) is not None


def check_location(location: str) -> str:
    """The location, if a store could be there as far as can be told without a network. Raises `ValueError`."""
    if not is_url(location):
        if not location or "\0" in location:
            raise ValueError(f"{location!r} is no folder")
        return location
    if "@" in urlsplit(location).netloc:
        raise ValueError(
            "credentials do not belong in the URL, which is written into logs and records; give them in the "
            "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )
    import fsspec

    protocol = location.partition("://")[0]
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        raise ValueError(
            f"{protocol}:// is no protocol that fsspec knows; use a folder or s3://bucket/prefix"
        ) from error
    except ImportError as error:
        extra = "pip install 'equipoise[s3]'" if protocol in ("s3", "s3a") else str(error)
        raise ValueError(f"{protocol}:// needs a package that is not installed: {extra}") from error
    return location


def open_store(location: str | Path, cache: Path = DEFAULT_CACHE) -> StageStore:
    """The store at a folder or URL. cache: where the local folders of URLs are, one for each."""
    text = str(location)
    if not is_url(text):
        return StageStore(Path(text))
    from flows.store.mirror import Mirror

    mirror = Mirror(text)
    return StageStore(cache / local_name(mirror.url), mirror)


def local_name(url: str) -> str:
    """A folder name that says which URL it is of, and is of no other."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', url).strip('-')[:60]}-{value_digest(url)[:8]}"
