"""Uploads an exported folder to the Hugging Face hub as it is: private unless asked, in one commit, only if it still is
what its manifest says.

One commit, so that nobody reads half of it and a second upload with fewer shards leaves no old shard behind; other
files of the repository stay. The token comes from HF_TOKEN or the login of `hf auth login`, and is neither read nor
written by us. Afterwards the hub is asked which files it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from curate.export.licenses import LicenseError, Standing, canonical, is_allowed, terms
from curate.export.lineage import LINEAGE
from curate.export.manifest import MANIFEST, ManifestError, verify
from curate.export.trainers import ALTERNATING, AXOLOTL, CHAT, LLAMA_FACTORY
from curate.records import DataError

MESSAGE = "Dataset selected with Equipoise"
# files of an earlier export that this one may not have; shards under other numbers would be loaded with the new ones
OURS = ("data/train-*-of-*.parquet", ALTERNATING, CHAT, LINEAGE, LLAMA_FACTORY, AXOLOTL)


class PushError(DataError):
    """A folder that was not uploaded; names the repository and the remedy."""


def push_to_hub(
    folder: Path,
    repo: str,
    *,
    public: bool = False,
    revision: str | None = None,
    allow_licenses: Iterable[str] = (),
) -> str:
    """Upload the folder to the dataset `repo` (owner/name) and return the commit's address.

    revision: branch, made where there is none; default: main. allow_licenses: licences to upload although their terms
    forbid it or are not known, beside those that the export allowed by name.
    Raises `ManifestError` for a folder that was changed, `LicenseError`, and `PushError` for everything of the hub.
    """
    manifest = verify(folder)
    if "licenses" not in manifest:
        raise ManifestError(f"{folder / MANIFEST} does not tell the rows' licences; export again with this version")
    _check_licenses(manifest["licenses"], list(allow_licenses))
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if not huggingface_hub.get_token():
        raise PushError(f"{repo}: no token of the hub; set HF_TOKEN, or log in once with `hf auth login`")
    try:
        return _upload(huggingface_hub.HfApi(), folder, manifest, repo, public, revision)
    except HFValidationError as error:
        raise PushError(f"{repo!r} is not the name of a repository ({_line(error)}); write owner/name") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        remedy = {
            401: "the token is not valid; set another in HF_TOKEN",
            403: "the token may not write there; give it the right to, or use another owner",
            409: "the repository exists and the token may not see it; use another name",
        }.get(status or 0, "see that the hub can be reached and run again")
        raise PushError(f"{repo}: the hub refused the upload ({_line(error)}); {remedy}") from error
    except Exception as error:
        if not _of_the_network(error):
            raise
        raise PushError(
            f"{repo}: the upload did not finish ({type(error).__name__}: {_line(error)}); see that the hub can be "
            "reached (HF_HUB_OFFLINE) and run again"
        ) from error


def _of_the_network(error: BaseException) -> bool:
    """The client's HTTP library is httpx or httpx2, by its version; neither is ours to import."""
    libraries = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(libraries & {"httpx", "httpx2"})


def _upload(api: Any, folder: Path, manifest: Mapping[str, Any], repo: str, public: bool, revision: str | None) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    _make_repository(api, repo, public)
    if revision:
        api.create_branch(repo, branch=revision, repo_type="dataset", exist_ok=True)
    names = [*sorted(manifest["files"]), MANIFEST]
    there = api.list_repo_files(repo, revision=revision, repo_type="dataset")
    old = [name for name in there if name not in names and any(fnmatchcase(name, pattern) for pattern in OURS)]
    commit = api.create_commit(
        repo,
        [
            *(CommitOperationAdd(name, str(folder / name)) for name in names),
            *(CommitOperationDelete(name) for name in old),
        ],
        commit_message=MESSAGE,
        repo_type="dataset",
        revision=revision,
    )
    missing = set(names) - set(api.list_repo_files(repo, revision=revision, repo_type="dataset"))
    if missing:
        raise PushError(
            f"{repo}: after the upload the hub does not have {', '.join(sorted(missing)[:5])}; see whether a "
            ".gitignore of the repository leaves them out"
        )
    return str(commit.commit_url)


def _make_repository(api: Any, repo: str, public: bool) -> None:
    """A new one, or one that exists and is as private as was asked for."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        private = bool(api.dataset_info(repo).private)
    except RepositoryNotFoundError:
        api.create_repo(repo, repo_type="dataset", private=not public)
        return
    if private == public:
        is_now, remedy = (
            ("private", "make it public in its settings on the hub, or leave out --public")
            if private
            else ("public", "give --public to upload there, or another name")
        )
        raise PushError(f"{repo} exists and is {is_now}; {remedy}")


def _check_licenses(licenses: Mapping[str, Mapping[str, Any]], allowed: list[str]) -> None:
    problems = []
    for license, told in sorted(licenses.items()):
        standing = terms(license).standing
        if standing is Standing.OPEN or told.get("allowed_by_name") or is_allowed(license, allowed):
            continue
        why = "does not permit passing on" if standing is Standing.FORBIDDEN else "is not known to permit passing on"
        problems.append(
            f"the licence {license!r} {why} its {told['rows']} rows; if you have the right, name it: "
            f"--allow-license {canonical(license)!r}, or export with export.allow_licenses"
        )
    if problems:
        raise LicenseError("\n".join(problems))


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
