"""The report page, rendered from small values: self-contained, escaped, and never calling an open question a win."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.influence import attribution_matrix, write_attribution
from curate.scores import read_scores
from curate.selection.explain import SourceShare
from eval.compare import ACCURACY, BITS_PER_BYTE, compare
from flows.config import validate
from flows.report.data import Arm, ReportData, read_influence, read_losses, read_shares
from flows.report.page import CODE, headline, render
from flows.store import StageOutput

EVIL = "<script>alert('source')</script>"
# what a browser would fetch: attributes that load something, and the style sheet's own ways
LOADING = {"src", "href", "xlink:href", "data", "action", "poster", "srcset", "background"}


def config(tmp_path, **changes):
    (tmp_path / "any.parquet").write_text("")
    path = str(tmp_path / "any.parquet")
    return validate(
        {
            "name": "small",
            "model": str(tmp_path),
            "data": {"pool": [{"path": path}], "targets": [{"path": path}]},
            "evaluation": {"items": [path]},
            **changes,
        }
    )


def scores(shift, items=40):
    """One capability whose items are all `shift` better than the control's, and one that differs by noise alone."""
    noise = np.random.default_rng(0).normal(size=items)
    return {
        "math": {f"m{i}": 0.5 + shift + 0.01 * noise[i] for i in range(items)},
        "code": {f"c{i}": 0.5 + (noise[i] - noise.mean()) * (shift != 0) for i in range(items)},
    }


def comparison(metric=ACCURACY, shift=0.2, controls=("base", "random")):
    models = {"base": scores(0.0), "bids": scores(shift), "random": scores(0.0)}
    return compare([(metric, models)], list(controls), resamples=200, seed=1)


def report_data(tmp_path, source="trivia", compared=None, **changes):
    shares = [SourceShare(source, 90, 4, 0.9, 0.4), SourceShare("maths & more", 10, 6, 0.1, 0.6)]
    arms = [
        Arm(
            name=name,
            shares=shares,
            utility=[2.0, 1.5, 1.0],
            tasks=["math", "code", None] if name == "bids" else [None] * 3,
            analysis={
                "aid_per_task": {"math": 0.31, "code": -0.02},
                "aid_between_task_std": 0.165,
                "thi_instance": {"math": 7, "code": 3},
                "thi_ratio": 7 / 3,
            },
            mixture=[
                {
                    "step": step,
                    "temperature": 5.0 if step < 2 else 1.0,
                    "trained_tokens": {source: 10, "maths & more": 5},
                }
                for step in range(4)
            ],
            losses=[(1, 2.5), (4, 2.1)],
        )
        for name in ("bids", "random")
    ]
    stages = {
        "ingest": StageOutput("ingest", "k1", tmp_path / "ingest", False, 1.5, {"rows_in": 101, "rows_out": 100}),
        "clean": StageOutput("clean", "k2", tmp_path / "clean", True, 0.5, {"rows_in": 100, "rows_out": 98}),
    }
    values = {
        "config": config(tmp_path),
        "stages": stages,
        "arms": arms,
        "influence": {source: {"math": 0.4, "code": -0.1}, "maths & more": {"math": 1.2, "code": 0.0}},
        "comparison": compared or comparison(),
        "engine": {"backend": "vllm", "device": "cpu", "dtype": "bfloat16"},
        "audit": {
            "pool": {"rows": 98, "tokens": 4000, "trained_tokens": 1000, "trained_share": 0.25, "truncated_rows": 3}
        },
        "rejected": [{"origin": f"{source}.jsonl:3", "id": "", "reason": f"no {source} turn", "excerpt": ""}],
        "removed": [{"id": "a", "source": source, "filter": "exact_duplicates", "reason": "same", "matched_id": "b"}],
    }
    return ReportData(**(values | changes))


