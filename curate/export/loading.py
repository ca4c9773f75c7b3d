"""The card's section on loading the dataset in `datasets`, TRL, LLaMA-Factory and Axolotl."""

from __future__ import annotations

from curate.export.trainers import ALTERNATING, CHAT, TrainerFiles, axolotl_text

_DATASETS = """```python
from datasets import load_dataset

rows = load_dataset("FOLDER", split="train")                # also with streaming=True
lineage = load_dataset("FOLDER", "lineage", split="train")  # where each row comes from
```"""
_TRL = """**TRL** trains on the column `messages` with the model's chat template:

```python
from trl import SFTConfig, SFTTrainer

trainer = SFTTrainer(
    model="MODEL",
    args=SFTConfig(assistant_only_loss=True),
    train_dataset=rows.select_columns(["messages"]),
)
```

`assistant_only_loss` needs a chat template with `{% generation %}` blocks, or one of those that TRL completes itself;
leave it out otherwise, and the loss covers the questions too."""


def loading_section(name: str, trainers: TrainerFiles) -> list[str]:
    """Markdown blocks; `FOLDER` in them is this folder, or `owner/name` once it is on the hub."""
    return [
        "`FOLDER` is this folder, or `owner/name` once it is on the hub.",
        _DATASETS,
        _TRL,
        f"**LLaMA-Factory** reads `dataset_info.json` of this folder:\n\n"
        f"```yaml\ndataset_dir: FOLDER\ndataset: {name}\ntemplate: the one of your model\n```",
        _alternation(trainers),
        f"**Axolotl** takes this entry (also in `axolotl.yaml`):\n\n```yaml\n{axolotl_text(CHAT).rstrip()}\n```",
        "Turns have the roles system, user, assistant and tool. A call of a tool is text of the assistant's turn, "
        "`<tool_call>` around JSON, and the tools' definitions stand in the system turn, so every chat template "
        "renders them; a template that knows no role `tool` needs one that does.",
    ]


def _alternation(trainers: TrainerFiles) -> str:
    if trainers.joined:
        told = (
            f"It wants turns that alternate: in {trainers.joined:,} rows neighbouring turns of one side were joined "
            f"for it, in `{ALTERNATING}`, which the description names."
        )
    else:
        told = f"It wants turns that alternate, which those of `{CHAT}` do."
    if trainers.skipped:
        told += f" It skips {trainers.skipped:,} rows that begin with the assistant."
    return told
