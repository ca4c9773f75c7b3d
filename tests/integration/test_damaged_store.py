"""Damage of every kind in every stage of a finished run: found, set aside, and made good to the same bytes.

Whether damage to one file is found costs a hash and is tried on each; making it good costs a run, so all stages are
damaged at once for each kind.
"""

from __future__ import annotations

import json
import pickle
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from curate.influence.features import FeatureIdentity, FeatureStore
from flows.store import MANIFEST
from flows.store.folder import DamagedError, check_folder
from tests.integration.small_run import SHARD_ROWS, STAGES, contents, outputs

pytestmark = pytest.mark.slow


class Bomb:
    """What would run when somebody unpickles it."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    with path.open("r+b") as file:  # in place, as a disk does it: all links see it
        file.write(content)


def cut(path, rng):
    with path.open("r+b") as file:
        file.truncate(rng.randrange(path.stat().st_size))


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.mark.parametrize("stage", STAGES)
def test_damage_to_any_file_is_found(finished, stage, tmp_path):
    rng, whole = random.Random(stage), outputs(finished.store)[stage]
    folder = tmp_path / whole.name
    shutil.copytree(whole, folder)
    check_folder(folder, whole.name)
    files = files_of(folder)
    assert len(files) >= 2
    for path in files:
        content = path.read_bytes()
        for damage in (flip, cut, lambda path, rng: path.unlink()):
            damage(path, rng)
            if damage is not flip or path.name != MANIFEST:  # its white space may flip, its content may not
                with pytest.raises(DamagedError):
                    check_folder(folder, whole.name)
            path.write_bytes(content)
    (folder / "stranger.txt").write_text("")
    with pytest.raises(DamagedError, match=r"stranger\.txt does not belong there"):
        check_folder(folder, whole.name)


def plant_bombs(folder, rng, mark):
    """In place of a file of every type."""
    for path in {path.suffix: path for path in files_of(folder)}.values():
        path.unlink()
        path.write_bytes(pickle.dumps(Bomb(mark)))


def damage_somehow(folder, rng):
    """Each stage in one of the other ways, so that all ways are used."""
    ways = (
        lambda: rng.choice(files_of(folder)).unlink(),
        lambda: (folder / "stranger.txt").write_text("?"),
        lambda: (folder / MANIFEST).write_text("{}"),
        lambda: cut(rng.choice(files_of(folder)), rng),
    )
    ways[STAGES.index(rng.stage) % len(ways)]()


@pytest.mark.parametrize("kind", ["flipped", "bombs", "others"])
def test_all_stages_are_made_good_at_once(finished, kind, tmp_path):
    before = {stage: contents(folder) for stage, folder in outputs(finished.store).items()}
    rng, mark = random.Random(11), tmp_path / "exploded"
    for stage, folder in outputs(finished.store).items():
        rng.stage = stage
        if kind == "flipped":
            flip(rng.choice([path for path in files_of(folder) if path.name != MANIFEST]), rng)
        elif kind == "bombs":
            plant_bombs(folder, rng, mark)
        else:
            damage_somehow(folder, rng)
    code, log = finished.forker.run(finished.config)
    assert code == 0, log
    found = outputs(finished.store)
    for stage, folder in found.items():
        assert f"set aside as {folder}.damaged-" in log, stage
        assert contents(folder) == before[stage], stage
    assert not mark.exists()
    for aside in finished.store.glob("*/*.damaged-*"):
        shutil.rmtree(aside)


def feature_stores(store):
    for folder in sorted((store / "features").iterdir()):
        yield folder, FeatureIdentity.model_validate_json((folder / "identity.json").read_text())


def test_damage_to_shared_features_is_found_in_both_places_and_costs_its_shard_only(finished):
    """A shard and a run's link to it are one file on the disk: both are damaged, and both are found."""
    gradients = outputs(finished.store)["gradients"]
    before = contents(gradients)
    folder, _ = next(feature_stores(finished.store))
    shard = next(path for path in sorted(folder.iterdir()) if (path / "values.npy").exists())
    linked = next(gradients.glob(f"checkpoint-*/{shard.name}/values.npy"))
    assert linked.samefile(shard / "values.npy")
    flip(shard / "values.npy", random.Random(3))
    for name in ("identity.json", *(path.name for path in folder.glob("targets-*.json"))):
        cut(folder / name, random.Random(4))
    code, log = finished.forker.run(finished.config)
    assert code == 0, log
    told = (gradients / "gradients.log").read_text()
    assert told.count("shard begun") == 1
    assert "set aside as" in log and contents(gradients) == before
    assert next(gradients.glob(f"checkpoint-*/{shard.name}/values.npy")).samefile(shard / "values.npy")
    assert all(FeatureStore(*each).verify() == [] for each in feature_stores(finished.store))
    rows = sum(json.loads(note.read_text())["rows"] for note in folder.glob("*/shard.json") if "dam" not in str(note))
    assert rows > SHARD_ROWS
    for aside in (*finished.store.glob("*/*.damaged-*"), *folder.glob("*.damaged*")):
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink()


@pytest.mark.parametrize("stage", ["gradients", "finetune"])
def test_a_disk_that_fills_up_under_a_training_process(finished, stage, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400m", "none", str(disk)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"needs a mount, which only root may do: {done.stderr.strip()}")
    try:
        store = disk / "store"
        unmade = ("gradients", "features", "attribution", "finetune") if stage == "gradients" else ("finetune",)
        shutil.copytree(finished.store, store, ignore=shutil.ignore_patterns(*unmade))
        filler = disk / "filler.bin"
        free = shutil.disk_usage(disk).free
        filler.write_bytes(bytes(free - (40_000 if stage == "gradients" else 3_000_000)))
        config = finished.config | {"store": str(store)}
        code, log = finished.forker.run(config)
        assert code == 1, log
        (told,) = [line for line in log.splitlines() if line.startswith("run failed")]
        assert f"store {store}: no space left while stage {stage} was written" in told and "Free more than" in told
        assert "Traceback" not in log
        assert not list((store / stage).glob(f"*/{MANIFEST}"))
        filler.unlink()
        code, log = finished.forker.run(config)
        assert code == 0, log
        assert outputs(store).keys() == outputs(finished.store).keys()
        for name, folder in outputs(finished.store).items():
            assert contents(outputs(store)[name], made_in=finished.store) == contents(folder), name
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
