"""Write the embedded model's card and loss curve from training.json and transfer.json.

python demo/write_card.py
"""

from __future__ import annotations

import json

import matplotlib
from build_data import HERE
from matplotlib.figure import Figure
from pretrain import CHAT_ROWS, TEXT_CHARACTERS

MODEL = HERE / "model"
matplotlib.rcParams["svg.hashsalt"] = "equipoise"  # the same picture, the same bytes

LICENCES = {
    "simple_stories": "MIT (Llama 3.1 output)",
    "simple_textbooks": "MIT (Llama 3.1 output)",
    "wikipedia_readable": "CC-BY-SA-3.0",
    "classic_books": "public domain (US)",
    "childrens_stories_en": "CC-BY, a few public domain",
    "ys_llama31": "MIT (Llama 3.1 output)",
    "natural_instructions": "per row: CC-BY, CC-BY-SA, Apache-2.0, MIT",
    "dolly_3k": "CC-BY-SA-3.0",
    "gpteacher_roleplay": "MIT (OpenAI model output)",
    "p3_t0": "per row: CC-BY, CC-BY-SA, MIT",
    "web_questions": "CC-BY-4.0",
    "opentriviaqa": "CC-BY-SA-4.0",
    "gsm8k_train": "MIT",
    "conala_train": "CC-BY-SA-3.0",
    "nl2bash": "MIT",
    "commonsenseqa_train": "MIT",
    "tatoeba_translation": "CC-BY-2.0-FR",
}


def draw_curve(curve: list[dict]) -> None:
    figure = Figure(figsize=(6, 2.8), layout="constrained")
    axis = figure.subplots()
    axis.plot([p["step"] for p in curve], [p["loss"] for p in curve], color="#0072B2", linewidth=1.2)
    axis.set(xlabel="optimizer step", ylabel="training loss (nats per token)")
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(MODEL / "loss_curve.svg", metadata={"Date": None})


def transfer_table(transfer: dict) -> str:
    names = list(transfer["change"])
    lines = ["| trained on | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for trained in names:
        cells = [transfer["change"][trained][name] for name in names]
        texts = [f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" for mean, low, high in cells]
        lines.append(f"| {trained} | " + " | ".join(texts) + " |")
    base = transfer["base_bits_per_byte"]
    lines.append("| *base model, bits per byte* | " + " | ".join(f"{base[name]:.3f}" for name in names) + " |")
    return "\n".join(lines)


def transfer_summary(transfer: dict) -> str:
    """Which capabilities' own loss falls, the interval being clear of zero."""
    clear = [name for name, row in transfer["change"].items() if row[name][2] < 0]
    others = [name for name in transfer["change"] if name not in clear]
    rest = f" It does not for {', '.join(others)}." if others else ""
    return f"Training on a capability lowers its own held-out loss, clear of zero, for {', '.join(clear)}.{rest}"


def main() -> None:
    training = json.loads((MODEL / "training.json").read_text())
    transfer = json.loads((MODEL / "transfer.json").read_text())
    draw_curve(training["curve"])
    text = [f"| text/{n} | {c / 1e6:.1f} M characters | {LICENCES[n]} |" for n, c in TEXT_CHARACTERS.items()]
    chats = [f"| pool/{n} | {c:,} chats at most | {LICENCES[n]} |" for n, c in CHAT_ROWS.items()]
    whole = f"{training['steps']:,} steps of {training['tokens'] // training['steps']:,} tokens"
    quality = f"{training['held_out_loss']:.3f} nats per token, perplexity {training['held_out_perplexity']:.1f}"
    card = f"""---
license: other
license_name: mixed-see-card
language: [en]
library_name: transformers
tags: [equipoise, demo, tiny, llama]
---

# Llama-Equipoise-{training["parameters"] / 1e6:.0f}M

*Built with Llama*: part of the training text was written by Llama 3.1.

A Llama of {training["parameters"]:,} parameters with a byte-level BPE tokenizer of 4,096 entries, trained from scratch
by `demo/pretrain.py` so that Equipoise's demo and tests run without a download. It speaks simple English and knows the
chat format; it is **not** useful for anything else, and facts it states are wrong.

| | |
| --- | --- |
| steps, tokens | {whole}, {training["tokens"] / 1e6:.1f} M in all |
| optimizer | Muon (matrices) and AdamW (embeddings, norms), warmup-stable-decay |
| seed | {training["seed"]} |
| context | trained on 256 tokens |
| weights | bfloat16 safetensors |
| held-out text | {quality} (200 documents kept out) |

![training loss](loss_curve.svg)

The loss falls twice: while the model learns, and in the last 30 % of the steps, when the learning rate goes to zero and
the share of chats rises from 10 % to 35 %.

## Data

Chats come from the half of the pool whose row ids hash below 128 (`build_data.in_pretraining_slice`); the demo's pool,
targets and evaluation items come from elsewhere, so nothing the demo scores or selects was seen here.

| data | at most | licence |
| --- | --- | --- |
{chr(10).join(text + chats)}

## Does it react to data?

Change of held-out bits per byte (lower is better) after fine-tuning a LoRA on {transfer["rows"]} rows of one
capability, same steps and seed each, 95 % bootstrap interval over items (`python demo/transfer.py --work DIR`):

{transfer_table(transfer)}

{transfer_summary(transfer)}
"""
    (MODEL / "README.md").write_text(card)


if __name__ == "__main__":
    main()
