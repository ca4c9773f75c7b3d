"""One row's whole story: from file and line through every stage of a finished run to its export or its removal."""

from flows.lineage.ends import End, ends
from flows.lineage.event import Event
from flows.lineage.story import Story, stories

__all__ = ["End", "Event", "Story", "ends", "stories"]
