"""A chat as the text its template writes, and which characters of that text are the assistant's own.

The place of an answer is found by writing the chat a second time with a marker in the answer's stead: what stands
before and behind the marker stands before and behind the answer, whatever the answer says. Looking for the answer's
text instead finds the role tag where the answer is "assistant", and a prefix of the turns is no prefix of the text
where a template moves the system turn to the last question or drops earlier reasoning.

A template with `{% generation %}` blocks marks the places itself. Whatever the template makes of the turns is
compared with what the row says; `Finding` names the differences. An answer that comes out with other words is not
trained on. Cost: two or three renderings a turn of the assistant, about 0.1 ms each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

_GENERATION_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")
MARKER = "equipoise5marks9this7turn"  # letters and digits only: nothing that a template trims, escapes or looks for

Spans = list[tuple[int, int]]
Messages = Sequence[dict]


class EncodingError(ValueError):
    """A chat or a template that cannot be turned into tokens and labels; `finding` is its kind."""

    def __init__(self, message: str, finding: Finding | None = None) -> None:
        super().__init__(message)
        self.finding = finding


class Finding(StrEnum):
    """What is to be told of one row's encoding."""

    REFUSED_SYSTEM = "refused: no system role"
    REFUSED_TOOL = "refused: no tool role"
    REFUSED = "refused by the template"
    NOT_FOUND = "answer not found in the text"
    CUT_AWAY = "truncation removed the whole answer"
    NO_ANSWER = "the answer has no token"
    REWRITTEN = "answer with other words, not trained"
    UNMARKED = "answer outside the generation blocks"
    NO_END = "end of turn not trained"
    SPLIT_TOKEN = "a token runs across the answer's edge"
    DOUBLED_BOS = "doubled BOS"
    DROPPED_SYSTEM = "system turn dropped"
    DROPPED_TOOL = "tool turn dropped"
    NO_BOS = "no BOS, though the tokenizer adds one"
    SPACED = "white space around the answer changed or not trained"
    ADDED = "text added in front of the answer"
    PROMPT = "generation prompt is not in the text"
    HISTORY = "earlier turns change when a later one is added"
    CONTROL = "control token within a turn"


@dataclass(frozen=True)
class Rendered:
    """The text of a chat; the (start, end) characters to train on; what is to be told of it."""

    text: str
    spans: Spans
    findings: set[Finding] = field(default_factory=set)


def template_of(tokenizer: Any) -> str | None:
    """The chat template in use; of several by name, the default one."""
    return tokenizer.get_chat_template() if getattr(tokenizer, "chat_template", None) else None


def render(tokenizer: Any, messages: Messages, name: str, end_tokens: Sequence[str]) -> Rendered:
    """Text, spans and findings of a chat under the tokenizer's template.

    end_tokens: what may end a turn; `name`: of the row, for the message. Raises `EncodingError` when the template
    refuses the turns or an answer's place is not known.
    """
    try:
        template = template_of(tokenizer)
        assert template is not None
        if _GENERATION_BLOCK.search(template):
            rendered = _by_blocks(tokenizer, template, messages)
        else:
            rendered = _by_marker(tokenizer, messages, end_tokens)
    except EncodingError:
        raise
    except Exception as error:  # jinja's own errors, and a template's raise_exception()
        raise _refusal(tokenizer, messages, name, error) from error
    rendered.findings.update(_dropped(tokenizer, messages, rendered.text))
    return rendered


def plain(tokenizer: Any, messages: Messages) -> Rendered:
    """Without a template: turns joined by one space unless there is white space at the joint; end-of-sequence after
    each answer."""
    eos = tokenizer.eos_token
    if not eos:
        raise EncodingError("the tokenizer has neither a chat template nor an end-of-sequence token; set one of them")
    text, spans = "", []
    for message in messages:
        content = message["content"]
        if text and not text[-1].isspace() and not content[:1].isspace():
            text += " "
        start = len(text)
        text += content
        if message["role"] == "assistant":
            text += eos
            spans.append((start, len(text)))
    return Rendered(text, spans)


def _text(tokenizer: Any, messages: Messages, *, prompted: bool = False) -> str:
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompted)


