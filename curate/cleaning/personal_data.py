"""Finds e-mail and IP addresses, phone, bank account and card numbers and access keys, and masks them or drops the row.

Numbers must pass their own check (phonenumbers' rules per country, IBAN's modulo 97, Luhn's digit, a public address),
since most long numbers in instruction data are no one's. Keys are found by detect-secrets' patterns for tokens with a
fixed prefix, without its entropy and keyword guesses, and by a few newer prefixes. Names, postal addresses and national
ids are not looked for; a version number of four parts reads as an IP address. About 0.2 ms a row, a few more where it
holds many digits.
"""

from __future__ import annotations

import ipaddress
import re
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import ClassVar

from curate.cleaning.contract import Changed, Removed
from curate.cleaning.settings import Kind, PersonalDataSettings
from curate.records import Example

KEY_PLUGINS = (
    "aws.AWSKeyDetector",
    "azure_storage_key.AzureStorageKeyDetector",
    "discord.DiscordBotTokenDetector",
    "github_token.GitHubTokenDetector",
    "gitlab_token.GitLabTokenDetector",
    "pypi_token.PypiTokenDetector",
    "sendgrid.SendGridDetector",
    "slack.SlackDetector",
    "square_oauth.SquareOAuthDetector",
    "stripe.StripeDetector",
)
# prefixes that detect-secrets 1.5 does not know; whole key blocks, of which it looks for the first line; and three
# kinds that it finds in time quadratic in a hostile text
OWN_KEYS = (
    r"\bsk-[\w-]{0,100}?[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}",
    r"_authToken=\s{0,9}(?:npm_\S{1,200}|[A-Fa-f0-9-]{36})",
    r"\bgithub_pat_\w{22,255}",
    r"\bhf_[A-Za-z0-9]{30,64}\b",
    r"\bAIza[\w-]{35}",
    r"\bsk-ant-[\w-]{20,200}",
    r"\beyJ[\w-]{10,4096}\.eyJ[\w-]{10,4096}\.[\w-]{10,4096}",
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----[\s\S]{0,20000}?"
    r"(?:-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----|\Z)",
)
# quantifiers are bounded: a text is up to 200,000 characters and may be one run of letters
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_CARD = re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])")
# Visa, Mastercard, Discover, JCB, American Express, Diners Club: their first digits with their lengths
_ISSUED = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}"
    r"|6(?:011|4[4-9]\d|5\d\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}"
)
_IP = re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})(?![\w:]|\.\d)")
_DIGITS = re.compile(r"\d\D{0,3}" * 7)
IBAN_LENGTHS = (15, 34)
IPV6_GROUPS = 3


@dataclass(frozen=True, slots=True)
class Found:
    """Characters `start` to `end` are personal data of this kind."""

    start: int
    end: int
    kind: Kind


class PersonalDataMask:
    """Puts `[EMAIL]`, `[PHONE]`, ... in the place of what is found, in every turn; no row is removed."""

    name: ClassVar[str] = "personal_data"

    def __init__(self, settings: PersonalDataSettings):
        self._settings = settings

    def edit(self, examples: Sequence[Example]) -> tuple[list[Example], list[Changed]]:
        rows, changed = [], []
        for example in examples:
            found = [find(message.content, self._settings) for message in example.messages]
            if any(found):
                pairs = zip(example.messages, found, strict=True)
                masked = tuple(replace(turn, content=mask(turn.content, places)) for turn, places in pairs)
                example = replace(example, messages=masked)
                for kind, count in _counts(found).items():
                    changed.append(Changed(example.id, example.source, self.name, kind, count))
            rows.append(example)
        return rows, changed


class PersonalDataDrop:
    """Removes every row in which something is found; the reason tells the kinds and never the data."""

    name: ClassVar[str] = "personal_data"

    def __init__(self, settings: PersonalDataSettings):
        self._settings = settings

    def __call__(self, examples: Sequence[Example]) -> tuple[list[Example], list[Removed]]:
        kept, removed = [], []
        for example in examples:
            counts = _counts(find(message.content, self._settings) for message in example.messages)
            if counts:
                reason = "holds " + ", ".join(f"{kind} ({count})" for kind, count in counts.items())
                removed.append(Removed(example.id, example.source, self.name, reason, ""))
            else:
                kept.append(example)
        return kept, removed


