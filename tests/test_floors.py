"""The floors: imports run downwards only (flows, eval, curate, train), and only the top floor knows Prefect."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("train", "curate", "eval", "flows")  # lowest first
BARRED = {
    floor: {*FLOORS[number + 1 :], *({"prefect"} if floor != "flows" else set())} for number, floor in enumerate(FLOORS)
}


def imported(source: str, package: str) -> set[str]:
    """First parts of every module that `source`, a module of `package`, imports anywhere: in functions and in type
    checking blocks too, and by name through `import_module`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(package if node.level else str(node.module))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names |= {str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)}
    return {name.partition(".")[0] for name in names}


def upward_imports(root: Path, floor: str) -> list[str]:
    """`file: module` for every import of a floor that runs upwards."""
    return [
        f"{path.relative_to(root)}: {module}"
        for path in sorted((root / floor).rglob("*.py"))
        for module in sorted(imported(path.read_text(encoding="utf-8"), floor) & BARRED[floor])
    ]


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_run_downwards_only(floor):
    assert list((ROOT / floor).rglob("*.py")), f"no source file in {floor}"
    assert upward_imports(ROOT, floor) == []


def test_flows_is_the_floor_that_knows_prefect():
    assert any("prefect" in imported(path.read_text(), "flows") for path in (ROOT / "flows").rglob("*.py"))


@pytest.mark.parametrize(
    "planted",
    [
        "import flows.config",
        "from flows.store import StageStore",
        "import numpy, flows",
        "def late():\n    from flows import cli",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from flows import cli",
        "import importlib\nimportlib.import_module('flows.cli')",
    ],
)
def test_a_planted_violation_is_found(tmp_path, planted):
    room = tmp_path / "curate" / "room"
    room.mkdir(parents=True)
    (room / "good.py").write_text("import numpy\nfrom . import sibling\nfrom train.models import load_base\n")
    (room / "bad.py").write_text(f"{planted}\n")
    assert upward_imports(tmp_path, "curate") == ["curate/room/bad.py: flows"]


def test_prefect_below_the_top_floor_is_found(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "bad.py").write_text("from prefect import task\n")
    assert upward_imports(tmp_path, "eval") == ["eval/bad.py: prefect"]
