"""Held-out loss per example: how many bits a model needs for answers that it was not trained on.

Accuracy over a hundred items moves in steps of a percent and is at chance for small models; the loss of the right
answer moves with every token, so it sees smaller effects. Bits per byte of the answer compare models with different
tokenizers; examples weigh the same, whatever their length. The loss includes the answer's end-of-sequence token, the
bytes do not. Cost: one forward pass; logits of a batch are (rows, tokens, vocabulary), so lower `tokens_per_batch` for
a large vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class HeldOutError(ValueError):
    """Held-out rows or a model for which no loss is defined."""


@dataclass(frozen=True)
class HeldOutRow:
    """An encoded chat with what the loss is divided by. `response_bytes`: UTF-8 bytes of the assistant's turns."""

    id: str
    capability: str
    input_ids: list[int]
    labels: list[int]
    response_bytes: int


@dataclass(frozen=True)
class ItemLoss:
    """Loss of one held-out example, summed over its `tokens` labelled tokens."""

    id: str
    capability: str
    nats: float
    tokens: int
    bytes: int

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes

    @property
    def bits_per_token(self) -> float:
        return self.nats / math.log(2) / self.tokens


def encode_held_out(
    rows: Iterable[Mapping[str, Any]], tokenizer: Any, max_length: int
) -> tuple[list[HeldOutRow], list[tuple[str, str]]]:
    """Rows `{id, capability, messages}` → encoded rows, and (id, reason) of those left out.

    A truncated row is left out: its bytes would no longer be those of the scored tokens.
    """
    from train.encoding import EncodingError, encode_chat

    encoded, excluded = [], []
    for row in rows:
        try:
            one = encode_chat(row["messages"], tokenizer, max_length, example_id=row["id"])
        except EncodingError as error:
            excluded.append((row["id"], str(error)))
            continue
        size = sum(len(turn["content"].encode()) for turn in row["messages"] if turn["role"] == "assistant")
        if one.truncated:
            excluded.append((row["id"], f"longer than {max_length} tokens"))
        elif one.trained_tokens == 0 or size == 0:
            excluded.append((row["id"], "the answer is empty"))
        else:
            encoded.append(HeldOutRow(row["id"], row["capability"], one.input_ids, one.labels, size))
    return encoded, excluded


def held_out_losses(
    model: PreTrainedModel, rows: Sequence[HeldOutRow], pad_id: int, tokens_per_batch: int = 4096
) -> list[ItemLoss]:
    """Loss of every row under a transformers or peft model, in the caller's order.

    tokens_per_batch: padded tokens of one batch. The model is put in evaluation mode and back. Raises `HeldOutError`
    naming the rows whose loss is NaN or infinite (a row without labels, a broken model).
    """
    import torch

    from train.encoding import collate, token_budget_batches
    from train.losses import per_example_loss

    losses: list[ItemLoss | None] = [None] * len(rows)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for positions in token_budget_batches([len(row.input_ids) for row in rows], tokens_per_batch):
                batch = collate([rows[i] for i in positions], pad_id)
                batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
                logits = model(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
                ).logits
                means, counts = per_example_loss(logits, batch["labels"])
                for i, mean, count in zip(positions, means.tolist(), counts.tolist(), strict=True):
                    row = rows[i]
                    losses[i] = ItemLoss(row.id, row.capability, mean * count, count, row.response_bytes)
    finally:
        model.train(was_training)

    done = [loss for loss in losses if loss is not None]
    broken = [loss.id for loss in done if not math.isfinite(loss.nats)]
    if broken:
        raise HeldOutError(
            f"the loss of {len(broken)} of {len(rows)} held-out rows is NaN or infinite, for one of {broken[0]!r}: "
            "the row has no labels, or the model's weights are broken"
        )
    return done


def bits_by_capability(losses: Iterable[ItemLoss], unit: str = "bits_per_byte") -> dict[str, dict[str, float]]:
    """Capability → item id → bits per byte (or `bits_per_token`)."""
    values: dict[str, dict[str, float]] = {}
    for loss in losses:
        values.setdefault(loss.capability, {})[loss.id] = getattr(loss, unit)
    return values
