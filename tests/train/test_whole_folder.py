"""train.whole_folder: a folder is there whole or not at all, whatever became of its writer."""

import signal
import subprocess
import sys

import pytest

from train.whole_folder import whole_folder

KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from train.whole_folder import whole_folder
with whole_folder(Path(sys.argv[1])) as folder:
    (folder / ".tmp1").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_old_one_is_there_until_the_new_one_is_whole(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "old").write_text("1")
    with whole_folder(folder) as partial:
        (partial / "new").write_text("2")
        assert [path.name for path in folder.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.rglob("*")] == ["adapter", "new"]


def test_a_failed_save_leaves_the_old_one(tmp_path):
    folder = tmp_path / "adapter"
    with whole_folder(folder) as partial:
        (partial / "old").write_text("1")
    with pytest.raises(OSError, match="full"), whole_folder(folder):
        raise OSError("the disk is full")
    assert [path.name for path in folder.iterdir()] == ["old"]


def test_nothing_of_a_killed_writer_remains(tmp_path):
    folder = tmp_path / "adapter"
    done = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.rglob(".tmp1")] and not folder.exists()
    with whole_folder(folder) as partial:
        (partial / "whole").write_text("1")
    assert [path.name for path in tmp_path.rglob("*")] == ["adapter", "whole"]
