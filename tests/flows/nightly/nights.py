"""Small nights and what they make live, for the tests of pointer and history."""

from __future__ import annotations

from flows.nightly.files import Kept
from flows.nightly.night import GradientCost, Night, PoolChange, SelectionChange, Warmth
from flows.nightly.pointer import Latest


def key(number, stage):
    return f"{number:06x}{len(stage):014x}"


def night(number, outcome="promoted", **changes):
    told = {
        "number": number,
        "name": "tiny",
        "finished": "2026-01-01T00:00:00Z",
        "run": f"tiny@{number:04d}-",
        "method": "bids",
        "outcome": outcome,
        "against": number - 1 or None,
        "live": number if outcome == "promoted" else number - 1 or None,
        "reasons": (f"reason {number}",),
        "compared": (),
        "warmup": Warmth(kept=True, why="it still fits"),
        "pool": PoolChange(rows=10, new=1, vanished=2),
        "gradients": GradientCost(computed=(1, 1), found=(9, 9)),
        "selection": SelectionChange(rows=3, kept=3, added=(), dropped=()),
    }
    return Night(**told | changes)


def latest(number, seeds=(17,)):
    names = {"select-bids": "select", "export-bids": "export", "finetune-bids": "finetune"}
    names |= {f"finetune-bids-seed{seed}": "finetune" for seed in seeds[1:]}
    stages = {name: Kept(stage=stage, key=key(number, name)) for name, stage in names.items()}
    run = f"runs/tiny/{number:04d}-20260101T000000Z.json"
    return Latest(
        name="tiny", number=number, promoted="", run=run, method="bids", seeds=seeds, model="abc", stages=stages
    )


def stages_of(store, number):
    """The folders that a release points to, each with a file that says of which night it is."""
    told = latest(number)
    for kept, part in ((told.tuned()[0], "adapter"), (told.exported, "dataset")):
        folder = store.root / kept.stage / kept.key / part
        folder.mkdir(parents=True)
        (folder / "number").write_text(str(number))


def seen(promotions):
    """The number of what is live, as each of the links and files tells it: one, or none."""
    folder = promotions.folder
    numbers = {
        (folder / "live" / "adapter" / "number").read_text(),
        (folder / "live" / "dataset" / "number").read_text(),
        str(promotions.latest().number),
    }
    for name in ("adapter", "dataset"):
        if (folder / name).is_symlink():
            numbers.add((folder / name / "number").read_text())
    (number,) = numbers
    return int(number)
