"""What a stage says while it works, in the run's log, and how far it is, as a progress artifact.

Redraws of progress bars are left out of the log: a bar that matters drives the artifact instead, and on a terminal it
is drawn where it always was. Of a trainer's lines, one per step, the log gets a short one every two seconds. The
artifact is written as often, which costs one call of some 20 ms.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.process import show_on_terminal
from train.process import PROGRESS_PREFIX

SECONDS_BETWEEN = 2.0
LONGEST_LINE = 2000  # characters in the run's log; the stage's own log has the line whole
# stage, without its method -> the label of the bar that tells how far it is; the trainer's has none
BARS = {"warmup": "", "gradients": "gradients", "finetune": ""}
UNITS = {"warmup": "steps", "gradients": "gradients of rows", "finetune": "steps"}
_BAR = re.compile(r"^\s*(?:(?P<label>[^|%]*?):\s+)?\d+%\|[^|]*\|\s*(?P<done>\d+)/(?P<total>\d+)\s*\[(?P<rest>[^\]]*)")
_LINE = re.compile(re.escape(PROGRESS_PREFIX) + r"(?P<done>\d+)/(?P<total>\d+)\s*(?P<what>.*)")
_TIMES = re.compile(r"(?P<spent>[\d:]+)<(?P<left>[\d:]+|\?)")


@dataclass(frozen=True)
class Progress:
    done: int
    total: int
    what: str  # unit, and time left where it is known

    @property
    def percent(self) -> float:
        return 100.0 * self.done / self.total


def read_progress(line: str, stage: str) -> Progress | None:
    """How far a line says that `stage` is; None where it says nothing of it."""
    kind = stage.partition("-")[0]
    if told := _LINE.match(line):
        return Progress(int(told["done"]), int(told["total"]), told["what"]) if int(told["total"]) else None
    bar = _BAR.match(line)
    if bar is None or kind not in BARS or (bar["label"] or "") != BARS[kind] or not int(bar["total"]):
        return None
    times = _TIMES.search(bar["rest"])
    left = f", about {times['left']} left" if times and times["left"] != "?" else ""
    return Progress(int(bar["done"]), int(bar["total"]), UNITS[kind] + left)


def read_step(line: str) -> str | None:
    """The few values of a trainer's line that a person follows; all of them are in the stage's own log."""
    if not line.startswith("{'loss': "):
        return None
    values = dict(re.findall(r"'(loss|learning_rate|epoch)': '?([^',}]+)", line))
    return f"loss {values.get('loss')}, learning rate {values.get('learning_rate')}, epoch {values.get('epoch')}"


def is_bar(line: str) -> bool:
    """A redraw of any progress bar, or the blank that wipes one."""
    return "%|" in line or re.search(r"\d+/\d+ \[\d\d:\d\d<", line) is not None


class StageVoice:
    """Listener of one stage: its lines go to `logger`, its progress to the artifact `key`."""

    def __init__(self, stage: str, logger: logging.Logger | logging.LoggerAdapter, key: str) -> None:
        self.stage, self.logger, self.key = stage, logger, key
        self._artifact: UUID | None = None
        self._written = self._measured = float("-inf")
        self._last: Progress | None = None

    def __call__(self, line: str) -> None:
        progress = read_progress(line, self.stage)
        if progress is not None:
            self._write(progress)
        if line.startswith(PROGRESS_PREFIX):
            return
        if is_bar(line):
            if sys.stderr.isatty():
                show_on_terminal(line)
            return
        text = line.strip()
        if (measured := read_step(text)) is not None:
            now = time.monotonic()
            if now - self._measured < SECONDS_BETWEEN:
                return
            self._measured, text = now, measured
        self.logger.info(text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]} …")

    def close(self, done: bool) -> None:
        """The last word of the artifact: all of it, or where the stage ended."""
        if self._last is None or self._artifact is None:
            return
        last = self._last
        told = f"{self.stage}: {'done, ' if done else 'ended at '}"
        self._send(100.0 if done else last.percent, f"{told}{last.total if done else last.done} of {last.total}")

    def _write(self, progress: Progress) -> None:
        self._last = progress
        now = time.monotonic()
        if now - self._written >= SECONDS_BETWEEN:
            self._send(progress.percent, f"{self.stage}: {progress.done} of {progress.total} {progress.what}")
            self._written = time.monotonic()

    def _send(self, percent: float, description: str) -> None:
        try:
            if self._artifact is None:
                found = create_progress_artifact(percent, key=self.key, description=description)
                self._artifact = cast(UUID, found)
            else:
                update_progress_artifact(self._artifact, progress=percent, description=description)
        except Exception as error:  # a server that is away must not end a night of training
            self.logger.warning("the progress could not be written: %s", error)
