"""train.encoding over the chat templates of real model families: what is trained on is the assistant's text and its
end, and where a template makes something else of a turn, the audit says so."""

import copy
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from tests.tiny import make_tokenizer
from tests.train.chat_families import FAMILIES, published, template_of, tokenizer_of
from tests.train.test_encoding import trained_pieces
from train.audit import MISMATCHES
from train.encoding import ChatEncoder, EncodingError, encode_audited
from train.rendering import Finding

MARKERS = sorted(
    {token for family in FAMILIES.values() for token in (*family.control, family.end) if token and "▁" not in token}
)
WORDS = [
    "assistant",
    "user",
    "It is four.",
    "Zwölf Bücher, 漢字 🙂",
    "x = [1, 2]\n\nreturn x",
    "[INST] [/INST]",
    "{{ x }}",
]
EDGES = st.sampled_from(["", "", "", " ", "\n", "  \n\n", "\t"])
PIECES = st.one_of(st.sampled_from([*WORDS, *MARKERS]), st.text("aé–😀 \n'\"<|:1", max_size=12))
CONTENTS = st.builds("{}{}{}".format, EDGES, st.lists(PIECES, max_size=3).map(" ".join), EDGES)
FILLED = CONTENTS.filter(str.strip)


@st.composite
def chats(draw):
    turns = [{"role": "system", "content": draw(FILLED)}] if draw(st.integers(0, 3)) == 0 else []
    for _ in range(draw(st.integers(1, 3))):
        turns.append({"role": "user", "content": draw(FILLED)})
        turns.append({"role": "assistant", "content": draw(CONTENTS)})
        if draw(st.integers(0, 5)) == 0:
            turns += [{"role": "tool", "content": draw(FILLED)}, {"role": "assistant", "content": draw(CONTENTS)}]
    return turns


ENCODERS = cache(lambda name: ChatEncoder(tokenizer_of(name), 4096))


def controls(name):
    tokens = tokenizer_of(name).added_tokens_decoder.values()
    return {token.content for token in tokens if token.special}


def fate(family, roles):
    """The finding that a chat with these roles must get for its system and tool turns."""
    told = {
        "system": (Finding.REFUSED_SYSTEM, Finding.DROPPED_SYSTEM),
        "tool": (Finding.REFUSED_TOOL, Finding.DROPPED_TOOL),
    }
    wanted = set()
    for role in {"system", "tool"} & roles:
        what = getattr(family, role)
        wanted |= {"kept": set(), "refused": {told[role][0]}, "dropped": {told[role][1]}}[what]
    return wanted


@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].end])
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(messages=chats())
def test_what_is_trained_is_the_answers_and_their_end(name, messages):
    family, encoder = FAMILIES[name], ENCODERS(name)
    roles = {message["role"] for message in messages}
    wanted = fate(family, roles)
    if any(getattr(family, role) == "refused" for role in roles & {"system", "tool"}):
        with pytest.raises(EncodingError) as refused:
            encoder.encode(messages, "row")
        assert refused.value.finding in {*wanted, Finding.REFUSED}
        return
    row, audit = encoder.encode(messages, "row")
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    pieces = [family.piece(answer, k + 1 == len(answers)) for k, answer in enumerate(answers)]
    found = trained_pieces(row, tokenizer_of(name))
    edged = any(answer != answer.strip() for answer in answers)
    if family.spaces_as_text:  # it adds a space behind control tokens, and its decoder drops one in front
        pieces, found = [[piece.replace(" ", "") for piece in texts] for texts in (pieces, found)]
    elif Finding.SPACED in audit.findings and edged:  # white space merged with the role tag's is not trained
        pieces, found = [[piece.lstrip() for piece in texts] for texts in (pieces, found)]
    assert found == pieces
    told = set(audit.findings)
    if Finding.SPACED in told or family.strips:
        assert (Finding.SPACED in told) == edged
    assert (Finding.CONTROL in told) == any(token in m["content"] for token in controls(name) for m in messages)
    assert (Finding.ADDED in told) == (family.last_lead is not None)
    harmless = {Finding.SPACED, Finding.CONTROL, Finding.ADDED, Finding.PROMPT, Finding.HISTORY, Finding.NO_BOS}
    assert told - harmless == wanted


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


THOUGHT = [user("2 + 2?"), assistant("<think>\nTwo twos.\n</think>\n\nFour."), user("And 3?"), assistant("Seven.")]


def test_an_answer_that_loses_its_reasoning_is_not_trained():
    """Qwen 3 drops the reasoning of all answers but the last: trained on, the rest would teach not to think."""
    row, audit = ENCODERS("qwen3").encode(THOUGHT)
    assert trained_pieces(row, tokenizer_of("qwen3")) == ["<think>\n\n</think>\n\nSeven.<|im_end|>"]
    assert Finding.REWRITTEN in audit.findings
    row, audit = ENCODERS("qwen3").encode(THOUGHT[:2])
    assert trained_pieces(row, tokenizer_of("qwen3")) == [THOUGHT[1]["content"] + "<|im_end|>"]
    assert audit.findings == ()


