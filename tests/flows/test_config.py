"""The run configuration: every mistake is found at once, named, and answered with what would be valid."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from flows.config import ConfigError, RunConfig, load_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """The least configuration, with every file it names, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("model/config.json", "data/pool.parquet", "data/targets.parquet", "data/math.parquet"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    return {
        "name": "small",
        "model": "model",
        "data": {"pool": [{"path": "data/pool.parquet"}], "targets": [{"path": "data/targets.parquet"}]},
        "evaluation": {"items": ["data/math.parquet"]},
    }


def load(raw, *overrides):
    Path("run.yaml").write_text(yaml.safe_dump(raw))
    return load_config(Path("run.yaml"), overrides)


def problems(raw, *overrides):
    with pytest.raises(ConfigError) as caught:
        load(raw, *overrides)
    return str(caught.value)


def test_the_least_configuration_is_valid_and_frozen(raw):
    config = load(raw)
    assert isinstance(config, RunConfig)
    assert (config.seed, config.warmup.fraction, config.selection.methods) == (17, 0.05, ["bids", "random"])
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3


@pytest.mark.parametrize("name", ["demo.yaml", "own_data.yaml"])
def test_the_recipes_hold_only_known_keys(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe = yaml.safe_load((ROOT / "configs" / name).read_text())
    try:
        RunConfig.model_validate(recipe)
    except ValidationError as error:
        # a template may name files that its user has yet to make, and nothing else may be wrong with it
        assert {problem["type"] for problem in error.errors()} == {"value_error"}
        assert all("no such file or folder" in problem["msg"] for problem in error.errors())
        assert name != "demo.yaml"


def test_the_demo_recipe_is_valid(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config(Path("configs/demo.yaml"))
    assert config.model == "demo/model"
    assert len(config.evaluation.items) >= 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sed=1", "sed: unknown key, did you mean 'seed'?"),
        ("warmup.fractoin=0.1", "warmup.fractoin: unknown key, did you mean 'fraction'?"),
        ("warmup.optimizer.learning_rat=0.1", "learning_rat: unknown key, did you mean 'learning_rate'?"),
        ("finetune.mixture.swich=0.1", "finetune.mixture.swich: unknown key, did you mean 'switch'?"),
        ("data.pool.0.licence=mit", "data.pool.0.licence: unknown key, did you mean 'license'?"),
        ("evaluation.zzzzzz=1", "evaluation.zzzzzz: unknown key\n"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(raw, override, message):
    assert message in problems(raw, override) + "\n"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=modle", "model: no such file or folder: modle, did you mean 'model'?"),
        ("data.pool.0.path=data/pol.parquet", "no such file or folder: data/pol.parquet, did you mean 'pool.parquet'?"),
        ("data.targets.0.path=dta/t.jsonl", "no such file or folder: dta/t.jsonl (dta does not exist)"),
        ("data.pool.0.path=data/pool", "no such file or folder: data/pool, did you mean 'pool.parquet'?"),
        ("evaluation.items=[data/maths.parquet]", "data/maths.parquet, did you mean 'math.parquet'?"),
        ("evaluation.task_folder=tasks/none/here", "tasks/none/here (tasks/none does not exist)"),
        ("finetune.accelerate=two.yaml", "finetune.accelerate: no such file or folder: two.yaml"),
    ],
)
def test_a_file_that_is_not_there_is_named_with_the_nearest_that_is(raw, override, message):
    assert message in problems(raw, override)


def test_every_missing_source_is_named(raw):
    raw["data"]["pool"] = [{"path": "data/one.parquet"}, {"path": "data/pool.parquet"}, {"path": "data/two.parquet"}]
    text = problems(raw)
    assert "data/one.parquet" in text
    assert "data/two.parquet" in text
    assert "2 problem(s)" in text


def test_a_hub_id_is_left_to_the_hub(raw):
    assert load(raw, "model=some-owner/some-model", "data.pool.0.path=owner/data").model == "some-owner/some-model"


def test_all_problems_are_told_at_once(raw):
    raw["sede"] = 1
    raw["seed"] = -1
    raw["warmup"] = {"fraction": 2, "lora": {"rank": 8}}
    raw["selection"] = {"methods": ["bid"]}
    del raw["name"]
    text = problems(raw)
    assert text.startswith("run.yaml: 6 problem(s)\n")
    for part in (
        "sede: unknown key",
        "seed: ",
        "warmup.fraction: ",
        "warmup.lora.rank: ",
        "'bid'",
        "name: is required",
    ):
        assert f"  - {part}" in text or part in text
    assert "(got 2)" in text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("selection.methods=[bidz]", "unknown method 'bidz', did you mean 'bids'?; methods: bids, "),
        ("selection.methods=[bids, bids]", "a method is listed twice"),
        ("selection.budget=-1", "budget -1 is neither a whole number of rows nor a fraction from 0 to 1"),
        ("selection.budget=0", "budget 0 is neither"),
        ("selection.budget=1.5", "budget 1.5 is neither"),
        ("selection.budget=20.0", "budget 20.0 is neither"),
        ("selection.budget=.nan", "budget nan is neither"),
        ("evaluation.items=[]", "evaluation: give `items`"),
        ("finetune.optimizer.schedule=lineer", "finetune.optimizer.schedule: Input should be 'linear'"),
        ("name=a b/c", "name: String should match pattern"),
        ("data.pool=[]", "data.pool: List should have at least 1 item"),
    ],
)
def test_a_value_that_cannot_work_is_named_with_the_remedy(raw, override, message):
    assert message in problems(raw, override)


