"""A stage's key covers the code it computes with: a file left out of the list would let stale output be read."""

import ast
from pathlib import Path

import pytest

from flows.stages.data import CLEAN_CODE
from flows.stages.influence import GRADIENT_CODE
from flows.stages.similarity import SIMILARITY_CODE

ROOT = Path(__file__).parents[2]
# settings are in the key as parameters; names, how processes are started and how folders are written decide nothing
# that is stored
NOT_COMPUTING = {
    "train/settings.py",
    "train/launch_file.py",
    "train/names.py",
    "train/process.py",
    "train/whole_folder.py",
}


def files(rooms):
    for room in rooms:
        path = ROOT / room
        yield from path.rglob("*.py") if path.is_dir() else [path]


def imported(path: Path) -> set[str]:
    """The files of the training floor that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "train":
            modules = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
            found |= {f"{module.replace('.', '/')}.py" for module in modules}
    return {name for name in found if (ROOT / name).is_file()}


@pytest.mark.parametrize(
    "rooms", [CLEAN_CODE, GRADIENT_CODE, SIMILARITY_CODE], ids=["clean", "gradients", "similarity"]
)
def test_every_training_file_behind_a_stage_is_in_its_key(rooms):
    covered = {str(path.relative_to(ROOT)) for path in files(rooms)}
    needed = set().union(*(imported(path) for path in files(rooms)))
    assert needed - covered - NOT_COMPUTING == set()
