"""Which files a path stands for, and each of them as a plain stream of bytes.

A path is a file, a folder, a pattern (`data/**/*.jsonl.gz`) or a URL of fsspec's (`s3://bucket/data/*.parquet`), and a
file may be compressed: the readers of formats see neither. Arrow decompresses gzip, zstd and bz2, because it names a
stream that ends early where other libraries hand out what there was. A compressed Parquet file is unpacked to a
temporary file first, since Parquet is read from its end.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import pyarrow as pa

from curate.sources.errors import SourceError, first_line, missing_file

FORMATS = (".parquet", ".jsonl", ".json", ".csv")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
SUPPORTED = f"{', '.join(FORMATS)} (each also with {', '.join(COMPRESSIONS)})"
EXTRAS = {"s3": "s3", "s3a": "s3"}  # protocol of a URL -> extra of this package that reads it
BUFFER = 1 << 18
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True)
class DataFile:
    """One file to read. `name` is what people are shown; `format` one of `FORMATS`; `compression` Arrow's name of it.

    size: bytes on disk. version: what the store says of the content (an ETag), None for a local file.
    filesystem: fsspec's, None for the local disk.
    """

    name: str
    path: str
    format: str
    compression: str | None
    size: int
    version: str | None = None
    filesystem: Any = None


def is_url(path: str) -> bool:
    return _URL.match(path) is not None


def is_pattern(path: str) -> bool:
    """Whether `path` has wildcards and is not the name of something that is there."""
    return glob.has_magic(path) and not is_there(path)


def is_there(path: str) -> bool:
    """Whether there is such a local path; also for text that can be no path."""
    return os.path.exists(path)  # noqa: PTH110 (Path.exists raises on a name too long for the disk)


def file_kind(path: str) -> tuple[str, str | None] | None:
    """`(format, compression)` by the name's ends, or None for a name of no known format."""
    name = PurePosixPath(path.lower())
    compression = COMPRESSIONS.get(name.suffix)
    format = PurePosixPath(name.stem).suffix if compression else name.suffix
    return (format, compression) if format in FORMATS else None


def find_files(path: str) -> list[DataFile]:
    """The files that `path` stands for, sorted by name; at least one.

    In folders and patterns, files of other formats and hidden ones are left out. Raises `SourceError` when nothing is
    there, when a file given by name is of no known format, or when a URL cannot be listed.
    """
    if is_url(path):
        return _find_remote(path)
    local = Path(path)
    try:
        if is_pattern(path):
            found = _sorted_files(map(Path, glob.iglob(path, recursive=True)))  # noqa: PTH207 (`path` may be absolute)
            if not found:
                raise SourceError(f"{path}: no data file fits this pattern; correct `path` (read are {SUPPORTED})")
        elif local.is_dir():
            inside = (file for file in local.rglob("*") if not _hidden(file.relative_to(local).as_posix()))
            found = _sorted_files(inside)
            if not found:
                raise SourceError(f"{path}: no data file in this folder; give the one that holds {SUPPORTED}")
        elif local.is_file():
            found = [local]
        elif local.exists():
            raise SourceError(f"{path}: neither a file nor a folder; write the data to a file")
        else:
            raise missing_file(local)
        return [_local_file(file) for file in found]
    except OSError as error:
        raise _unreadable(shown(path), None, error) from error


def check_path(path: str) -> None:
    """Raise `SourceError` if a pattern fits nothing or what reads a URL is not installed; needs no network."""
    if is_url(path):
        _filesystem(path)
    else:
        find_files(path)


@contextmanager
def open_file(file: DataFile) -> Iterator[BinaryIO]:
    """The file's content, decompressed; `SourceError` whenever it cannot be read, also in the middle."""
    try:
        with ExitStack() as stack:
            stream = stack.enter_context(_raw(file))
            if file.compression:
                plain = stack.enter_context(pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), file.compression))
                stream = stack.enter_context(io.BufferedReader(plain, BUFFER))
            elif file.format != ".parquet" and not isinstance(stream, io.BufferedReader):
                stream = stack.enter_context(io.BufferedReader(stream, BUFFER))
            if file.compression and file.format == ".parquet":
                whole = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(stream, whole, BUFFER)
                whole.seek(0)
                stream = cast(io.BufferedReader, whole)
            yield stream
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(file.name, file.compression, error) from error
    except Exception as error:
        if file.filesystem is None or isinstance(error, SourceError):
            raise
        raise _unreadable(file.name, None, error) from error  # object stores raise errors of their own libraries