@pytest.mark.parametrize("budget", [1, 20, 0.1, 1.0])
def test_budgets_that_work(raw, budget):
    assert load(raw, f"selection.budget={budget}").selection.budget == budget


def test_overrides_reach_nested_keys_lists_and_absent_sections(raw):
    config = load(
        raw,
        "seed=3",
        "warmup.optimizer.learning_rate=2.0e-3",
        "data.pool.0.limit=12",
        "finetune.mixture={start: 3, end: 1}",
        "finetune.mixture.switch=0.25",
        "evaluation.items.0=data/targets.parquet",
        "selection.methods=[less]",
    )
    assert (config.seed, config.warmup.optimizer.learning_rate, config.data.pool[0].limit) == (3, 0.002, 12)
    assert config.finetune.mixture is not None
    assert (config.finetune.mixture.start, config.finetune.mixture.switch) == (3, 0.25)
    assert config.evaluation.items == [Path("data/targets.parquet")]
    assert config.selection.methods == ["less"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set 'seed' is not of the form key=value"),
        ("seed.deeper=1", "--set seed.deeper: 'seed' holds a single value or nothing, so it has no 'deeper' to set"),
        ("data.pool.5.limit=1", "--set data.pool.5.limit: '5' holds a single value or nothing"),
        ("data.pool.first.limit=1", "--set data.pool.first.limit: 'first' holds a single value or nothing"),
        ("evaluation.items.3=x", "--set evaluation.items.3: '3' is not a position of a list of 1"),
        ("selection.methods=[bids", "--set selection.methods: '[bids' is not valid YAML"),
    ],
)
def test_an_override_that_fits_nowhere_is_explained(raw, override, message):
    raw["seed"] = 5
    assert message in problems(raw, override)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", "must hold a mapping of settings, found list"),
        (b"", "must hold a mapping of settings, found NoneType"),
        (b"a: [1\n", "is not valid YAML"),
        (b"name: \xff\xfe\n", "is not UTF-8"),
        (b"name: \x07\n", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, content, message):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_a_missing_configuration_file(tmp_path):
    (tmp_path / "demo.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"no such configuration file: .*dmo\.yaml, did you mean 'demo\.yaml'\?"):
        load_config(tmp_path / "dmo.yaml")


@pytest.mark.parametrize("lora", [{"init": "pissa"}, {"init": "olora"}, {"quantization": "4bit"}])
def test_warmup_keeps_the_base_that_influence_reads(raw, lora):
    raw["warmup"] = {"lora": lora}
    text = problems(raw)
    assert "warmup.lora" in text and "for the warmup" in text