def _by_blocks(tokenizer: Any, template: str, messages: Messages) -> Rendered:
    """Spans as the generation blocks mark them."""
    found: Any = render_jinja_template(  # declared as a text; with this argument it is a pair
        conversations=[list(messages)],
        chat_template=template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    (text,), (places,) = found
    blocks = [(int(start), int(end)) for start, end in places]
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    marked = "".join(_squashed(text[start:end]) for start, end in blocks)
    whole, spans = _squashed(text), blocks
    findings: set[Finding] = set()
    if len(blocks) == len(answers):  # else a turn may have several blocks, or those of its parts
        pairs = list(zip(blocks, answers, strict=True))
        spans = [(start, end) for (start, end), answer in pairs if _squashed(answer) in _squashed(text[start:end])]
        if any(not _squashed(text[start:end]).startswith(_squashed(answer)) for (start, end), answer in pairs):
            findings.add(Finding.ADDED)
    for answer in answers:
        if _squashed(answer) not in marked:
            findings.add(Finding.UNMARKED if _squashed(answer) in whole else Finding.REWRITTEN)
        elif answer not in text:
            findings.add(Finding.SPACED)
    return Rendered(text, spans, findings - ({Finding.ADDED} if Finding.REWRITTEN in findings else set()))


def _by_marker(tokenizer: Any, messages: Messages, end_tokens: Sequence[str]) -> Rendered:
    """Spans of a template without generation blocks."""
    text = _text(tokenizer, messages)
    spans: Spans = []
    findings: set[Finding] = set()
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start, end = _turn(tokenizer, messages, i, text, findings)
        told, held = _squashed(message["content"]), _squashed(text[start:end])
        if not held.endswith(told):
            findings.add(Finding.REWRITTEN)
            continue
        if len(held) > len(told):
            findings.add(Finding.ADDED)
        if not text[start:end].endswith(message["content"]):
            findings.add(Finding.SPACED)
        spans.append((start, _end_of_turn(text, end, tokenizer.eos_token, end_tokens)))
    return Rendered(text, spans, findings)


def _turn(tokenizer: Any, messages: Messages, i: int, text: str, findings: set[Finding]) -> tuple[int, int]:
    """(start, end) of what the model itself would write in turn `i`, without the end of the turn."""
    marked = _text(tokenizer, [*messages[:i], {**messages[i], "content": MARKER}, *messages[i + 1 :]])
    before, _, after = marked.partition(MARKER)
    end = len(text) - len(after)
    bare, prompted = _opening(tokenizer, messages[:i])
    if marked.count(MARKER) == 1 and text.endswith(after):
        if prompted != bare and text.startswith(prompted) and len(prompted) <= end:
            return len(prompted), end  # what follows the generation prompt is the model's own
        if text.startswith(before) and len(before) <= end:
            if not text.startswith(bare):
                findings.add(Finding.HISTORY)
            elif prompted != bare:
                findings.add(Finding.PROMPT)
            # white space alone is the model's own too; a role tag is not
            tagged = not text.startswith(bare) or text[len(bare) : len(before)].strip()
            return len(before) if tagged else len(bare), end
    raise EncodingError(
        "the chat template rewrites earlier turns when a later one is added, or changes the answer's text, so "
        "the answer's place in the text cannot be found; put {% generation %} ... {% endgeneration %} around "
        "the assistant's content in it",
        Finding.NOT_FOUND,
    )


def _opening(tokenizer: Any, turns: Messages) -> tuple[str, str]:
    """The text of the turns in front of an answer, without and with the generation prompt; empty where there are none
    or the template takes no chat that ends there."""
    if not turns:
        return "", ""
    try:
        return _text(tokenizer, turns), _text(tokenizer, turns, prompted=True)
    except Exception:  # a template's raise_exception()
        return "", ""


def _end_of_turn(text: str, end: int, eos: str | None, end_tokens: Sequence[str]) -> int:
    """`end` of the answer, moved past its end: the end-of-sequence token behind white space or other end tokens, or
    else the one end token right behind the answer (what follows it may open the next turn)."""
    at = len(text) - len(text[end:].lstrip())
    if eos and text.startswith(eos, at):
        return at + len(eos)
    first, at = 0, end
    while token := max((token for token in end_tokens if text.startswith(token, at)), key=len, default=""):
        at += len(token)
        first = first or len(token)
        if token == eos:
            return at
    return end + first


def _dropped(tokenizer: Any, messages: Messages, text: str) -> set[Finding]:
    """Whether a system or tool turn is missing from the text."""
    kinds = {"system": Finding.DROPPED_SYSTEM, "tool": Finding.DROPPED_TOOL}
    places = {f"{MARKER}{i}x": message["role"] for i, message in enumerate(messages) if message["role"] in kinds}
    if not places:
        return set()
    names = iter(places)
    try:
        text = _text(tokenizer, [{**m, "content": next(names)} if m["role"] in kinds else m for m in messages])
    except Exception:  # a template that reads what a tool returned; then nothing can be said
        return set()
    return {kinds[role] for name, role in places.items() if name not in text}


def _refusal(tokenizer: Any, messages: Messages, name: str, error: Exception) -> EncodingError:
    """What the template refused, found by leaving it out."""
    told = f"the chat template refused {name or 'a chat'}: {error}"
    spoken = [message for message in messages if message["role"] != "system"]
    before_tools = next((i for i, message in enumerate(messages) if message["role"] == "tool"), None)
    if len(spoken) < len(messages) and _accepted(tokenizer, spoken):
        told += "; it takes no system turn: put its text into the user's first turn, or give the template that role"
        return EncodingError(told, Finding.REFUSED_SYSTEM)
    if before_tools is not None and _accepted(tokenizer, messages[:before_tools]):
        told += "; it takes no tool turn: give the template that role"
        return EncodingError(told, Finding.REFUSED_TOOL)
    return EncodingError(told, Finding.REFUSED)


def _accepted(tokenizer: Any, messages: Messages) -> bool:
    try:
        return bool(_text(tokenizer, messages))
    except Exception:
        return False


def _squashed(text: str) -> str:
    return "".join(text.split())
