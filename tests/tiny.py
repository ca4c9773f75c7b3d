"""Tiny tokenizers, models and rows, made in memory in well under a second: the same code paths as the real ones.

Models are randomly initialised from configurations of real architectures, with grouped-query attention and two layers,
and LoRA B is filled with random numbers, because the zeros it starts from would hide half of the gradients.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from train.encoding import IGNORED, Encoded
from train.models import attach_lora
from train.settings import LoraSettings

DEMO_TEMPLATE = (Path(__file__).parents[1] / "demo" / "chat_template.jinja").read_text()
DEMO_SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
SENTENCES = (
    "The answer is four, because two and two make four.",
    "Please answer the question in one short sentence.",
    "What is the capital of France? The capital of France is Paris.",
    "def add(a, b):\n    return a + b\n",
)
ARCHITECTURES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
}
VOCABULARY = 48
PAD = 0


@cache
def _byte_level_bpe(special: tuple[str, ...], trim_offsets: bool) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    if trim_offsets:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer.to_str()


def make_tokenizer(
    template: str | None = DEMO_TEMPLATE,
    special: tuple[str, ...] = DEMO_SPECIAL,
    eos: str | None = "<|end|>",
    bos: str | None = None,
    *,
    trim_offsets: bool = False,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE with `special` tokens, the first one for padding. trim_offsets: leave white space out of the
    character offsets, as GPT-2's and Llama 3's tokenizers do."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_byte_level_bpe(special, trim_offsets)),
        eos_token=eos,
        bos_token=bos,
        pad_token=special[0],
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=[token for token in special[1:] if token not in (eos, bos)],
    )
    tokenizer.chat_template = template
    return tokenizer


def make_base(architecture: str = "llama", vocabulary: int = VOCABULARY, seed: int = 0) -> Any:
    """A random causal language model: hidden size 16, 2 layers, 2 heads, 1 key-value head."""
    config_class, model_class = ARCHITECTURES[architecture]
    torch.manual_seed(seed)
    config = config_class(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.3,  # far from the uniform output, so that losses of examples differ
        tie_word_embeddings=architecture == "llama",
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=PAD,
    )
    return model_class(config).eval()


def make_model(
    architecture: str = "llama",
    seed: int = 0,
    targets: tuple[str, ...] | str = ("q_proj", "k_proj", "v_proj", "o_proj"),
    dropout: float = 0.0,
) -> Any:
    """A tiny model with a LoRA of rank 2 whose B is not zero."""
    settings = LoraSettings(
        r=2, alpha=4, dropout=dropout, targets=targets if isinstance(targets, str) else list(targets)
    )
    model = attach_lora(make_base(architecture, seed=seed), settings, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def make_rows(count: int, seed: int = 0, sources: tuple[str, ...] = ("a", "b"), prefix: str = "row") -> list[Encoded]:
    """Random examples of 4 to 12 tokens; every second one has two trained turns."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        ids = [rng.randrange(2, VOCABULARY) for _ in range(rng.randint(4, 12))]
        trained = set(range(len(ids) // 2, len(ids))) | ({1} if i % 2 else set())
        labels = [token if p in trained else IGNORED for p, token in enumerate(ids)]
        rows.append(Encoded(f"{prefix}{i}", sources[i % len(sources)], ids, labels))
    return rows
