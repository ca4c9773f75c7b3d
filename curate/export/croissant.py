"""`croissant.json`: the folder described in Croissant 1.0 (docs.mlcommons.org/croissant), which dataset search and
`mlcroissant` read.

Paths are relative, so that the records are read from the folder itself, and every file has its checksum. There is no
publication date, since a file whose bytes must not depend on the clock cannot name one; the validator takes that as a
recommendation missed and not as an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curate.export.rows import SHARDS

CROISSANT = "croissant.json"
ROWS, SHARD_SET = "rows", "shards"
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_COLUMNS = {
    "id": ("sc:Text", "Id of the row, the same in every file of this folder."),
    "source": ("sc:Text", "Name of the source that the row comes from."),
    "license": ("sc:Text", "Licence of the row, as its source states it."),
    "domain": ("sc:Text", "Domain of the row, or unknown."),
    "rank": ("sc:Integer", "Place in the selection; 0 is the first pick."),
    "utility": ("sc:Float", "The selection's criterion at that pick."),
    "task": ("sc:Text", "Capability that the row was taken for."),
}
_FORMATS = {".parquet": "application/x-parquet", ".jsonl": "application/jsonlines", ".json": "application/json"}


def write_croissant(
    folder: Path,
    *,
    name: str,
    description: str,
    licenses: Sequence[str],
    languages: Sequence[str],
    keywords: Sequence[str],
    creator: str | None,
    cite_as: str,
    files: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write the description. files: name -> `sha256` and `bytes` of the data files."""
    value: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": name,
        "description": description,
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "version": "1.0.0",
        "license": list(licenses),
        "keywords": list(keywords),
        "inLanguage": list(languages),
        "creator": {"@type": "sc:Organization", "name": creator} if creator else None,
        "citeAs": cite_as,
        "distribution": [_shards(), *(_file(name, files[name]) for name in sorted(files))],
        "recordSet": [_record_set()],
    }
    told = {key: entry for key, entry in value.items() if entry}
    text = json.dumps(told, indent=2, ensure_ascii=False) + "\n"
    (folder / CROISSANT).write_text(text, encoding="utf-8", newline="\n")


def _shards() -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": SHARD_SET,
        "name": SHARD_SET,
        "description": "The selected conversations in rank order.",
        "encodingFormat": _FORMATS[".parquet"],
        "includes": SHARDS,
    }


def _file(name: str, checksum: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{checksum['bytes']} B",
        "encodingFormat": _FORMATS[Path(name).suffix],
        "sha256": checksum["sha256"],
    }


def _record_set() -> dict[str, Any]:
    fields = [{**_field(column, kind, told), "source": _source(column)} for column, (kind, told) in _COLUMNS.items()]
    messages = {
        **_field("messages", None, "Turns of the conversation, in order."),
        "repeated": True,
        "subField": [
            {**_field(f"messages/{part}", "sc:Text", told), "source": _source("messages", part)}
            for part, told in (("role", "system, user, assistant or tool."), ("content", "Text of the turn."))
        ],
    }
    return {
        "@type": "cr:RecordSet",
        "@id": ROWS,
        "name": ROWS,
        "description": "One record per selected conversation.",
        "key": {"@id": f"{ROWS}/id"},
        "field": [*fields, messages],
    }


def _field(column: str, kind: str | None, description: str) -> dict[str, Any]:
    identity = f"{ROWS}/{column}"
    told = {"@type": "cr:Field", "@id": identity, "name": identity, "description": description}
    return told if kind is None else {**told, "dataType": kind}


def _source(column: str, path: str | None = None) -> dict[str, Any]:
    told: dict[str, Any] = {"fileSet": {"@id": SHARD_SET}, "extract": {"column": column}}
    return told if path is None else {**told, "transform": {"jsonPath": path}}
