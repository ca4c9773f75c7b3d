"""A folder is what its manifest says, or the difference is named."""

from __future__ import annotations

import json

import pytest

from curate.export.manifest import ManifestError, read_manifest, verify, write_manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.parquet").write_bytes(b"rows")
    (tmp_path / "README.md").write_bytes(b"card")
    write_manifest(tmp_path, {"rows": 1})
    return tmp_path


def test_an_untouched_folder_passes(folder):
    manifest = verify(folder)
    assert manifest["rows"] == 1 and sorted(manifest["files"]) == ["README.md", "data/a.parquet"]
    assert manifest["files"]["README.md"]["bytes"] == 4


def test_every_difference_is_named(folder):
    (folder / "README.md").write_bytes(b"cart")
    (folder / "data" / "a.parquet").unlink()
    (folder / ".env").write_text("HF_TOKEN=x")
    with pytest.raises(
        ManifestError, match=r"data/a.parquet is missing; .env is not in the manifest; README.md was cha"
    ):
        verify(folder)


@pytest.mark.parametrize("text", ["", "[]", '{"files": {"a": 1}}', '{"files": {"a": {"bytes": 1}}}', "{}", "\xff"])
def test_what_is_no_manifest(folder, text):
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ManifestError, match="not the manifest of an export"):
        read_manifest(folder)


def test_no_manifest_at_all(tmp_path):
    with pytest.raises(ManifestError, match="no such file; give the folder that"):
        verify(tmp_path)


def test_the_manifest_is_the_same_in_any_order(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    write_manifest(tmp_path / "a", {"x": 1, "a": {"c": 1, "b": 2}})
    write_manifest(tmp_path / "b", {"a": {"b": 2, "c": 1}, "x": 1})
    assert (tmp_path / "a/manifest.json").read_bytes() == (tmp_path / "b/manifest.json").read_bytes()
    assert json.loads((tmp_path / "a/manifest.json").read_text())["files"] == {}
