"""What a licence lets us do with a row: pass on a changed collection of it, and under which conditions.

A licence is free text in a row or a source's settings. It is brought to one spelling (`canonical`), looked up, and
judged: it permits passing rows on, forbids it, or says nothing that we can read. This is a table and no lawyer: what it
does not know is `UNKNOWN` and left to a person, who lifts a stop by naming the licence. Conditions (naming the
authors, share-alike, no commerce) are told in the card. Identifiers are the hub's
(hf.co/docs/hub/repositories-licenses).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

from curate.records import UNKNOWN as UNKNOWN_LICENSE
from curate.records import DataError


class LicenseError(DataError):
    """A licence that stops an export or an upload until it is allowed by name."""


class Standing(StrEnum):
    """Whether rows under a licence may be passed on."""

    OPEN = "open"
    UNKNOWN = "unknown"
    FORBIDDEN = "forbidden"


@dataclass(frozen=True)
class Terms:
    """One licence. name: its one spelling; hub: the hub's identifier, None where it has none; share_alike: the group of
    licences under which a joint work may be given, None where any may."""

    name: str
    standing: Standing
    hub: str | None = None
    attribution: bool = False
    non_commercial: bool = False
    share_alike: str | None = None

    def in_words(self) -> str:
        """What it asks for, for the card."""
        if self.standing is Standing.FORBIDDEN:
            return "does not permit passing on changed copies"
        if self.standing is Standing.UNKNOWN:
            return "terms not known"
        parts = ["name the authors"] if self.attribution else []
        parts += ["share alike"] if self.share_alike else []
        parts += ["no commercial use"] if self.non_commercial else []
        return ", ".join(parts) or "no condition but its notice"


# fmt: off
HUB_LICENSES = frozenset(
    [
        "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bigcode-openrail-m", "bigscience-bloom-rail-1.0",
        "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc",
        "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
        "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
        "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0",
        "creativeml-openrail-m", "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1",
        "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2",
        "llama3", "llama3.1", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by", "ofl-1.1", "openrail",
        "openrail++", "osl-3.0", "other", "pddl", "postgresql", "unknown", "unlicense", "wtfpl", "zlib",
    ]
)
_FREE = ["cc0-1.0", "pddl", "public-domain", "unlicense", "wtfpl"]
_NOTICE = [
    "afl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "bsl-1.0",
    "c-uda", "cdla-permissive-1.0", "cdla-permissive-2.0", "ecl-2.0", "etalab-2.0", "isc", "mit", "ms-pl", "ncsa",
    "odc-by", "postgresql", "zlib",
]
# licence -> group; those of one group may be joined into one work
_SHARE_ALIKE = {
    "agpl-3.0": "gpl-3", "cdla-sharing-1.0": "cdla-sharing", "epl-1.0": "epl", "epl-2.0": "epl", "eupl-1.1": "eupl",
    "gfdl": "gfdl", "gpl": "gpl", "gpl-2.0": "gpl-2", "gpl-3.0": "gpl-3", "lgpl": "gpl", "lgpl-2.1": "gpl-2",
    "lgpl-3.0": "gpl-3", "lgpl-lr": "lgpl-lr", "mpl-2.0": "mpl", "odbl": "odbl", "osl-3.0": "osl",
}
_SAME = {
    "agplv3": "agpl-3.0", "apache": "apache-2.0", "apache2": "apache-2.0", "cc-0": "cc0-1.0", "cc0": "cc0-1.0",
    "cc-zero": "cc0-1.0", "expat": "mit", "gplv2": "gpl-2.0", "gplv3": "gpl-3.0", "lgplv3": "lgpl-3.0",
    "none": UNKNOWN_LICENSE, "odbl-1.0": "odbl", "odc-by-1.0": "odc-by", "pd": "public-domain", "pddl-1.0": "pddl",
    "unspecified": UNKNOWN_LICENSE, "n/a": UNKNOWN_LICENSE,
}
# fmt: on
_CREATIVE_COMMONS = re.compile(
    r"cc-by((?:-(?:nc|nd|sa))*)(?:-(\d\.\d))?(?:-(?:(?!nc|nd|sa)[a-z]{2}|igo|deed\.[a-z]+))*"
)
_ADDRESS = re.compile(r"https?://(?:www\.)?creativecommons\.org/(licenses|publicdomain)/([a-z-]+)/(\d\.\d).*")
# words that forbid whatever stands around them; `other` says that terms exist and not which
_FORBIDS = re.compile(
    r"\bcc\b.*\bnd\b|no-?derivative|proprietary|all-rights-reserved|no-redistribution|confidential|^other$"
)


def canonical(text: str) -> str:
    """One spelling of a licence: lower case, hyphens, without the word licence, a jurisdiction or a remark in
    parentheses (`(Stack Overflow)`); a Creative Commons address becomes its name. Text that is not known stays whole.
    """
    whole = _spelled(text)
    short = _spelled(re.sub(r"\([^()]*\)", " ", text))
    known = short in HUB_LICENSES or short in _FREE or _CREATIVE_COMMONS.fullmatch(short)
    return short if known and not _FORBIDS.search(whole) else whole


def _spelled(text: str) -> str:
    name = " ".join(text.split()).lower()
    if name in HUB_LICENSES:
        return name
    if address := _ADDRESS.fullmatch(name):
        kind, code, version = address.groups()
        name = f"cc-{code}-{version}" if kind == "licenses" else "public-domain" if code == "mark" else "cc0-1.0"
    name = re.sub(r"[\s_,]+", "-", name)
    name = re.sub(r"^the-|-licen[sc]e(?=-|$)|-version(?=-|$)", "", name).strip("-")
    name = re.sub(r"^ccby", "cc-by", re.sub(r"-v(?=\d)", "-", name))
    if found := _CREATIVE_COMMONS.fullmatch(name):
        parts = "".join(f"-{part}" for part in ("nc", "nd", "sa") if part in found[1].split("-"))
        return f"cc-by{parts}{f'-{found[2]}' if found[2] else ''}"
    return _SAME.get(name, name)


def terms(text: str) -> Terms:
    """What the licence permits; `Standing.UNKNOWN` for what the table does not have."""
    name = canonical(text)
    hub = name if name in HUB_LICENSES else None
    if found := _CREATIVE_COMMONS.fullmatch(name):
        parts = found[1].split("-")
        group = ("cc-by-nc-sa" if "nc" in parts else "cc-by-sa") if "sa" in parts else None
        standing = Standing.FORBIDDEN if "nd" in parts else Standing.OPEN
        return Terms(name, standing, hub, attribution=True, non_commercial="nc" in parts, share_alike=group)
    if name in _FREE:
        return Terms(name, Standing.OPEN, hub)
    if name in _NOTICE:
        return Terms(name, Standing.OPEN, hub, attribution=name in ("odc-by", "etalab-2.0"))
    if name in _SHARE_ALIKE:
        return Terms(name, Standing.OPEN, hub, attribution=name in ("gfdl", "odbl"), share_alike=_SHARE_ALIKE[name])
    return Terms(name, Standing.FORBIDDEN if _FORBIDS.search(name) else Standing.UNKNOWN, hub)


def hub_license(text: str) -> str:
    """The hub's id for a licence text, or `other`."""
    return terms(text).hub or "other"


