"""train.launch_file: accelerate's own loader reads each file in configs/accelerate; what cannot work is refused."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from curate.influence.settings import InfluenceSettings
from flows.config import FinetuneSettings, WarmupSettings
from train.launch_file import LaunchFileError, read_launch_file

FILES = Path(__file__).parents[2] / "configs" / "accelerate"
EXPECTED = {
    "one_process.yaml": (1, "none"),
    "two_cpu_processes.yaml": (2, "none"),
    "gpus.yaml": (2, "none"),
    "fsdp.yaml": (2, "FSDP"),
    "deepspeed.yaml": (2, "DeepSpeed"),
}
PLAIN = {"distributed_type": "MULTI_GPU", "num_processes": 2}
FSDP = {"distributed_type": "FSDP", "num_processes": 2, "fsdp_config": {"fsdp_version": 2}}
DEEPSPEED = {"distributed_type": "DEEPSPEED", "num_processes": 2}


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "launch.yaml"
        path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))
        return path

    return write


def test_every_file_is_read_and_opens_with_its_command():
    assert {path.name for path in FILES.iterdir()} == set(EXPECTED)
    for name, (processes, sharding) in EXPECTED.items():
        found = read_launch_file(FILES / name)
        assert (found.processes, found.sharding) == (processes, sharding)
        first = (FILES / name).read_text().splitlines()
        assert f"accelerate: configs/accelerate/{name}" in first[0]
        assert first[1] == f"# .venv/bin/accelerate launch --config_file configs/accelerate/{name} -m train JOB.json"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("num_processes: [", "is no accelerate configuration"),
        ("just words", "is no accelerate configuration"),
        ({"num_processes": 2}, "`distributed_type` must be specified"),
        (PLAIN | {"num_proceses": 2}, r"unknown keys \(\['num_proceses'\]\)"),
        (PLAIN | {"num_machines": 2}, "processes are started on this machine only"),
        ({"distributed_type": "MULTI_GPU"}, "give num_processes"),
        (FSDP | {"use_cpu": True}, "accelerate shards on GPUs only"),
        (FSDP | {"fsdp_config": {}}, "fsdp_version: 2"),
        (FSDP | {"fsdp_config": {"fsdp_version": 2, "fsdp_ofload_params": True}}, "did you mean 'fsdp_offload_params'"),
        (DEEPSPEED | {"deepspeed_config": {"zero_stage": 3}}, "zero_stage 3"),
        (DEEPSPEED | {"deepspeed_config": {"zero_stge": 2}}, "did you mean 'zero_stage'"),
    ],
)
def test_file_that_cannot_work_is_refused_by_name(write, text, told):
    path = write(text)
    with pytest.raises(LaunchFileError, match=told) as refused:
        read_launch_file(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "values", "told"),
    [
        (FinetuneSettings, {"optimizer": {"batch_size": 3}}, "2 processes, which cannot share optimizer.batch_size 3"),
        (WarmupSettings, {"optimizer": {"batch_size": 5}}, "2 processes, which cannot share optimizer.batch_size 5"),
        (WarmupSettings, {"accelerate": "fsdp.yaml"}, "FSDP, but the warmup keeps Adam's moments"),
        (InfluenceSettings, {"accelerate": "deepspeed.yaml"}, "DeepSpeed, but the gradients of single rows"),
        (FinetuneSettings, {"accelerate": "fsdp.yaml", "coreset": {}}, "FSDP, but finetune.coreset replays one layer"),
        (FinetuneSettings, {"accelerate": "fsdp.yaml", "lora": {"quantization": "4bit"}}, "packs weights"),
        (
            FinetuneSettings,
            {"accelerate": "deepspeed.yaml", "optimizer": {"micro_batch_size": 2}},
            "steps at every backward pass",
        ),
        (FinetuneSettings, {"accelerate": "gpu.yaml"}, "did you mean 'gpus.yaml'"),
    ],
)
def test_settings_that_do_not_fit_the_processes_are_refused(settings, values, told):
    values = {"accelerate": "two_cpu_processes.yaml"} | values
    values["accelerate"] = FILES / values["accelerate"]
    with pytest.raises(ValidationError, match=told):
        settings(**values)


def test_mixture_and_reweighting_go_with_every_file():
    for name in EXPECTED:
        FinetuneSettings(accelerate=FILES / name, mixture={}, reweighting={})
