"""Adam moments by parameter name and the learning rates really used, saved beside each warmup checkpoint.

Written by our own callback, the same on one CPU or several GPUs, and never taken from the layout of an optimizer file:
in the reference code that layout keyed the state by integers that could not be matched to parameters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import TrainerCallback

from train.models import trainable
from train.whole_folder import whole_folder

MOMENTS_FILE = "moments.safetensors"
OPTIMIZER_FILE = "optimizer.json"


def checkpoint_steps(total_steps: int, count: int) -> list[int]:
    """`count` evenly spaced optimizer steps, the last one at the end; fewer when there are fewer steps."""
    return sorted({max(1, round(k * total_steps / count)) for k in range(1, count + 1)})


def checkpoint_folders(output: Path) -> list[Path]:
    """The checkpoints in `output`, first to last, whether `SaveMoments` left them or the Trainer."""
    return sorted(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


class SaveMoments(TrainerCallback):
    """Save adapter, moments and used learning rates at `checkpoint_steps`, as output/checkpoint-1, -2, ..."""

    def __init__(self, output: Path, total_steps: int, count: int) -> None:
        self.output = output
        self.steps = checkpoint_steps(total_steps, count)
        self.rates: list[float] = []

    def state_dict(self) -> dict[str, Any]:
        """The rates since the last checkpoint, which a resumed run must go on collecting."""
        return {"rates": self.rates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rates = list(state["rates"])

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # read before the step: afterwards the scheduler has already moved on
        self.rates.append(float(kwargs["optimizer"].param_groups[0]["lr"]))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step not in self.steps:
            return
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        rates, self.rates = self.rates, []
        if not state.is_world_process_zero:
            return
        raw = getattr(optimizer, "optimizer", optimizer)
        moments: dict[str, torch.Tensor] = {}
        for name, parameter in trainable(model).items():
            for key in ("exp_avg", "exp_avg_sq"):
                moments[f"{key}.{name}"] = raw.state[parameter][key].detach().float().cpu().contiguous()
        group = raw.param_groups[0]
        note = {
            "step": state.global_step,
            "betas": list(group["betas"]),
            "eps": group["eps"],
            "weight_decay": group["weight_decay"],
            "learning_rates": rates,
        }
        with whole_folder(self.output / f"checkpoint-{self.steps.index(state.global_step) + 1}") as folder:
            model.save_pretrained(folder)
            save_file(moments, folder / MOMENTS_FILE)
            (folder / OPTIMIZER_FILE).write_text(json.dumps(note, indent=1))