def is_allowed(license: str, allowed: Iterable[str]) -> bool:
    """Whether a list of names has this licence, however each is spelled."""
    return canonical(license) in {canonical(name) for name in allowed}


def forbidden(licenses: Mapping[str, Iterable[str]], allowed: Iterable[str]) -> list[str]:
    """One sentence per source and licence that stops an export. licenses: source, as the message shall name it -> its
    licences; allowed: `export.allow_licenses`."""
    names = list(allowed)
    return [
        f"{where}: the licence {license!r} does not permit passing on its rows; take the source out, or, if you have "
        f"the right, name it: export.allow_licenses: [{canonical(license)}]"
        for where, found in licenses.items()
        for license in sorted(set(found))
        if terms(license).standing is Standing.FORBIDDEN and not is_allowed(license, names)
    ]


def conflicts(licenses: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of licences whose rows cannot be joined into one work, by name: two kinds of share-alike, or share-alike
    without commerce forbidden beside a licence that forbids it."""
    found = {known.name: known for known in map(terms, licenses)}
    return [(one, two) for one, two in combinations(sorted(found), 2) if _collide(found[one], found[two])]


def _collide(one: Terms, two: Terms) -> bool:
    if one.share_alike and two.share_alike:
        return one.share_alike != two.share_alike
    return any(a.share_alike and not a.non_commercial and b.non_commercial for a, b in ((one, two), (two, one)))