class Page(HTMLParser):
    """The tags, attributes and visible text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.references, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in LOADING]

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_shows_what_was_measured(tmp_path):
    text = "".join(Page(render(report_data(tmp_path))).text)
    for shown in ("small", "trivia", "maths & more", "90 (90.0 %)", "6 (60.0 %)", "+0.310", "2.3 : 1", "1,000 (25 %)"):
        assert shown in text, shown
    assert "Tasks ran on vllm (cpu, bfloat16)" in text


def test_the_page_refers_to_nothing_outside_itself(tmp_path):
    page = render(report_data(tmp_path))
    parsed = Page(page)
    assert not {"script", "link", "iframe", "img", "object", "embed", "base"} & set(parsed.tags)
    assert parsed.tags.count("svg") >= 5
    # inside the figures `#id` refers to the same page, and a heat map is an image in the page itself
    inside = ("#", "data:image/png;base64,")
    assert [reference for reference in parsed.references if not reference.startswith(inside)] == []
    assert "@import" not in page
    assert re.findall(r"url\((?!#)[^)]*\)", page) == []


def test_names_from_the_data_are_escaped_everywhere(tmp_path):
    page = render(report_data(tmp_path, source=EVIL))
    parsed = Page(page)
    assert "script" not in parsed.tags
    assert "<script" not in page.lower()
    assert EVIL in "".join(parsed.text)
    # table of sources, rejected place and reason, removed rows
    assert page.count("&lt;script&gt;alert(&#39;source&#39;)&lt;/script&gt;") >= 4


def test_a_name_in_the_configuration_is_escaped(tmp_path):
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    folder.mkdir()
    page = render(report_data(tmp_path, config=config(tmp_path, model=str(folder))))
    assert "img" not in Page(page).tags


@pytest.mark.parametrize("metric", [ACCURACY, BITS_PER_BYTE], ids=["higher is better", "lower is better"])
@pytest.mark.parametrize("shift", [0.2, -0.2])
def test_the_headline_counts_only_clear_differences(tmp_path, metric, shift):
    compared = comparison(metric, shift)
    (sentence,) = headline(report_data(tmp_path, compared=compared))
    difference = compared.tables[0].difference("bids", "random", "code").interval
    assert difference.low <= 0 <= difference.high
    clear = "better on 1, worse on 0" if (shift > 0) == metric.higher_is_better else "better on 0, worse on 1"
    assert clear in sentence
    assert "not clearly different on 1 of 2 capabilities" in sentence


def test_an_interval_with_zero_in_it_is_never_called_better(tmp_path):
    compared = comparison(shift=0.0)
    data = report_data(tmp_path, compared=compared)
    assert {d.verdict for d in compared.tables[0].differences} == {"no clear difference"}
    (sentence,) = headline(data)
    assert "is better on 0, worse on 0 and not clearly different on 2 of 2" in sentence
    assert "on average no clear difference (" in sentence
    cells = re.findall(r'<span class="(\w+)">[+-]\d', render(data))
    assert cells
    assert set(cells) == {"unclear"}


def test_without_a_control_nothing_is_claimed(tmp_path):
    compared = compare([(ACCURACY, {"bids": scores(0.0)})], [], resamples=200, seed=1)
    data = report_data(tmp_path, compared=compared)
    assert headline(data) == []
    assert "Nothing was compared: there is no control." in render(data)


def test_the_same_values_give_the_same_page(tmp_path):
    assert render(report_data(tmp_path)) == render(report_data(tmp_path))


def test_many_rejected_rows_are_cut_and_counted(tmp_path):
    rows = [{"origin": f"f:{n}", "id": "", "reason": "bad", "excerpt": ""} for n in range(20)]
    page = render(report_data(tmp_path, rejected=rows))
    assert "f:7" in page
    assert "f:8<" not in page
    assert "and 12 more, in rejected.parquet" in page


def write(path: Path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def test_shares_count_the_selected_rows_by_source(tmp_path):
    write(tmp_path / "clean" / "pool.parquet", id=["a", "b", "c", "d"], source=["x", "x", "x", "y"])
    write(tmp_path / "select" / "selection.parquet", id=["d", "b"])
    found = {share.source: share for share in read_shares(tmp_path / "clean", tmp_path / "select")}
    assert (found["x"].pool, found["x"].selected, found["x"].pool_share, found["x"].selected_share) == (3, 1, 0.75, 0.5)
    assert (found["y"].pool, found["y"].selected) == (1, 1)


def test_influence_by_source_is_the_mean_of_the_columns_z_scores(tmp_path):
    values = np.array([[1, 2, 0], [3, 5, 1], [5, 2, 2], [7, 9, 1]], dtype=np.float32) / 10
    ids, tasks = ["a", "b", "c", "d"], ["math", "math", "code"]
    matrix = attribution_matrix([values], np.ones(1), ids, ["t1", "t2", "t3"], tasks)
    folder = tmp_path / "attribution"
    folder.mkdir()
    write_attribution(folder, matrix)
    # the pool's order is not the matrix's, and a row that could not be scored has no influence
    write(tmp_path / "clean" / "pool.parquet", id=["d", "z", "c", "b", "a"], source=["y", "none", "y", "x", "x"])
    found = read_influence(tmp_path / "clean", folder)
    scores = read_scores(folder).values.astype(np.float64)
    expected = {}
    for source, rows in {"x": [0, 1], "y": [2, 3]}.items():
        for task, columns in {"math": [0, 1], "code": [2]}.items():
            z = [
                (scores[row, column] - scores[:, column].mean()) / scores[:, column].std(ddof=1)
                for row in rows
                for column in columns
            ]
            expected[source, task] = sum(z) / len(z)
    assert {(s, t): v for s, row in found.items() for t, v in row.items()} == pytest.approx(expected)


def test_losses_come_from_the_lines_that_have_one(tmp_path):
    (tmp_path / "log.jsonl").write_text(
        '{"step": 2, "loss": 3.5}\n{"step": 2, "event": "saved"}\n{"step": 4, "loss": 3.0}\n'
    )
    assert read_losses(tmp_path) == [(2, 3.5), (4, 3.0)]


def test_the_report_s_key_follows_the_template_and_the_style_too():
    root = Path(__file__).parents[2]
    parts = {path.relative_to(root).as_posix() for path in (root / "flows/report").iterdir() if path.is_file()}
    assert len(parts) >= 5
    assert {part for part in parts if not part.endswith(".py")} <= set(CODE)
