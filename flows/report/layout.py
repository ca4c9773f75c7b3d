"""What every section, table and figure of the page gets: an address, a box that scrolls, and names for screen readers.

The templates write plain `<section>`, `<table>` and `<figure aria-label>`, and this makes them reachable and readable
in one place, so that no part of the page can forget it. It reads finished HTML, in which text from the data is already
escaped: a tag that is found here was written by a template. One pass of regular expressions, milliseconds a page.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SECTION = re.compile(r"<section(?P<given>[^>]*)>\s*<h2(?P<own>[^>]*)>(?P<title>.*?)</h2>", re.DOTALL)
PART = re.compile(
    r"<h[23][^>]*>(?P<heading>.*?)</h[23]>"
    r"|(?P<table><table.*?</table>)"
    r'|<figure aria-label="(?P<label>[^"]*)">(?P<drawing>.*?)</figure>',
    re.DOTALL,
)
TAG = re.compile(r"<[^>]*>")


@dataclass(frozen=True)
class Entry:
    """A section in the table of contents; title: escaped HTML text."""

    address: str
    title: str


def arrange(body: str) -> tuple[str, list[Entry]]:
    """The body with addresses and boxes, and its table of contents."""
    contents: list[Entry] = []

    def section(found: re.Match[str]) -> str:
        title = TAG.sub("", found["title"])
        words = "-".join(re.findall(r"[a-z0-9]+", re.sub(r"&[^;]*;", "", title.lower())))
        taken = {entry.address for entry in contents}
        address = words if words and words not in taken else f"{words or 'part'}-{len(contents)}"
        contents.append(Entry(address, title))
        return (
            f'<section id="{address}" aria-labelledby="{address}-title"{found["given"]}>\n'
            f'<h2 id="{address}-title"{found["own"]}>{found["title"]}</h2>'
        )

    return _boxed(SECTION.sub(section, body)), contents


def _boxed(body: str) -> str:
    """Tables and figures in boxes of their own: what is too wide scrolls there, by touch and by keyboard."""
    heading = ""

    def part(found: re.Match[str]) -> str:
        nonlocal heading
        if found["heading"] is not None:
            heading = " ".join(TAG.sub("", found["heading"]).split())
            return found[0]
        if found["table"] is not None:
            table = re.sub(r"<th(?![^>]*scope=)(?=[ >])", '<th scope="col"', found["table"])
            return f'<div class="box" role="region" tabindex="0" aria-label="Table: {_quoted(heading)}">{table}</div>'
        label = found["label"]
        return (
            f'<div class="box" role="region" tabindex="0" aria-label="Figure: {label}">'
            f'<figure role="img" aria-label="{label}">{found["drawing"]}</figure></div>'
        )

    return PART.sub(part, body)


def _quoted(text: str) -> str:
    return text.replace('"', "&#34;")
