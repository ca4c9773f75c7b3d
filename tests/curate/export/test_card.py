"""The card shows what others wrote and never runs it; every reader gets the same header back."""

from __future__ import annotations

import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.export import CardInfo, ExportSettings, dataset_card, pool_sources
from curate.export.card import citation, licenses_page
from curate.export.markdown import plain
from curate.records import Example, Message

TURNS = (Message("user", "?"), Message("assistant", "!"))
HOSTILE = [
    "<script>alert(1)</script>",
    "[click](javascript:alert(1))",
    "![x](http://a/b.png)",
    "a | b | c",
    "---\nlicense: mit\n---",
    "`code` **bold** _it_ ~~no~~ # head",
    "&lt;b&gt; & \\",
    "tab\tnul\x07 \u202e\u2028 end",
    "- item",
    "1. item",
    "key: [value, {a: *b}]",
    "数据 naïve",
]


def examples(license: str = "MIT") -> list[Example]:
    return [
        Example(str(number), name, TURNS, license=license, domain="d", origin=f"f:{number}")
        for number, name in enumerate(HOSTILE)
    ]


def card(**changes) -> CardInfo:
    rows = examples()
    named = {name: (name,) for name in HOSTILE}
    told = {"title": HOSTILE[4], "summary": "S.", "method": "M.", "pool": pool_sources(rows, named)}
    return CardInfo(**told | changes)


def split(text: str) -> tuple[dict, str]:
    assert text.startswith("---\n")
    head, _, body = text[4:].partition("\n---\n")
    return yaml.safe_load(head), body


def test_names_that_are_code_elsewhere_are_text_in_the_card():
    for text in (dataset_card(card(), examples()), licenses_page(card(), examples(), [])):
        body = split(text)[1] if text.startswith("---") else text
        assert "<script" not in body and "](" not in body.replace("\\](", "")
        assert not re.search(r"(?<!\\)!?\[[^\]]*[^\\]\]\(", body)
        for line in body.splitlines():
            if line.startswith("|"):
                cells = re.split(r"(?<!\\)\|", line)
                assert len(cells) in (4, 5, 9), line
    head, _ = split(dataset_card(card(), examples()))
    assert (head["pretty_name"], head["license"]) == (HOSTILE[4], "mit")


@settings(max_examples=60)
@given(st.text(max_size=60))
def test_plain_text_is_one_line_that_renders_as_itself(text):
    shown = plain(text)
    assert "\n" not in shown and "<" not in shown and "\x00" not in shown
    assert not re.search(r"(?<!\\)(\\\\)*[`*|\[\]]", shown)


@pytest.mark.parametrize(
    ("license", "header"),
    [
        ("Apache 2.0", {"license": "apache-2.0"}),
        ("unknown", {"license": "unknown"}),
        ("CC-BY", {"license": "other", "license_name": "cc-by", "license_link": "LICENSE.md"}),
        ("My | own\n<b>: x", {"license": "other", "license_name": "my-own-b-x", "license_link": "LICENSE.md"}),
        ("数", {"license": "other", "license_name": "custom", "license_link": "LICENSE.md"}),
    ],
)
def test_the_licence_in_the_header(license, header):
    head, body = split(dataset_card(card(), examples(license)))
    assert {key: value for key, value in head.items() if key.startswith("license")} == header
    assert ("terms are not known" in body) == (license not in ("Apache 2.0", "CC-BY"))


def test_conditions_and_conflicts_are_told():
    rows = [
        Example(str(n), "s", TURNS, license=license, domain="d", origin=f"f:{n}")
        for n, license in enumerate(["CC-BY-SA-4.0", "CC-BY-NC-SA-4.0", "MIT"])
    ]
    body = split(dataset_card(card(pool=pool_sources(rows)), rows))[1]
    assert "Share-alike: CC-BY-NC-SA-4.0, CC-BY-SA-4.0." in body and "No commercial use: CC-BY-NC-SA-4.0." in body
    assert "**Rows under cc-by-nc-sa-4.0 and under cc-by-sa-4.0 cannot be joined into one work;**" in body


def test_sources_tell_attribution_and_revision():
    rows = examples()
    pool = pool_sources(rows, {"a | b | c": ("Ask & Club",)}, {"a | b | c": "c0ffee"})
    body = split(dataset_card(card(pool=pool), rows))[1]
    assert "| a \\| b \\| c | MIT | c0ffee | 1 | 8.3% | 1 | 8.3% |" in body
    assert "## Attribution\n\n- a \\| b \\| c: Ask &amp; Club\n" in body


def test_a_creator_cannot_leave_the_citation():
    creator = ExportSettings(creator="A\n```\n} <b>").creator
    assert citation(card(name="s", title="T"), creator) == (
        "@misc{s,\n  title = {T},\n  author = {A <b>},\n  note = {Selected with Equipoise; the rows are their sources'"
        " own}\n}"
    )