def find(text: str, settings: PersonalDataSettings) -> list[Found]:
    """What is found, in order; of kinds that overlap the one listed first in `_FINDERS` counts."""
    taken: list[Found] = []
    for kind, finder in _FINDERS.items():
        if kind not in settings.kinds:
            continue
        for start, end in finder(text, settings):
            place = bisect(taken, start, key=lambda other: other.start)
            if (place == 0 or taken[place - 1].end <= start) and (place == len(taken) or taken[place].start >= end):
                taken.insert(place, Found(start, end, kind))
    return taken


def mask(text: str, found: Iterable[Found]) -> str:
    """`text` with a placeholder for each place; `found` as `find` gives it."""
    parts, done = [], 0
    for place in found:
        parts += [text[done : place.start], f"[{place.kind.upper()}]"]
        done = place.end
    return "".join([*parts, text[done:]])


def _counts(found: Iterable[Sequence[Found]]) -> dict[str, int]:
    """Places per kind, kinds in order of name."""
    counts = Counter(place.kind for places in found for place in places)
    return {kind: counts[kind] for kind in sorted(counts)}


def _keys(text: str, settings: PersonalDataSettings) -> Iterator[tuple[int, int]]:
    for pattern in _key_patterns():
        for match in pattern.finditer(text):
            yield match.span()


def _emails(text: str, settings: PersonalDataSettings) -> Iterator[tuple[int, int]]:
    if "@" in text:
        for match in _EMAIL.finditer(text):
            yield match.span()


def _ibans(text: str, settings: PersonalDataSettings) -> Iterator[tuple[int, int]]:
    """The longest start of each candidate that passes: words in capitals may follow the number."""
    for match in _IBAN.finditer(text):
        given = match.group()
        ends = [len(given), *(place for place in range(len(given) - 1, 0, -1) if given[place] == " ")]
        end = next((end for end in ends if is_iban(given[:end])), None)
        if end is not None:
            yield match.start(), match.start() + end


def _cards(text: str, settings: PersonalDataSettings) -> Iterator[tuple[int, int]]:
    for match in _CARD.finditer(text):
        if is_card(match.group()):
            yield match.span()


def _ips(text: str, settings: PersonalDataSettings) -> Iterator[tuple[int, int]]:
    for match in _IP.finditer(text):
        given = match.group()
        try:
            public = ipaddress.ip_address(given).is_global
        except ValueError:
            continue
        # `a::b` is an address and far more often a name in a program
        if public and ("." in given or sum(map(bool, given.split(":"))) >= IPV6_GROUPS):
            yield match.span()


def _phones(text: str, settings: PersonalDataSettings) -> Iterator[tuple[int, int]]:
    if not _DIGITS.search(text):
        return
    from phonenumbers import Leniency, PhoneNumberMatcher

    for region in [None, *settings.phone_regions]:
        if region is not None or "+" in text or "＋" in text:
            for match in PhoneNumberMatcher(text, region, leniency=Leniency.VALID, max_tries=65_535):
                yield match.start, match.end


_FINDERS = {"key": _keys, "email": _emails, "iban": _ibans, "card": _cards, "ip": _ips, "phone": _phones}


def is_iban(given: str) -> bool:
    """ISO 13616: the first four characters moved to the end, letters as 10 to 35, leave 1 when divided by 97."""
    plain = given.replace(" ", "")
    moved = plain[4:] + plain[:4]
    return IBAN_LENGTHS[0] <= len(plain) <= IBAN_LENGTHS[1] and int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def is_card(given: str) -> bool:
    """An issuer's number by ISO/IEC 7812: from the right every second digit doubled, the sum is a multiple of ten."""
    plain = given.replace(" ", "").replace("-", "")
    if _ISSUED.fullmatch(plain) is None:
        return False
    digits = [int(character) for character in plain]
    return (sum(digits[-1::-2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])) % 10 == 0


@cache
def _key_patterns() -> list[re.Pattern[str]]:
    known = [path.split(".") for path in KEY_PLUGINS]
    plugins = [getattr(import_module(f"detect_secrets.plugins.{module}"), name) for module, name in known]
    return [*(pattern for plugin in plugins for pattern in plugin.denylist), *map(re.compile, OWN_KEYS)]
