"""Chat templates of real model families with tokenizers that have their control tokens, and what each does to a turn.

Templates come from the package trl, which ships them as published, or from `templates/`. Tokenizers are the embedded
model's byte-level BPE and a small one in SentencePiece's manner (spaces as `▁`, one in front of the text, bytes for
unknown characters), as Llama 2 has it.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.tiny import SENTENCES

ROOT = Path(__file__).parents[2]
OWN = Path(__file__).parent / "templates"
Fate = Literal["kept", "refused", "dropped"]
CHATML = ("<|im_start|>", "<|im_end|>")
LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
COHERE = tuple(f"<|{name}|>" for name in ("START_OF_TURN_TOKEN", "END_OF_TURN_TOKEN", "USER_TOKEN", "CHATBOT_TOKEN"))
DEEPSEEK = ("<｜User｜>", "<｜Assistant｜>")
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|observation|>")


@dataclass(frozen=True)
class Family:
    """end: behind an answer; lead: between the generation prompt and an answer, last_lead: of the last one; tail:
    between an answer and its end; strips: white space around an answer is taken off, last_strips: these characters in
    front of the last one. eos: where it is not `end`; file: of the package trl, none for one of `templates/`."""

    end: str
    control: tuple[str, ...] = ()
    bos: str | None = None
    eos: str | None = None
    lead: str = ""
    last_lead: str | None = None
    tail: str = ""
    strips: bool = False
    last_strips: str = ""
    system: Fate = "kept"
    tool: Fate = "kept"
    spaces_as_text: bool = False
    file: str = ""

    def piece(self, answer: str, last: bool) -> str:
        """The text to be trained on for an answer."""
        lead = self.last_lead if last and self.last_lead is not None else self.lead
        kept = answer.strip() if self.strips else answer.lstrip(self.last_strips if last else "")
        return lead + kept + self.tail + self.end


FAMILIES = {
    "chatml": Family("<|im_end|>", CHATML),
    "command-a": Family(
        "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
        (*COHERE, "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        bos="<BOS_TOKEN>",
        eos="<|END_OF_TURN_TOKEN|>",
        tool="refused",
        file="cohere2",
    ),
    "command-r": Family("<|END_OF_TURN_TOKEN|>", COHERE, bos="<BOS_TOKEN>", strips=True, tool="refused", file="cohere"),
    "deepseek-r1-distill": Family(
        "<｜end▁of▁sentence｜>", DEEPSEEK, bos="<｜begin▁of▁sentence｜>", file="deepseek_r1_distill"
    ),
    "deepseek-v2": Family("<｜end▁of▁sentence｜>", bos="<｜begin▁of▁sentence｜>", lead=" ", tool="dropped"),
    "deepseek-v3": Family("<｜end▁of▁sentence｜>", DEEPSEEK, bos="<｜begin▁of▁sentence｜>", file="deepseekv3"),
    "falcon": Family("", lead=" ", eos="<|endoftext|>", strips=True, tool="refused"),
    "gemma": Family(
        "<end_of_turn>", ("<start_of_turn>",), bos="<bos>", strips=True, system="refused", tool="refused", file="gemma"
    ),
    "gemma-3": Family("<end_of_turn>", ("<start_of_turn>",), bos="<bos>", strips=True, tool="refused", file="gemma3"),
    "granite-3": Family("<|end_of_text|>", ("<|start_of_role|>", "<|end_of_role|>"), tool="dropped"),
    "lfm2": Family("<|im_end|>", CHATML, bos="<|startoftext|>", file="lfm2"),
    "llama-2": Family("</s>", bos="<s>", lead=" ", tail=" ", strips=True, tool="refused", spaces_as_text=True),
    "llama-3": Family("<|eot_id|>", LLAMA3, bos="<|begin_of_text|>", strips=True, file="llama3"),
    "llama-3.1": Family("<|eot_id|>", LLAMA3, bos="<|begin_of_text|>", strips=True, file="llama3_1"),
    "mistral": Family("</s>", bos="<s>", system="refused", tool="refused", spaces_as_text=True),
    "mistral-nemo": Family("</s>", bos="<s>", system="dropped", tool="refused"),
    "olmo-2": Family("<|endoftext|>", bos="<|endoftext|>", tool="dropped"),
    "phi-3": Family("<|end|>", ROLES, eos="<|endoftext|>", tool="dropped", file="phi3"),
    "phi-4": Family("<|im_end|>", (*CHATML, "<|im_sep|>"), tool="dropped"),
    "qwen2.5": Family("<|im_end|>", CHATML, file="qwen2_5"),
    "qwen3": Family("<|im_end|>", CHATML, last_lead="<think>\n\n</think>\n\n", last_strips="\n", file="qwen3"),
    "smollm2": Family("<|im_end|>", CHATML),
    "vicuna": Family("</s>", bos="<s>", lead=" ", tool="refused", spaces_as_text=True),
    "zephyr": Family("</s>", bos="<s>", spaces_as_text=True),
}


def template_of(name: str) -> str:
    family = FAMILIES[name]
    return published(family.file) if family.file else (OWN / f"{re.sub('[-.]', '_', name)}.jinja").read_text()


def published(file: str) -> str:
    """A template of the package trl, which is not imported."""
    package = importlib.util.find_spec("trl")
    assert package is not None and package.submodule_search_locations is not None, "install the extra `dev`"
    return (Path(package.submodule_search_locations[0]) / "chat_templates" / f"{file}.jinja").read_text()


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    family = FAMILIES[name]
    eos = family.eos or family.end
    own = Tokenizer.from_str(spaces_as_text()) if family.spaces_as_text else demo_tokenizer()
    tokens = dict.fromkeys(token for token in (family.bos, eos, *family.control, family.eos or family.end) if token)
    own.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=own,
        bos_token=family.bos,
        eos_token=eos,
        pad_token=eos,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template_of(name)
    return tokenizer


def demo_tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(ROOT / "demo/model/tokenizer.json"))


@cache
def spaces_as_text() -> str:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer.to_str()
