"""Licences as the hub knows them."""

from __future__ import annotations

# Licence ids that the hub knows; every other text becomes `other` in the header and stays as it is in the table.
# fmt: off
HUB_LICENSES = frozenset(
    [
        "afl-3.0", "apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "cc", "cc-by-2.0", "cc-by-2.5",
        "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-2.0",
        "gfdl", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "mit", "mpl-2.0", "odbl", "odc-by", "pddl", "unknown",
        "unlicense", "wtfpl",
    ]
)
# fmt: on


def hub_license(text: str) -> str:
    """The hub's id for a licence text, or `other`."""
    name = text.strip().lower().replace(" ", "-")
    return name if name in HUB_LICENSES else "other"