def test_a_row_whose_only_answer_is_rewritten_is_excluded():
    rows = [{"id": "r", "source": "s", "messages": THOUGHT[:2]}]
    encoded, (audit,) = encode_audited(rows, tokenizer_of("deepseek-v3"), 512)
    assert encoded == [] and audit.excluded == Finding.REWRITTEN.value
    assert audit.findings == (Finding.REWRITTEN, Finding.PROMPT)


def test_a_generation_prompt_that_training_never_sees_is_told():
    """DeepSeek R1 is asked with `<think>`, and its template writes answers without."""
    row, audit = ENCODERS("deepseek-r1-distill").encode([user("2 + 2?"), assistant("Four.")])
    assert trained_pieces(row, tokenizer_of("deepseek-r1-distill")) == ["Four.<｜end▁of▁sentence｜>"]
    assert audit.findings == (Finding.PROMPT,)


def test_answers_that_never_end_are_told():
    """Falcon's template writes no token behind an answer."""
    row, audit = ENCODERS("falcon").encode([user("2 + 2?"), assistant("Four")])
    assert trained_pieces(row, tokenizer_of("falcon")) == [" Four"]
    assert audit.findings == (Finding.NO_END,)


def test_an_end_that_is_no_token_of_the_tokenizer_is_told():
    """The template of another model: `<|im_end|>` is then seven tokens, after which nothing stops."""
    tokenizer = make_tokenizer(template_of("chatml"), ("<|pad|>", "<|end|>"), "<|end|>")
    _, audit = ChatEncoder(tokenizer, 512).encode([user("2 + 2?"), assistant("Four.")])
    assert Finding.NO_END in audit.findings


def test_a_begin_of_sequence_too_many_or_too_few_is_told():
    special = ("<|pad|>", "<|end|>", "<s>")
    adding = make_tokenizer(None, special, "<|end|>", "<s>")
    adding.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    chat = [user("2 + 2?"), assistant("Four.")]
    assert ChatEncoder(adding, 512).encode(chat)[1].findings == ()
    twice = ChatEncoder(adding, 512).encode([user("<s>2 + 2?"), assistant("Four.")])[1].findings
    assert twice == (Finding.DOUBLED_BOS, Finding.CONTROL)
    adding.chat_template = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    assert Finding.NO_BOS in ChatEncoder(adding, 512).encode(chat)[1].findings


def test_the_default_of_several_templates_is_used():
    """Command R and others have one for tools and one for retrieval too."""
    tokenizer = make_tokenizer(None, ("<|pad|>", "<|im_end|>", "<|im_start|>"), "<|im_end|>")
    tokenizer.chat_template = {"default": template_of("chatml"), "tool_use": "{{ raise_exception('no') }}"}
    row, audit = ChatEncoder(tokenizer, 512).encode([user("2 + 2?"), assistant("Four.")])
    assert trained_pieces(row, tokenizer) == ["Four.<|im_end|>"] and audit.findings == ()


MARKED = {
    "cohere_training": "command-r",
    "gemma_training": "gemma",
    "gemma3_training": "gemma-3",
    "llama3_training": "llama-3",
    "qwen2_5_training": "qwen2.5",
}


@pytest.mark.parametrize("file", MARKED)
def test_templates_with_generation_blocks_train_the_same(file):
    plain, marked = tokenizer_of(MARKED[file]), copy.deepcopy(tokenizer_of(MARKED[file]))
    marked.chat_template = published(file)
    chat = [user("assistant"), assistant("assistant"), user(" Why?\n"), assistant("Zwölf 漢字 🙂")]
    wanted, found = ENCODERS(MARKED[file]).encode(chat), ChatEncoder(marked, 4096).encode(chat)
    assert [piece.strip() for piece in trained_pieces(found[0], marked)] == trained_pieces(wanted[0], plain)
    assert not MISMATCHES & set(found[1].findings)


@pytest.mark.parametrize("trim_offsets", [False, True])
def test_a_block_that_ends_in_white_space_trains_nothing_behind_it(trim_offsets):
    """transformers' own mask goes on to the end of the chat where the block's last character has no token."""
    template = (
        "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content + eos_token }}\n"
        "{% endgeneration %}{% else %}{{ m.content }}\n{% endif %}{% endfor %}"
    )
    tokenizer = make_tokenizer(template, ("<|pad|>", "<|end|>"), "<|end|>", trim_offsets=trim_offsets)
    row, audit = ChatEncoder(tokenizer, 512).encode([user("a?"), assistant("Four."), user("b?"), assistant("Seven.")])
    assert [piece.strip() for piece in trained_pieces(row, tokenizer)] == ["Four.<|end|>", "Seven.<|end|>"]
    assert audit.findings == ()
