"""`python -m curate.influence` on input that cannot work: one line that names the thing and the remedy."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from curate.influence.__main__ import main
from tests.curate.influence.builders import make_job, write_checkpoint
from tests.tiny import make_base, make_model, make_rows, make_tokenizer
from train.encoding import write_encoded
from train.models import ADAPTER_FILE, attach_lora, trainable
from train.moments import MOMENTS_FILE, OPTIMIZER_FILE
from train.settings import LoraSettings


@pytest.fixture
def told(tmp_path, warmup, monkeypatch, capsys):
    """Runs a job, changed as asked, and returns its exit code and the line it leaves, if any."""

    def call(pool=5, targets=2, **changes) -> tuple[int, str]:
        write_encoded(tmp_path / "pool.parquet", make_rows(pool, seed=1))
        write_encoded(tmp_path / "targets.parquet", make_rows(targets, seed=2, prefix="target"))
        own = {"checkpoints": warmup.checkpoints, "base": warmup.base, "sample": warmup.sample}
        return run_text(make_job(tmp_path, **(own | changes)).model_dump_json())

    def run_text(text: str) -> tuple[int, str]:
        (tmp_path / "job.json").write_text(text)
        monkeypatch.setattr(sys, "argv", ["curate.influence", str(tmp_path / "job.json")])
        capsys.readouterr()
        code = main()
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == (code != 0)
        return code, lines[0] if lines else ""

    call.text = run_text
    return call


@pytest.fixture
def checkpoint(tmp_path, warmup):
    return shutil.copytree(warmup.checkpoints[1], tmp_path / "checkpoint-2")


def rewrite(checkpoint, change) -> None:
    moments = load_file(checkpoint / MOMENTS_FILE)
    save_file(change(moments), checkpoint / MOMENTS_FILE)


def test_good_job(told, tmp_path):
    assert told() == (0, "")
    assert len(json.loads((tmp_path / "output/gradients.json").read_text())) == 2


def test_checkpoint_without_moments_works_where_none_are_needed(told, checkpoint):
    (checkpoint / MOMENTS_FILE).unlink()
    code, line = told(checkpoints=[checkpoint])
    assert code == 1 and line.startswith(f"error: {checkpoint} has no {MOMENTS_FILE}: ")
    assert line.endswith("with `checkpoints` of at least 1 in its job, or use preconditioner ekfac or sgd")
    assert told(checkpoints=[checkpoint], preconditioner="sgd")[0] == 0
    assert told(checkpoints=[checkpoint], preconditioner="ekfac")[0] == 0


@pytest.mark.parametrize("missing", [ADAPTER_FILE, "adapter_config.json", OPTIMIZER_FILE])
def test_checkpoint_without_another_file(told, checkpoint, missing):
    (checkpoint / missing).unlink()
    code, line = told(checkpoints=[checkpoint], preconditioner="sgd")
    assert code == 1 and line.startswith(f"error: {checkpoint} has no {missing}: ")


def test_moments_keyed_by_index(told, checkpoint):
    rewrite(checkpoint, lambda moments: {f"exp_avg{sq}.{i}": torch.zeros(3) for sq in ("", "_sq") for i in range(4)})
    code, line = told(checkpoints=[checkpoint])
    assert code == 1 and "has no moments by parameter name; its keys are exp_avg.0, exp_avg.1" in line
    assert "train the warmup again, or use preconditioner ekfac or sgd" in line


def test_missing_second_moments(told, checkpoint):
    rewrite(checkpoint, lambda moments: {k: v for k, v in moments.items() if k.startswith("exp_avg.")})
    code, line = told(checkpoints=[checkpoint])
    first = "base_model.model.model.layers.0.self_attn.k_proj.lora_A.default.weight"
    assert code == 1 and f"has no exp_avg_sq of {first}. " in line


def test_first_name_that_differs_is_named(told, checkpoint):
    rewrite(checkpoint, lambda moments: {k: v for k, v in moments.items() if "layers.1.self_attn.q_proj" not in k})
    code, line = told(checkpoints=[checkpoint])
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.default.weight"
    assert code == 1 and f"{checkpoint} has no moments for {name}; adapter and optimizer state differ" in line


def test_moments_of_a_parameter_that_the_adapter_lacks(told, checkpoint):
    extra = {f"exp_avg{sq}.other.weight": torch.zeros(1) for sq in ("", "_sq")}
    rewrite(checkpoint, lambda moments: moments | extra)
    code, line = told(checkpoints=[checkpoint])
    assert code == 1 and f"{checkpoint} has moments for other.weight, which the adapter does not have" in line


@pytest.mark.parametrize("settings", [{}, {"mode": "sketch", "dimension": 64}])
def test_no_targets_and_no_pool(told, tmp_path, settings):
    for name, part, what in (("targets", {"targets": 0}, "target"), ("pool", {"pool": 0}, "row")):
        code, line = told(**part, **settings)
        reason = f"has no {what} with an answer to score; check max_length and the {name}"
        assert (code, line) == (1, f"error: {tmp_path / name}.parquet {reason}")


def test_adapter_that_no_step_has_reached(told, tmp_path):
    model = make_model("qwen2")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    folder = write_checkpoint(tmp_path / "fresh", model)
    code, line = told(checkpoints=[folder])
    assert code == 1 and line.startswith(f"error: {folder}: every lora_B is still zero, so lora_A has no gradient")
    assert line.endswith("Train the warmup for at least one step")


def test_exact_mode_that_does_not_fit_in_memory(told, tmp_path):
    """Gradients of 65,536 x (16 + 16) numbers for two maps in two layers, and 20,000 targets: 625 GiB."""
    model = attach_lora(make_base("qwen2"), LoraSettings(r=65536, targets=["q_proj", "o_proj"]), seed=0)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.fill_(1e-3)
    folder = write_checkpoint(tmp_path / "wide", model)
    code, line = told(targets=20_000, checkpoints=[folder])
    assert code == 1
    assert line.startswith(
        "error: exact mode keeps 20000 target gradients of 8,388,608 numbers in memory: 625.0 GiB of "
    )
    assert line.endswith("Use influence.mode sketch, fewer targets, or layers top_half")


def test_full_rank_with_an_adam_rule_is_a_configuration_error(told, tmp_path):
    good = json.loads(make_job(tmp_path, [tmp_path], tmp_path, preconditioner="ekfac").model_dump_json())
    good["settings"] |= {"full_rank": ["down_proj"], "preconditioner": "less"}
    code, line = told.text(json.dumps(good))
    assert code == 2 and "down_proj has no Adam moments for preconditioner less; use ekfac or sgd" in line


@pytest.mark.parametrize(("text", "message"), [("{", "Invalid JSON"), ('{"modle": 1}', "modle: Extra inputs")])
def test_unreadable_job(told, tmp_path, text, message):
    code, line = told.text(text)
    assert code == 2 and line.startswith(f"error: {tmp_path / 'job.json'}: ") and message in line


def test_missing_job_and_missing_argument(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["curate.influence", str(tmp_path / "none.json")])
    assert main() == 2 and "none.json cannot be read" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["curate.influence"])
    assert main() == 2 and capsys.readouterr().err.startswith("usage: ")


def test_full_rank_layer_that_does_not_exist(told):
    code, line = told(full_rank=["down_porj"], preconditioner="sgd")
    assert code == 1 and "full_rank: no linear map of the model is named 'down_porj'" in line and "down_proj" in line


def changed_base(**changes):
    config = make_base("qwen2").config.to_dict() | {"layer_types": None} | changes
    return Qwen2ForCausalLM(Qwen2Config(**config))


def test_adapter_of_another_model(told, tmp_path, warmup):
    """One without the adapted maps, one with other sizes, one with more layers."""
    for name, base, message in (
        ("other maps", make_base("gpt2"), "v_proj"),
        ("other sizes", changed_base(hidden_size=32), "size mismatch"),
        ("more layers", changed_base(num_hidden_layers=3), "layers.2.self_attn.k_proj.lora_A.weight"),
    ):
        folder = tmp_path / name
        base.save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        code, line = told(base=folder, preconditioner="sgd")
        assert code == 1 and line.startswith(f"error: the adapter in {warmup.checkpoints[0]} ") and message in line
        assert str(folder) in line and "Use the model it was trained on, or train the warmup again" in line


def test_model_that_is_not_there(told, tmp_path):
    code, line = told(base=tmp_path / "nowhere")
    assert code == 1 and f"cannot load the model '{tmp_path / 'nowhere'}'" in line


def test_empty_sample_for_the_curvature(told, tmp_path):
    write_encoded(tmp_path / "none.parquet", [])
    code, line = told(sample=tmp_path / "none.parquet", preconditioner="ekfac")
    assert (code, line) == (
        1,
        f"error: {tmp_path / 'none.parquet'} has no row to measure curvature on; give the rows the warmup trained on",
    )


def test_ids_that_are_not_unique(told, tmp_path, warmup):
    write_encoded(tmp_path / "twice.parquet", make_rows(3) + make_rows(2))
    code, line = told.text(
        make_job(
            tmp_path, warmup.checkpoints, warmup.base, pool=tmp_path / "twice.parquet", targets=warmup.sample
        ).model_dump_json()
    )
    assert code == 1 and "has 2 ids more than once, 'row0' first; make ids unique" in line
