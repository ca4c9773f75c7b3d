"""train.encoding: exactly which pieces of text are trained on, for the chat formats in use."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny import make_tokenizer
from train.encoding import (
    IGNORED,
    Encoded,
    EncodingError,
    collate,
    encode_all,
    encode_chat,
    read_encoded,
    token_budget_batches,
    write_encoded,
)

CHATML = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
CHATML_WITHOUT_PROMPT = CHATML.split("{% if")[0]
CHATML_THINKING = CHATML.replace("assistant\\n'", "assistant\\n<think>\\n'")
LLAMA3 = """\
{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + \
message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}\
{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}\
{% endif %}"""
LLAMA3_ALWAYS_PROMPTS = LLAMA3.split("{% if add")[0] + "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
MISTRAL = """\
{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + \
' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% else %}\
{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""
FORGETFUL = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{{ message['content'] if loop.last or \
message['role'] == 'user' else 'omitted' }}{{ '<|im_end|>\n' }}{% endfor %}"""

CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA3_TOKENS = ("<|pad|>", "<|begin|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
FORMATS = {
    "demo": (lambda: make_tokenizer(), "", "<|end|>"),
    "chatml": (lambda: make_tokenizer(CHATML, CHATML_TOKENS, "<|im_end|>"), "", "<|im_end|>"),
    "chatml, another end of sequence": (
        lambda: make_tokenizer(CHATML, CHATML_TOKENS, "<|endoftext|>"),
        "",
        "<|im_end|>",
    ),
    "chatml without generation prompt": (
        lambda: make_tokenizer(CHATML_WITHOUT_PROMPT, CHATML_TOKENS, "<|im_end|>"),
        "",
        "<|im_end|>",
    ),
    "chatml, prompt not in the text": (
        lambda: make_tokenizer(CHATML_THINKING, CHATML_TOKENS, "<|im_end|>"),
        "",
        "<|im_end|>",
    ),
    "llama 3": (lambda: make_tokenizer(LLAMA3, LLAMA3_TOKENS, "<|eot_id|>", "<|begin|>"), "", "<|eot_id|>"),
    "llama 3, trimmed offsets": (
        lambda: make_tokenizer(LLAMA3, LLAMA3_TOKENS, "<|end_of_text|>", "<|begin|>", trim_offsets=True),
        "",
        "<|eot_id|>",
    ),
    "llama 3, always prompts": (
        lambda: make_tokenizer(LLAMA3_ALWAYS_PROMPTS, LLAMA3_TOKENS, "<|eot_id|>", "<|begin|>"),
        "",
        "<|eot_id|>",
    ),
    "mistral": (lambda: make_tokenizer(MISTRAL, ("<unk>", "<s>", "</s>"), "</s>", "<s>"), " ", "</s>"),
    "plain": (lambda: make_tokenizer(None), "", "<|end|>"),  # the joining space is a token of its own here
}

SINGLE = [{"role": "user", "content": "What is two and two?"}, {"role": "assistant", "content": "It is four."}]
CODE = "def add(a, b):\n    return a + b"
MULTI = [
    *SINGLE,
    {"role": "user", "content": "Write it in Python, please."},
    {"role": "assistant", "content": CODE},
]
SYSTEM = [{"role": "system", "content": "You answer in one sentence."}, *MULTI]


def trained_pieces(example: Encoded, tokenizer) -> list[str]:
    """The runs of trained tokens, decoded."""
    pieces, run = [], []
    for token, label in zip([*example.input_ids, None], [*example.labels, IGNORED], strict=True):
        if label != IGNORED:
            assert label == token
            run.append(token)
        elif run:
            pieces.append(tokenizer.decode(run, skip_special_tokens=False))
            run = []
    return pieces


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("messages", "answers"),
    [(SINGLE, ["It is four."]), (MULTI, ["It is four.", CODE]), (SYSTEM, ["It is four.", CODE])],
    ids=["single", "multi-turn", "system"],
)
def test_exactly_the_answers_and_their_end_are_trained(name, messages, answers):
    make, lead, end = FORMATS[name]
    if name == "mistral" and messages is SYSTEM:
        return  # its template refuses the role: see below
    tokenizer = make()
    example = encode_chat(messages, tokenizer, 512)
    assert trained_pieces(example, tokenizer) == [lead + answer + end for answer in answers]
    assert not example.truncated


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "plain"])
def test_ids_are_those_of_the_rendered_chat(name):
    tokenizer = FORMATS[name][0]()
    wanted = tokenizer.apply_chat_template(MULTI, tokenize=True, return_dict=True)["input_ids"]
    assert encode_chat(MULTI, tokenizer, 512).input_ids == wanted


@pytest.mark.parametrize("name", ["chatml", "llama 3"])
def test_white_space_around_the_answer(name):
    make, _, end = FORMATS[name]
    tokenizer = make()
    answer = "  It is four.\n"
    example = encode_chat([SINGLE[0], {"role": "assistant", "content": answer}], tokenizer, 512)
    kept = answer.strip() if name == "llama 3" else answer
    assert trained_pieces(example, tokenizer) == [kept + end]


def test_chat_that_opens_with_the_assistant():
    tokenizer = FORMATS["chatml"][0]()
    example = encode_chat([SINGLE[1], *SINGLE], tokenizer, 512)
    assert trained_pieces(example, tokenizer) == ["It is four.<|im_end|>"] * 2


@pytest.mark.parametrize(
    ("prompt", "answer", "text"),
    [
        ("Two and two?", "four", "Two and two? four<|end|>"),
        ("Two and two?\n", "four", "Two and two?\nfour<|end|>"),
        ("Two and two?", "\nfour", "Two and two?\nfour<|end|>"),
    ],
)
def test_plain_form_has_one_space_at_most(prompt, answer, text):
    tokenizer = make_tokenizer(None)
    example = encode_chat(
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], tokenizer, 512
    )
    assert tokenizer.decode(example.input_ids) == text
    (piece,) = trained_pieces(example, tokenizer)
    assert piece == text.removeprefix(prompt)  # the joining space is merged into the answer's first token


def test_plain_form_needs_an_end_of_sequence():
    with pytest.raises(EncodingError, match="end-of-sequence"):
        encode_chat(SINGLE, make_tokenizer(None, eos=None), 512)


def test_tokenizer_that_merges_across_the_boundary():
    """`:y` is one token, so "A:" alone has other tokens than "A:yes" and a prefix-based mask would be off by one."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i for i, symbol in enumerate(["<|end|>", *alphabet, ":y"])}
    bpe = Tokenizer(models.BPE(vocabulary, [(":", "y")]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ 'Q:' + m['content'] if m['role'] == 'user' else 'A:' + m['content'] + eos_token }}"
        "{% endfor %}{{ 'A:' if add_generation_prompt }}"
    )
    messages = [{"role": "user", "content": "no?"}, {"role": "assistant", "content": "yes"}]
    example = encode_chat(messages, tokenizer, 512)
    assert tokenizer.convert_ids_to_tokens(example.input_ids)[-4:] == [":y", "e", "s", "<|end|>"]
    assert trained_pieces(example, tokenizer) == [":yes<|end|>"]