def fingerprint(path: str) -> str:
    """A hash that changes with the content behind a pattern (of the bytes) or a URL (of names, sizes and versions)."""
    digest = hashlib.sha256()
    for file in find_files(path):
        content = [file.size, file.version] if file.filesystem else _content(file)
        digest.update(json.dumps([file.name, content]).encode())
    return digest.hexdigest()[:20]


def source_name(path: str) -> str:
    """What rows of `path` are called when nothing else names them: the file's name without its endings, or the
    folder's. For a pattern that is the folder before the first wildcard."""
    pattern = glob.has_magic(path) if is_url(path) else is_pattern(path)
    fixed = path
    if pattern:
        parts = path.split("/")
        fixed = "/".join(parts[: next(k for k, part in enumerate(parts) if glob.has_magic(part))]) or "."
    kind = None if pattern or (is_there(path) and Path(path).is_dir()) else file_kind(path)
    if is_url(path):
        fixed = _URL.sub("", fixed)
    name = PurePosixPath(fixed).name if is_url(path) or kind else Path(fixed).resolve().name
    for _ in range(0 if kind is None else 2 if kind[1] else 1):
        name = PurePosixPath(name).stem
    return shown(name)


def shown(text: str) -> str:
    """A path as text that can be stored: bytes of it that are not UTF-8 are written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")


def _sorted_files(paths: Iterable[Path]) -> list[Path]:
    return sorted({path for path in paths if file_kind(path.name) and path.is_file()})


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _local_file(path: Path) -> DataFile:
    return DataFile(shown(path.as_posix()), str(path), *_known_kind(path.as_posix()), path.stat().st_size)


def _known_kind(path: str) -> tuple[str, str | None]:
    kind = file_kind(path)
    if kind is None:
        suffix = PurePosixPath(path).suffix
        raise SourceError(f"{shown(path)}: unknown file type {suffix!r}; convert it to one of {SUPPORTED}")
    return kind


def _raw(file: DataFile) -> Any:
    return file.filesystem.open(file.path, "rb") if file.filesystem else Path(file.path).open("rb")


def _filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL and the path in it; says which extra to install where one is missing."""
    import fsspec

    protocol = url.partition("://")[0].lower()
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        remedy = f"pip install 'equipoise[{extra}]'" if extra else first_line(error)
        raise SourceError(f"{url}: {protocol}:// needs a package that is not installed; {remedy}") from error
    except Exception as error:  # an unknown protocol, or settings that the protocol's library refuses
        raise SourceError(f"{url}: cannot be opened ({first_line(error)}); correct `path`") from error


def _find_remote(url: str) -> list[DataFile]:
    filesystem, path = _filesystem(url)
    protocol = url.partition("://")[0]
    try:
        filesystem.invalidate_cache()  # a listing from earlier in this process may be old
        if glob.has_magic(path):
            found = filesystem.glob(path, detail=True)
        elif filesystem.isfile(path):
            found = {path: filesystem.info(path)}
            _known_kind(url)
        else:
            found = filesystem.find(path, detail=True)
    except SourceError:
        raise
    except Exception as error:
        raise _unreadable(url, None, error) from error
    inside = path.rstrip("/") + "/"
    files = []
    for name in sorted(found):
        info, kind = found[name], file_kind(name)
        if kind and info.get("type") == "file" and not _hidden(name.removeprefix(inside)):
            version = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("created")
            size = int(info.get("size") or 0)
            shown_name = shown(f"{protocol}://{name.lstrip('/')}")
            files.append(DataFile(shown_name, name, *kind, size, None if version is None else str(version), filesystem))
    if not files:
        raise SourceError(
            f"{url}: no data file there ({SUPPORTED}); correct `path`, or see what the credentials may read"
        )
    return files


def _content(file: DataFile) -> str:
    try:
        with Path(file.path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(file.name, None, error) from error


def _unreadable(name: str, compression: str | None, error: BaseException) -> SourceError:
    if compression and not isinstance(error, FileNotFoundError | PermissionError):
        return SourceError(
            f"{name}: not readable as {compression} ({first_line(error)}); it was cut short or is no {compression} "
            "file: fetch it or compress it again, or correct its name"
        )
    if is_url(name):
        return SourceError(
            f"{name}: cannot be read ({type(error).__name__}: {first_line(error)}); check the address, the network "
            "and the credentials"
        )
    what = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
    return SourceError(f"{name}: cannot be read ({what}); see that it is still there and that you may read it")
