"""Tiny tokenizers, models and rows, made in memory in well under a second: the same code paths as the real ones.

Models are randomly initialised from configurations of real architectures, with grouped-query attention and two layers,
and LoRA B is filled with random numbers, because the zeros it starts from would hide half of the gradients.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
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


@dataclass(frozen=True)
class Family:
    """attention: names of its attention maps; parts: what its configuration needs beside `make_base`'s values."""

    config: type
    model: type
    attention: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    parts: dict[str, Any] = field(default_factory=dict)


# windows are shorter than the rows and soft caps low enough to bend the logits, so that both take part
ARCHITECTURES = {
    "llama": Family(LlamaConfig, LlamaForCausalLM, parts={"tie_word_embeddings": True}),
    "qwen2": Family(Qwen2Config, Qwen2ForCausalLM),
    "qwen3": Family(Qwen3Config, Qwen3ForCausalLM, parts={"head_dim": 8}),
    "mistral": Family(MistralConfig, MistralForCausalLM, parts={"sliding_window": 4}),
    "gemma2": Family(
        Gemma2Config,
        Gemma2ForCausalLM,
        parts={
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 4,
            "final_logit_softcapping": 2.0,
            "attn_logit_softcapping": 2.0,
            "tie_word_embeddings": True,
        },
    ),
    "gemma3": Family(
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        parts={
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"],
            "tie_word_embeddings": True,
        },
    ),
    "granite": Family(GraniteConfig, GraniteForCausalLM, parts={"logits_scaling": 4.0, "embedding_multiplier": 2.0}),
    "phi3": Family(Phi3Config, Phi3ForCausalLM, ("qkv_proj", "o_proj")),
    "gpt2": Family(GPT2Config, GPT2LMHeadModel, ("c_attn", "c_proj"), parts={"tie_word_embeddings": True}),
    "gpt_neox": Family(GPTNeoXConfig, GPTNeoXForCausalLM, ("query_key_value", "dense")),
}
ROUTED = {  # mixtures of experts
    "mixtral": Family(MixtralConfig, MixtralForCausalLM, parts={"num_local_experts": 3, "num_experts_per_tok": 2}),
    "qwen2_moe": Family(
        Qwen2MoeConfig,
        Qwen2MoeForCausalLM,
        parts={
            "num_experts": 3,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 8,
            "shared_expert_intermediate_size": 8,
        },
    ),
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
    family = (ARCHITECTURES | ROUTED)[architecture]
    torch.manual_seed(seed)
    values = {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,  # far from the uniform output, so that losses of examples differ
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": PAD,
    }
    model = family.model(family.config(**values | family.parts))
    generator = torch.Generator().manual_seed(seed + 2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):  # all zero at first, which would hide whether they are counted
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def save_base(folder: Path, seed: int = 0) -> Path:
    """A base model with its tokenizer, as a folder that a configuration can name."""
    tokenizer = make_tokenizer()
    make_base(vocabulary=len(tokenizer), seed=seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_model(
    architecture: str = "llama",
    seed: int = 0,
    targets: tuple[str, ...] | str | None = None,
    dropout: float = 0.0,
    *,
    dora: bool = False,
    rslora: bool = False,
) -> Any:
    """A tiny model with a LoRA of rank 2 whose B is not zero. targets: the family's attention maps by default."""
    names = targets or (ARCHITECTURES | ROUTED)[architecture].attention
    settings = LoraSettings(
        r=2,
        alpha=4,
        dropout=dropout,
        targets=names if isinstance(names, str) else list(names),
        dora=dora,
        rslora=rslora,
    )
    model = attach_lora(make_base(architecture, seed=seed), settings, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
            elif "lora_magnitude" in name:  # away from the norm it starts as
                parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))
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