def test_template_that_rewrites_earlier_turns_is_an_error():
    tokenizer = make_tokenizer(FORGETFUL, CHATML_TOKENS, "<|im_end|>")
    assert trained_pieces(encode_chat(SINGLE, tokenizer, 512), tokenizer) == ["It is four.<|im_end|>"]
    with pytest.raises(EncodingError, match=r"rewrites earlier turns.*generation"):
        encode_chat(MULTI, tokenizer, 512)


def test_template_that_refuses_a_chat_names_it():
    tokenizer = FORMATS["mistral"][0]()
    with pytest.raises(EncodingError, match=r"refused sys-1: Only user and assistant roles"):
        encode_chat(SYSTEM, tokenizer, 512, example_id="sys-1")


def test_truncation_keeps_the_left_part():
    tokenizer = make_tokenizer()
    whole = encode_chat(SINGLE, tokenizer, 512)
    cut = encode_chat(SINGLE, tokenizer, len(whole.input_ids) - 3)
    assert cut.truncated and not whole.truncated
    assert (cut.input_ids, cut.labels) == (whole.input_ids[:-3], whole.labels[:-3])
    assert not encode_chat(SINGLE, tokenizer, len(whole.input_ids)).truncated


def test_rows_without_a_usable_answer_are_excluded_with_a_reason():
    tokenizer = make_tokenizer()
    rows = [
        {"id": "good", "source": "s", "messages": SINGLE},
        {"id": "long", "source": "s", "messages": [{"role": "user", "content": "why? " * 60}, SINGLE[1]]},
        {"id": "silent", "source": "s", "messages": SINGLE[:1]},
    ]
    encoded, excluded = encode_all(rows, tokenizer, 64)
    assert [(row.id, row.source) for row in encoded] == [("good", "s")]
    assert excluded == [
        ("long", "truncation removed the whole answer (max_length 64)"),
        ("silent", "the answer has no token (max_length 64)"),
    ]


def test_refused_rows_are_excluded_with_the_templates_reason():
    encoded, excluded = encode_all(
        [{"id": "sys-1", "source": "s", "messages": SYSTEM}, {"id": "ok", "source": "s", "messages": MULTI}],
        FORMATS["mistral"][0](),
        512,
    )
    assert [row.id for row in encoded] == ["ok"]
    assert excluded[0][0] == "sys-1" and "Only user and assistant roles" in excluded[0][1]


def test_trained_tokens_leave_out_the_first():
    assert Encoded("x", "s", [5, 6, 7], [5, IGNORED, 7]).trained_tokens == 1


def test_written_rows_are_read_back(tmp_path):
    rows = [Encoded("a", "s", [1, 2], [IGNORED, 2]), Encoded("b", "t", [3], [3], truncated=True)]
    write_encoded(tmp_path / "rows.parquet", rows)
    assert read_encoded(tmp_path / "rows.parquet") == rows


def test_collate_pads_on_the_right():
    batch = collate([Encoded("a", "s", [1, 2, 3], [IGNORED, 2, 3]), Encoded("b", "s", [4], [4])], pad_id=9)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 2, 3], [4, IGNORED, IGNORED]]
    assert all(part.dtype == torch.int64 for part in batch.values())


@pytest.mark.parametrize("budget", [1, 7, 20, 1000])
def test_batches_hold_every_row_once_within_the_budget(budget):
    lengths = [5, 9, 1, 5, 3, 12, 2]
    batches = token_budget_batches(lengths, budget)
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    assert all(len(b) == 1 or max(lengths[i] for i in b) * len(b) <= budget for b in batches)
    assert batches[0][0] == 5  # the longest row comes first
    assert token_budget_batches([], budget) == []
