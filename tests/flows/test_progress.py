"""What a stage's process says, line by line: into the log, into the progress, or nowhere."""

from __future__ import annotations

import pytest

from flows.progress import is_bar, read_progress, read_step
from train.process import progress_line

TRAINER = "  1%|▏         | 1/80 [00:01<02:13,  1.70s/it]"
GRADIENTS = "gradients:   7%|▋         | 694/9600 [00:31<06:25, 23.13row/s]"
LOADING = "Loading weights: 100%|██████████| 38/38 [00:00<00:00, 2258.77it/s]"
PROMPTS = "Processed prompts:  42%|████▏     | 201/480 [00:02<00:02, 99.72it/s, est. speed input: 8140.75 toks/s]"
SHARDS = "Loading safetensors checkpoint shards: 100% Completed | 1/1 [00:00<00:00, 113.53it/s]"


@pytest.mark.parametrize(
    ("line", "stage", "wanted"),
    [
        (TRAINER, "warmup", (1, 80, "steps, about 02:13 left")),
        (TRAINER, "finetune-bids-seed18", (1, 80, "steps, about 02:13 left")),
        (GRADIENTS, "gradients", (694, 9600, "gradients of rows, about 06:25 left")),
        (progress_line(3, 15, "models on tasks"), "evaluate", (3, 15, "models on tasks")),
        ("  0%|          | 0/80 [00:00<?, ?it/s]", "warmup", (0, 80, "steps")),
    ],
)
def test_the_bar_of_a_stage_is_its_progress(line, stage, wanted):
    found = read_progress(line, stage)
    assert (found.done, found.total, found.what) == wanted


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        (LOADING, "warmup"),
        (LOADING, "gradients"),
        (PROMPTS, "evaluate"),
        (TRAINER, "evaluate"),
        ("  0%|          | 0/0 [00:00<?, ?it/s]", "warmup"),
        ("loss 2.5 at step 3/80", "warmup"),
    ],
)
def test_other_bars_and_lines_are_not(line, stage):
    assert read_progress(line, stage) is None


@pytest.mark.parametrize("line", [TRAINER, GRADIENTS, LOADING, PROMPTS, SHARDS])
def test_redraws_are_known_as_such(line):
    assert is_bar(line)


@pytest.mark.parametrize("line", ["{'loss': '2.669'}", "share 12% | of 3/4 [rows]", "demo_code: 120 items in 5.9 s"])
def test_lines_are_no_bars(line):
    assert not is_bar(line)


def test_of_a_trainer_s_line_the_log_gets_what_a_person_follows():
    line = "{'loss': '2.669', 'grad_norm': '0.55', 'learning_rate': '0.001', 'share/a': '0.125', 'epoch': '0.33'}"
    assert read_step(line) == "loss 2.669, learning rate 0.001, epoch 0.33"
    assert read_step("{'train_runtime': '1.9', 'train_loss': '1.8'}") is None
