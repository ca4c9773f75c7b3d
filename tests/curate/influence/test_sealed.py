"""curate.influence.sealed: a file is believed only once it is whole, and only while nothing changed it."""

import pytest

from curate.influence.features.shard import PARTIAL
from curate.influence.sealed import is_sealed, sealing


def test_a_file_and_its_checksum_appear_together(tmp_path):
    path = tmp_path / "curvature.safetensors"
    with sealing(path) as partial:
        partial.write_bytes(b"1")
        (place,) = tmp_path.iterdir()
        assert place.name.startswith(PARTIAL)  # what the store clears away after a kill
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name, f"{path.name}.sha256"]
    assert is_sealed(path)


def test_what_was_not_finished_is_not_sealed(tmp_path):
    path = tmp_path / "targets.json"
    with pytest.raises(KeyboardInterrupt), sealing(path) as partial:
        partial.write_bytes(b"1")
        raise KeyboardInterrupt
    assert not is_sealed(path) and list(tmp_path.iterdir()) == []


def test_a_changed_file_is_not_believed(tmp_path):
    path = tmp_path / "noise.json"
    with sealing(path) as partial:
        partial.write_bytes(b"1")
    path.write_bytes(b"2")
    assert not is_sealed(path)
