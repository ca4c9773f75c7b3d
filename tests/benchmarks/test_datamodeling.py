"""A whole datamodeling study on a sliver of the demo: warmup, five retrained models, a killed run, every scorer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "benchmarks" / "datamodeling"
ROWS, TARGETS, HALVES, REPEATS = 24, 12, 4, 1


def call(program, *arguments):
    command = [sys.executable, str(PROGRAMS / program), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


def retrain(folder, *more):
    config = folder.with_suffix(".yaml")
    recipe = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    recipe["data"]["targets"][0]["limit"] = TARGETS
    config.write_text(yaml.safe_dump(recipe))
    sizes = ["--rows", ROWS, "--subsets", HALVES, "--repeats", REPEATS, "--epochs", 1]
    return call("retrain.py", folder, "--config", config, *sizes, *more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datamodeling") / "study"
    done = retrain(folder)
    assert done.returncode == 0, done.stderr
    return folder


def arrays(folder):
    with np.load(folder / "losses.npz") as found:
        return {name: found[name] for name in found}


def test_every_model_is_trained_on_another_half_and_differs(folder):
    found = arrays(folder)
    assert found["members"].shape == (HALVES, ROWS)
    assert (found["members"].sum(axis=1) == ROWS // 2).all()
    assert found["losses"].shape == (HALVES, TARGETS)
    assert found["repeated"].shape == (REPEATS, TARGETS)
    assert np.isfinite(found["losses"]).all()
    assert len(np.unique(np.concatenate([found["losses"], found["repeated"]]), axis=0)) == HALVES + REPEATS
    untrained = np.array(json.loads((folder / "study.json").read_text())["untrained"])
    assert found["losses"].mean() < untrained.mean()


def test_a_killed_run_ends_with_the_same_losses_and_more_halves_keep_the_old_ones(folder):
    whole = arrays(folder)
    stopped = {name: values.copy() for name, values in whole.items()}
    stopped["losses"][2:] = np.nan
    np.savez(folder / "losses.npz", **stopped)
    done = retrain(folder, "--subsets", HALVES + 1)
    assert done.returncode == 0, done.stderr
    longer = arrays(folder)
    np.testing.assert_array_equal(longer["losses"][:HALVES], whole["losses"])
    np.testing.assert_array_equal(longer["members"][:HALVES], whole["members"])
    assert np.isfinite(longer["losses"][HALVES]).all()


def test_a_folder_with_another_study_is_refused(folder):
    done = retrain(folder, "--rows", ROWS + 2)
    assert done.returncode == 2
    assert f"rows {ROWS} there, {ROWS + 2} asked for" in done.stderr


def test_every_scorer_is_scored(folder, tmp_path):
    done = call("score.py", folder, "--output", tmp_path, "--resamples", 20)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "lds.json").read_text())
    with np.load(tmp_path / "scores.npz") as scores:
        assert {scores[name].shape for name in figures["scorers"]} == {(ROWS, TARGETS)}
        # what a sketch loses is noise: it still ranks like the exact scores
        exact, sketched = scores["less"], scores["less, sketch 8192"]
        assert np.corrcoef(exact.ravel(), sketched.ravel())[0, 1] > 0.9
    assert figures["models"] >= HALVES
    table = (tmp_path / "lds.md").read_text()
    assert all(f"| {name} |" in table or f"| **{name}** |" in table for name in figures["scorers"])
    again = call("score.py", folder, "--output", tmp_path, "--resamples", 20, "--reuse")
    assert again.stdout == done.stdout


def test_a_folder_without_a_study_says_how_to_make_one(tmp_path):
    done = call("score.py", tmp_path, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "retrain.py" in done.stderr
