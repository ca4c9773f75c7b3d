"""Pretrain the embedded model: a byte-level BPE tokenizer and a small Llama, from scratch, on permissively licensed
text.

    python demo/pretrain.py --data DIR --work DIR      # DIR holds text/*.parquet and pool/*.parquet

It exists so that the demo and the tests need no download. Muon for the matrices and AdamW for the rest, because at a
few tens of millions of tokens Muon reaches a given loss in clearly fewer steps; a warmup-stable-decay schedule,
because a run can then be stopped early by lowering --steps before the decay begins. The chat slice of the pool
(`build_data.in_pretraining_slice`) is disjoint from the demo's pool by construction. Cost: about an hour on
2 CPU cores, minutes on a GPU. A killed run goes on from the last checkpoint in --work.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from build_data import HERE, in_pretraining_slice, read_rows
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
VOCABULARY = 4096
SEQUENCE = 256
WARMUP_STEPS = 112
TEXT_CHARACTERS = {
    "simple_stories": 26_000_000,
    "simple_textbooks": 20_000_000,
    "wikipedia_readable": 28_000_000,
    "classic_books": 10_000_000,
    "childrens_stories_en": 1_400_000,
}
# mostly general chat; a pinch of the demo's capabilities, so that the base model knows them a little, as real ones do
CHAT_ROWS = {
    "ys_llama31": 9_000,
    "natural_instructions": 3_500,
    "dolly_3k": 1_300,
    "gpteacher_roleplay": 900,
    "p3_t0": 1_500,
    "web_questions": 800,
    "opentriviaqa": 500,
    "gsm8k_train": 500,
    "conala_train": 300,
    "nl2bash": 600,
    "commonsenseqa_train": 400,
    "tatoeba_translation": 1_200,
}
CHAT_MAX_CHARACTERS = 1_600
CHAT_SHARE_STABLE, CHAT_SHARE_DECAY = 0.10, 0.35
HELD_OUT_DOCUMENTS = 200


def load_text(data: Path, rng: random.Random) -> tuple[list[str], list[str]]:
    """Documents in random order, and a held-out sample of them for the model card's perplexity."""
    documents = []
    for name, limit in TEXT_CHARACTERS.items():
        rows = read_rows(data / "text" / f"{name}.parquet")
        rng.shuffle(rows)
        used = 0
        for row in rows:
            if used >= limit:
                break
            documents.append(row["text"])
            used += len(row["text"])
    rng.shuffle(documents)
    return documents[HELD_OUT_DOCUMENTS:], documents[:HELD_OUT_DOCUMENTS]


def load_chats(data: Path, rng: random.Random) -> list[list[dict]]:
    chats = []
    for name, count in CHAT_ROWS.items():
        rows = [
            row["messages"]
            for row in read_rows(data / "pool" / f"{name}.parquet")
            if in_pretraining_slice(row["id"])
            and sum(len(m["content"]) for m in row["messages"]) <= CHAT_MAX_CHARACTERS
        ]
        chats += rng.sample(rows, min(count, len(rows)))
    rng.shuffle(chats)
    return chats


