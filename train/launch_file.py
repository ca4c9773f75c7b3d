"""What an accelerate configuration file asks for, checked when the settings are read and not after an hour of training.

accelerate itself passes over misspelt FSDP and DeepSpeed keys, and on CPUs trains plain processes where FSDP is asked
for; both are refused here. Its loader takes two seconds of imports, spent only where a file is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator

from train.names import nearest
from train.settings import ExistingPath

Sharding = Literal["none", "FSDP", "DeepSpeed"]
WHOLE_STAGES = (0, 1, 2)  # of DeepSpeed's ZeRO, with which every process holds the whole adapter


class LaunchFileError(ValueError):
    """An accelerate configuration file that cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class LaunchFile:
    """processes: over all machines; sharding: whether each holds a piece of the model only."""

    path: Path
    processes: int
    sharding: Sharding

    def divide(self, batch_size: int) -> None:
        """Raise `LaunchFileError` when the processes cannot share a batch."""
        if batch_size % self.processes:
            raise LaunchFileError(
                f"{self.path} starts {self.processes} processes, which cannot share optimizer.batch_size {batch_size}; "
                "make it a multiple of them"
            )

    def refuse_pieces(self, why: str) -> None:
        """Raise `LaunchFileError` when the model is kept in pieces."""
        if self.sharding != "none":
            raise LaunchFileError(f"{self.path} asks for {self.sharding}, but {why}; use plain processes")


def read_launch_file(path: Path) -> LaunchFile:
    """Raises `LaunchFileError`."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import ComputeEnvironment, DistributedType

    try:
        config: Any = load_config_from_file(str(path))
    except (ValueError, TypeError, AttributeError, OSError, yaml.YAMLError) as error:
        raise LaunchFileError(
            f"{path} is no accelerate configuration: {' '.join(str(error).split())}; configs/accelerate has examples"
        ) from error
    if config.compute_environment != ComputeEnvironment.LOCAL_MACHINE:
        raise LaunchFileError(f"{path}: compute_environment must be LOCAL_MACHINE: processes are started on this one")
    if config.num_machines > 1:
        raise LaunchFileError(
            f"{path}: num_machines is {config.num_machines}, but processes are started on this machine only; use one, "
            "or run `accelerate launch -m train JOB.json` on each machine yourself"
        )
    if config.num_processes < 1:
        raise LaunchFileError(f"{path}: give num_processes, from 1 on")
    sharding: Sharding = "none"
    if config.distributed_type == DistributedType.FSDP or config.fsdp_config:
        sharding = "FSDP"
        _check_fsdp(path, config)
    if config.distributed_type == DistributedType.DEEPSPEED or config.deepspeed_config:
        sharding = "DeepSpeed"
        _check_deepspeed(path, config)
    return LaunchFile(path, config.num_processes, sharding)


def _check_fsdp(path: Path, config: Any) -> None:
    settings = config.fsdp_config
    _check_keys(path, "fsdp_config", settings, "fsdp_")
    if config.use_cpu:
        raise LaunchFileError(f"{path}: accelerate shards on GPUs only, and would train plain processes on the CPU")
    if int(settings.get("fsdp_version", 1)) != 2:
        raise LaunchFileError(
            f"{path}: set fsdp_version: 2; version 1 flattens frozen and trained weights into one piece, of which no "
            "adapter can be saved"
        )


def _check_deepspeed(path: Path, config: Any) -> None:
    settings = config.deepspeed_config
    _check_keys(path, "deepspeed_config", settings, "")
    stage = settings.get("zero_stage", 2)
    if stage not in WHOLE_STAGES:
        raise LaunchFileError(
            f"{path}: zero_stage {stage} keeps the adapter in pieces, which cannot be saved here; use stage 2, or FSDP"
        )


def _check_keys(path: Path, section: str, settings: dict[str, Any], prefix: str) -> None:
    """Against the options of `accelerate launch`, which the section's keys become."""
    from accelerate.commands.launch import launch_command_parser

    known = [action.dest for action in launch_command_parser()._actions]
    for key in settings:
        if key not in known:
            near = nearest(key, [each for each in known if each.startswith(prefix)])
            raise LaunchFileError(f"{path}: {section}.{key}: unknown key{near}")


def _checked(path: Path) -> Path:
    read_launch_file(path)
    return path


LaunchFilePath = Annotated[ExistingPath, AfterValidator(_checked)]
