"""Personal data: what is found and what only looks like it, masked with an account or dropped without telling."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.cleaning import Changed, clean
from curate.cleaning.personal_data import PersonalDataDrop, PersonalDataMask, find, is_card, is_iban, mask
from curate.cleaning.settings import PersonalDataSettings
from curate.records import Example, Message

US = PersonalDataSettings(phone_regions=["US"])
# put together here, so that no scanner takes this file for a leak
GITHUB, AWS, HUB = "ghp_" + "a1B2" * 9, "AKIA" + "IOSFODNN7EXAMPLE", "hf_" + "aBcD" * 9
PEM = "-----BEGIN RSA PRIVATE " + "KEY-----\nMIIB\nAAAA\n-----END RSA PRIVATE " + "KEY-----"


def example(row_id, user, answer="ok"):
    return Example(row_id, "src", (Message("user", user), Message("assistant", answer)), "MIT", "d", f"f:{row_id}")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to Jane.Doe+x@mail.example.co.uk.", "write to [EMAIL]."),
        ("call +49 30 901820 now", "call [PHONE] now"),
        ("call (650) 253-0000 now", "call [PHONE] now"),
        ("pay to DE89 3704 0044 0532 0130 00 AND GO", "pay to [IBAN] AND GO"),
        ("pay to GB82WEST12345698765432.", "pay to [IBAN]."),
        ("card 4111 1111 1111 1111, 3782-822463-10005", "card [CARD], [CARD]"),
        ("from 8.8.8.8 and 2606:4700:4700::1111!", "from [IP] and [IP]!"),
        (f"token {GITHUB} or '{AWS}' or {HUB}", "token [KEY] or '[KEY]' or [KEY]"),
        (f"see {PEM} there", "see [KEY] there"),
    ],
)
def test_what_is_found(text, masked):
    assert mask(text, find(text, US)) == masked


@pytest.mark.parametrize(
    "text",
    [
        "3.14159265358979 and 1,234,567 people in 2024-01-31",
        "card 4111 1111 1111 1112",  # its check digit is wrong
        "DE88 3704 0044 0532 0130 00",
        "at 12:30:45 std::vector a::b 192.168.0.1 127.0.0.1 ::1 999.1.1.1",
        "def f(x): return x @ y",
        "a = [1, 2, 3] * 4; sk-learn, hf_hub",
        "ISBN 978-3-16-148410-0",
        "the answer is 6502530000123",
    ],
)
def test_what_only_looks_like_it(text):
    assert find(text, US) == []


def test_checksums():
    assert is_iban("FR14 2004 1010 0505 0001 3M02 606") and not is_iban("FR14 2004 1010 0505 0001 3M02 607")
    assert is_card("5555555555554444") and not is_card("5555555555554445")


def test_national_numbers_count_where_the_region_is_given():
    assert find("030 901820", PersonalDataSettings()) == []
    assert [place.kind for place in find("030 901820", PersonalDataSettings(phone_regions=["DE"]))] == ["phone"]


def test_only_the_kinds_that_are_asked_for():
    only = PersonalDataSettings(kinds=["ip"])
    assert mask("a@b.org at 8.8.8.8", find("a@b.org at 8.8.8.8", only)) == "a@b.org at [IP]"


PIECES = ["a@b.org", "+49 30 901820", "8.8.8.8", "4111 1111 1111 1111", "DE89370400440532013000", GITHUB, AWS, "x", " ",
          "\n", "12", "-", ".", "é", "::"]  # fmt: skip


@settings(deadline=None)  # the first call imports
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_places_do_not_overlap_and_a_masked_text_keeps_its_rest(text):
    found = find(text, US)
    assert all(one.end <= two.start for one, two in pairwise(found))
    rest, done = [], 0
    for place in found:
        rest.append(text[done : place.start])
        done = place.end
    assert mask(text, found).replace("[", "").count("]") == text.count("]") + len(found)
    assert all(part in mask(text, found) for part in [*rest, text[done:]])


def test_masking_is_accounted_per_row_and_kind():
    rows = [
        example("a", "a@b.org, c@d.org", "from 8.8.8.8"),
        example("b", "nothing here"),
        example("c", "x", "write to e@f.net"),
    ]
    cleaned = clean(rows, [PersonalDataMask(PersonalDataSettings())])
    assert [row.id for row in cleaned.kept] == ["a", "b", "c"] and cleaned.removed == []
    assert [turn.content for turn in cleaned.kept[0].messages] == ["[EMAIL], [EMAIL]", "from [IP]"]
    assert cleaned.kept[1] is rows[1]
    assert cleaned.changed == [
        Changed("a", "src", "personal_data", "email", 2),
        Changed("a", "src", "personal_data", "ip", 1),
        Changed("c", "src", "personal_data", "email", 1),
    ]


def test_a_dropped_row_does_not_tell_the_data():
    kept, removed = PersonalDataDrop(PersonalDataSettings())([example("a", "a@b.org"), example("b", "x")])
    assert [row.id for row in kept] == ["b"]
    assert removed[0].reason == "holds email (1)"


class Silent:
    name = "silent"

    def edit(self, examples):
        return [example(row.id, "other") for row in examples], []


def test_a_change_that_is_not_told_is_caught():
    with pytest.raises(RuntimeError, match="filter silent: 1 rows have another text and 0 are told"):
        clean([example("a", "one")], [Silent()])


@pytest.mark.parametrize("piece", ["a", "1", "a.b@", "1 ", "AB12 ", ":", "1.2.", "eyJa", "-", "sk-", "xoxb-1-", "+1 "])
def test_no_text_takes_long(piece):
    """The longest row that is let in, of one piece: seconds, where a pattern that tries all ends takes hours."""
    started = time.perf_counter()
    find(piece * (200_000 // len(piece)), US)
    assert time.perf_counter() - started < 20