def train_tokenizer(documents: list[str], chats: list[list[dict]], folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample = documents[: len(documents) // 4] + [m["content"] for chat in chats for m in chat]
    tokenizer.train_from_iterator(sample, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=SPECIAL[2:],
    )
    fast.chat_template = (HERE / "chat_template.jinja").read_text()
    fast.save_pretrained(folder)


def token_stream(tokenizer, texts: list[str]) -> np.ndarray:
    """All texts as one uint16 stream; a document ends with the end token."""
    pieces = []
    for start in range(0, len(texts), 256):
        for ids in tokenizer(texts[start : start + 256], add_special_tokens=False)["input_ids"]:
            pieces.append(np.array(ids, dtype=np.uint16))
    return np.concatenate(pieces)


def prepare(data: Path, work: Path, seed: int) -> None:
    """Tokenizer and token streams, made once into `work`."""
    if (work / "held_out.npy").exists():
        return
    rng = random.Random(seed)
    documents, held_out = load_text(data, rng)
    chats = load_chats(data, rng)
    train_tokenizer(documents, chats, work / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(work / "tokenizer")
    rendered = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    np.save(work / "text.npy", token_stream(tokenizer, [d + "<|end|>" for d in documents]))
    np.save(work / "chat.npy", token_stream(tokenizer, rendered))
    np.save(work / "held_out.npy", token_stream(tokenizer, [d + "<|end|>" for d in held_out]))


def build_model() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=SPECIAL.index("<|end|>"),
            pad_token_id=SPECIAL.index("<|pad|>"),
        )
    )


def schedule(step: int, steps: int) -> float:
    """Warmup, stable, then a straight line to zero over the last 30 %."""
    return min(1.0, (step + 1) / WARMUP_STEPS, (steps - step) / int(steps * 0.3))


def batch(streams: dict[str, np.ndarray], step: int, args) -> torch.Tensor:
    rng = np.random.default_rng([args.seed, step])
    decaying = step >= args.steps - int(args.steps * 0.3)
    share = CHAT_SHARE_DECAY if decaying else CHAT_SHARE_STABLE
    rows = []
    for is_chat in rng.random(args.batch) < share:
        stream = streams["chat" if is_chat else "text"]
        start = rng.integers(0, len(stream) - SEQUENCE)
        rows.append(stream[start : start + SEQUENCE].astype(np.int64))
    return torch.from_numpy(np.stack(rows))


@torch.no_grad()
def held_out_loss(model, tokens: np.ndarray, device: str) -> float:
    count = min(64, len(tokens) // SEQUENCE)
    rows = torch.from_numpy(tokens[: count * SEQUENCE].reshape(count, SEQUENCE).astype(np.int64)).to(device)
    losses = [model(part, labels=part).loss.item() for part in rows.split(16)]
    return float(np.mean(losses))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with text/ and pool/")
    parser.add_argument("--work", type=Path, required=True, help="token streams and checkpoints")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--batch", type=int, default=16, help="sequences of 256 tokens per step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--stop-after", type=int, help="stop early, for timing")
    args = parser.parse_args()

    args.work.mkdir(parents=True, exist_ok=True)
    prepare(args.data, args.work, args.seed)
    streams = {name: np.load(args.work / f"{name}.npy") for name in ("text", "chat", "held_out")}
    print({name: len(stream) for name, stream in streams.items()}, "tokens", flush=True)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    model = build_model().to(device)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, lr=args.lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    curve: list[dict] = []
    first, checkpoint = 0, args.work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first, curve = state["step"], state["curve"]

    @torch.compile
    def loss_of(tokens: torch.Tensor) -> torch.Tensor:
        logits = model(tokens).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())

    started, window = time.time(), []
    for step in range(first, args.steps):
        factor = schedule(step, args.steps)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = args.lr * factor
        tokens = batch(streams, step, args).to(device)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):  # slower than float32 on most CPUs
            loss = loss_of(tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        window.append(loss.item())
        done = step + 1
        if done % 50 == 0 or done == args.steps:
            rate = (done - first) * args.batch * SEQUENCE / (time.time() - started)
            curve.append({"step": done, "loss": round(float(np.mean(window)), 4)})
            print(f"step {done}/{args.steps} loss {np.mean(window):.4f} {rate:.0f} tokens/s", flush=True)
            window = []
        if done % 200 == 0:
            state = {
                "model": model.state_dict(),
                "optimizers": [o.state_dict() for o in optimizers],
                "step": done,
                "curve": curve,
            }
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").rename(checkpoint)
        if args.stop_after and done - first >= args.stop_after:
            return

    loss = held_out_loss(model, streams["held_out"], device)
    out = HERE / "model"
    AutoTokenizer.from_pretrained(args.work / "tokenizer").save_pretrained(out)
    model.to(torch.bfloat16).save_pretrained(out)
    (out / "training.json").write_text(
        json.dumps(
            {
                "steps": args.steps,
                "tokens": args.steps * args.batch * SEQUENCE,
                "seed": args.seed,
                "parameters": sum(p.numel() for p in model.parameters()),
                "held_out_loss": loss,
                "held_out_perplexity": math.exp(loss),
                "torch": torch.__version__,
                "curve": curve,
            },
            indent=1,
        )
    )
    print(f"held-out loss {loss:.4f}, perplexity {math.exp(loss):.2f}; saved to {out}")


if __name__ == "__main__":
    main()
