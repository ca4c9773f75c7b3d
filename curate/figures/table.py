"""Every figure by name, with what a higher value means, and the table of all of them for all groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import numpy as np

from curate.figures.groups import over_draws, over_rows
from curate.figures.spread import effective_number, mean_distance, vendi_score
from curate.figures.text import compression, distinct, overlap

Aspect = Literal["quality", "diversity", "complexity"]
LONGEST_WORDS: Final = 10_000  # of a draw: more changes little and costs time
LONGEST_BYTES: Final = 100_000
OVERLAP_WORDS: Final = 4
DRAWN: Final = frozenset(
    {
        *("distinct_1", "distinct_2", "distinct_3", "compression", "overlap", "distance", "vendi"),
        *("sources", "languages", "tasks"),
    }
)


@dataclass(frozen=True, eq=False)
class RowFacts:
    """One row as the figures need it. words: of all turns but the system's; loss and ifd: under the base model, None
    where it was not asked or has none; vector: (H,) unit embedding, None likewise; task: that won it, None in the pool
    and for methods that name none."""

    id: str
    source: str
    text: str
    words: tuple[str, ...]
    language: str
    prompt_tokens: int
    answer_tokens: int
    turns: int
    truncated: bool
    refuses: bool
    cut_off: bool
    task: str | None = None
    loss: float | None = None
    ifd: float | None = None
    vector: np.ndarray | None = None


@dataclass(frozen=True)
class Figure:
    """name: its key; higher: what a higher value means; percent: a share, shown as such; digits: shown; drawn: depends
    on the amount, so computed on samples of one size."""

    name: str
    aspect: Aspect
    title: str
    higher: str
    percent: bool = False
    digits: int = 2

    @property
    def drawn(self) -> bool:
        return self.name in DRAWN

    def shown(self, value: float) -> str:
        return f"{value:.1%}".replace("%", " %") if self.percent else f"{value:,.{self.digits}f}"

    def shown_with_interval(self, value: float, low: float, high: float) -> str:
        """The value alone where nothing varies."""
        return self.shown(value) + (f" [{self.shown(low)}, {self.shown(high)}]" if low != high else "")


FIGURES = (
    Figure("loss", "quality", "loss of the answer, nats a token", "the base model finds answers less likely", digits=3),
    Figure("refusals", "quality", "answers that refuse", "more answers open like a refusal", percent=True),
    Figure("cut_off", "quality", "answers that look cut off", "more open code blocks, unfinished ends", percent=True),
    Figure("truncated", "quality", "rows cut at max_length", "more rows lose their end in training", percent=True),
    Figure("distinct_1", "diversity", "distinct words", "fewer words are used again", digits=3),
    Figure("distinct_2", "diversity", "distinct word pairs", "fewer pairs of words are used again", digits=3),
    Figure("distinct_3", "diversity", "distinct word triples", "fewer triples of words are used again", digits=3),
    Figure("compression", "diversity", "compression ratio", "the text repeats itself more"),
    Figure("overlap", "diversity", "runs of 4 words in another row too", "rows are worded more alike", percent=True),
    Figure("distance", "diversity", "distance of two rows", "embeddings lie further apart (cosine, 0 to 2)", digits=3),
    Figure("vendi", "diversity", "different rows (Vendi score)", "the sample counts as more different rows", digits=1),
    Figure("sources", "diversity", "sources, effective number", "rows are spread more evenly over sources"),
    Figure("languages", "diversity", "languages, effective number", "rows are spread more evenly over languages"),
    Figure("tasks", "diversity", "tasks, effective number", "rows are won by the tasks more evenly"),
    Figure("prompt_tokens", "complexity", "tokens before the first answer", "longer prompts", digits=1),
    Figure("answer_tokens", "complexity", "tokens of the answers", "longer answers", digits=1),
    Figure("turns", "complexity", "answers in a row", "more rows with several turns"),
    Figure("ifd", "complexity", "difficulty (IFD)", "the prompt helps the base model less", digits=3),
    Figure("ifd_over_1", "complexity", "rows with IFD of 1 or more", "more prompts that do not help", percent=True),
)
Numbers = dict[str, dict[str, list[float]]]


def figure_table(groups: Mapping[str, Sequence[RowFacts]], draws: int, seed: int) -> dict[str, Any]:
    """Figure -> group -> [value, low, high] under `figures`, and under `sizes` what equal samples were compared on.

    Low and high: of a mean, the 95 % percentile bootstrap interval over rows; of a figure that depends on the amount,
    the middle 95 % of `draws` samples of that one amount. A figure that no row of a group has is left out for it.
    """
    read = {name: [row for row in rows if row.vector is not None] for name, rows in groups.items()}
    sizes = {
        "rows": min(len(rows) for rows in groups.values()) // 2,
        "words": min(LONGEST_WORDS, min(sum(len(row.words) for row in rows) for rows in groups.values()) // 2),
        "bytes": min(LONGEST_BYTES, min(sum(len(row.text.encode()) for row in rows) for rows in groups.values()) // 2),
        "embedded_rows": min(len(rows) for rows in read.values()) // 2,
    }
    found: Numbers = {figure.name: {} for figure in FIGURES}
    for group, rows in groups.items():
        for name, values in (_means(rows) | _of_draws(rows, read[group], sizes, draws, seed)).items():
            numbers = values if isinstance(values, list) else over_rows(values, seed)
            if np.isfinite(numbers[0]):
                found[name][group] = numbers
    return {"sizes": sizes, "draws": draws, "figures": found}


def _means(rows: Sequence[RowFacts]) -> dict[str, np.ndarray]:
    """The figures that are means over rows: one number a row, NaN where it has none."""

    def column(value: Callable[[RowFacts], float | None]) -> np.ndarray:
        return np.array([np.nan if (found := value(row)) is None else found for row in rows], dtype=np.float64)

    difficulty = column(lambda row: row.ifd)
    return {
        "loss": column(lambda row: row.loss),
        "refusals": column(lambda row: row.refuses),
        "cut_off": column(lambda row: row.cut_off),
        "truncated": column(lambda row: row.truncated),
        "prompt_tokens": column(lambda row: row.prompt_tokens),
        "answer_tokens": column(lambda row: row.answer_tokens),
        "turns": column(lambda row: row.turns),
        "ifd": difficulty,
        "ifd_over_1": np.where(np.isfinite(difficulty), difficulty >= 1, np.nan),
    }


def _of_draws(
    rows: Sequence[RowFacts], read: Sequence[RowFacts], sizes: Mapping[str, int], draws: int, seed: int
) -> dict[str, list[float]]:
    """The figures that depend on the amount, each over samples of the one amount."""
    words, texts, labels = [row.words for row in rows], [row.text for row in rows], [row.task for row in rows]

    def drawn(measure: Callable[[np.ndarray], float], size: int, of: int = len(rows)) -> list[float]:
        return over_draws(measure, of, size, draws, seed) if size else [float("nan")] * 3

    found = {
        f"distinct_{n}": drawn(partial(_distinct, words, n, sizes["words"]), len(rows)) for n in (1, 2, 3)
    }  # fmt: skip
    found["compression"] = drawn(lambda order: compression((texts[i] for i in order), sizes["bytes"]), len(rows))
    found["overlap"] = drawn(lambda order: overlap([words[i] for i in order], OVERLAP_WORDS), sizes["rows"])
    for name, named in (
        ("sources", [row.source for row in rows]),
        ("languages", [row.language for row in rows]),
        ("tasks", labels if all(label is not None for label in labels) else []),
    ):
        found[name] = drawn(partial(_effective, named), sizes["rows"]) if named else [float("nan")] * 3
    vectors = np.array([row.vector for row in read])
    for name, measure in (("distance", mean_distance), ("vendi", vendi_score)):
        found[name] = drawn(partial(_spread, vectors, measure), sizes["embedded_rows"], len(read))
    return found


def _distinct(words: Sequence[Sequence[str]], n: int, size: int, order: np.ndarray) -> float:
    return distinct((words[i] for i in order), n, size)


def _effective(labels: Sequence[Any], order: np.ndarray) -> float:
    return effective_number(labels[i] for i in order)


def _spread(vectors: np.ndarray, measure: Callable[[np.ndarray], float], order: np.ndarray) -> float:
    return measure(vectors[order])
