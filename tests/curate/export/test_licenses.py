"""Licences as people write them, and what follows for an export."""

from __future__ import annotations

import pytest

from curate.export.licenses import HUB_LICENSES, Standing, canonical, conflicts, forbidden, hub_license, terms

OPEN, UNKNOWN, FORBIDDEN = Standing.OPEN, Standing.UNKNOWN, Standing.FORBIDDEN


@pytest.mark.parametrize(
    ("text", "name", "standing"),
    [
        ("MIT License", "mit", OPEN),
        ("Apache License, Version 2.0", "apache-2.0", OPEN),
        ("CC BY-SA 4.0", "cc-by-sa-4.0", OPEN),
        ("CC-BY-SA-3.0 (Stack Overflow)", "cc-by-sa-3.0", OPEN),
        ("CC-BY-2.0-FR", "cc-by-2.0", OPEN),
        ("cc-by", "cc-by", OPEN),
        ("https://creativecommons.org/licenses/by-nc/4.0/legalcode", "cc-by-nc-4.0", OPEN),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "cc0-1.0", OPEN),
        ("Public domain (US)", "public-domain", OPEN),
        ("GPLv3", "gpl-3.0", OPEN),
        ("CC-BY-ND-4.0", "cc-by-nd-4.0", FORBIDDEN),
        ("cc by-nd-nc 3.0", "cc-by-nc-nd-3.0", FORBIDDEN),
        ("CC-BY-4.0-ND", "cc-by-4.0-nd", FORBIDDEN),
        ("MIT AND CC-BY-ND-4.0", "mit-and-cc-by-nd-4.0", FORBIDDEN),
        ("MIT (proprietary)", "mit-(proprietary)", FORBIDDEN),
        ("All Rights Reserved", "all-rights-reserved", FORBIDDEN),
        ("other", "other", FORBIDDEN),
        ("unknown", "unknown", UNKNOWN),
        ("cc", "cc", UNKNOWN),
        ("", "", UNKNOWN),
        ("my own (club)", "my-own-(club)", UNKNOWN),
        ("\N{SNOWMAN} | <b>", "\N{SNOWMAN}-|-<b>", UNKNOWN),
    ],
)
def test_a_licence_is_known_however_it_is_spelled(text, name, standing):
    assert (canonical(text), terms(text).standing) == (name, standing)
    assert canonical(canonical(text)) == canonical(text)


def test_every_licence_of_the_hub_is_its_own_name():
    assert {canonical(name) for name in HUB_LICENSES} == HUB_LICENSES
    assert all(hub_license(name) == name for name in HUB_LICENSES)
    unread = {name for name in HUB_LICENSES if terms(name).standing is UNKNOWN}
    assert all(word not in name for name in unread for word in ("by", "gpl", "bsd", "mit", "apache", "cc0"))


def test_what_forbids_is_told_with_place_and_remedy():
    found = {"data.pool.0 (a.jsonl)": ["MIT", "CC-BY-ND-4.0"], "b": ["unknown"]}
    (problem,) = forbidden(found, [])
    assert problem == (
        "data.pool.0 (a.jsonl): the licence 'CC-BY-ND-4.0' does not permit passing on its rows; take the source out, "
        "or, if you have the right, name it: export.allow_licenses: [cc-by-nd-4.0]"
    )
    assert forbidden(found, ["CC BY-ND 4.0"]) == []


def test_licences_that_cannot_be_joined():
    assert conflicts(["MIT", "CC-BY-SA-4.0", "CC-BY-SA-3.0", "CC-BY-4.0", "apache-2.0"]) == []
    assert conflicts(["CC-BY-NC-SA-4.0", "CC-BY-NC-4.0", "MIT"]) == []
    assert conflicts(["CC-BY-SA-4.0", "CC-BY-NC-SA-4.0"]) == [("cc-by-nc-sa-4.0", "cc-by-sa-4.0")]
    assert conflicts(["CC-BY-SA-4.0", "CC-BY-NC-4.0"]) == [("cc-by-nc-4.0", "cc-by-sa-4.0")]
    assert conflicts(["odbl", "CC-BY-SA-4.0"]) == [("cc-by-sa-4.0", "odbl")]
