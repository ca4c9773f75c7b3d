"""The report page, rendered from small values: self-contained, escaped, and never calling an open question a win."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.compare import compare, scores_by_capability
from eval.tables import ACCURACY, BITS_PER_BYTE
from flows.report.data import read_losses, read_shares
from flows.report.figures import label_ends, new_figure, thinned
from flows.report.page import CODE, render
from flows.report.results import headline
from tests.flows.report_values import EVIL, comparison, config, report_data, scores
from tests.flows.step_records import step_records

OWN_SCRIPTS = 3  # the list's data, its script, and the page's
# what a browser would fetch: attributes that load something, and the style sheet's own ways
LOADING = {"src", "href", "xlink:href", "data", "action", "poster", "srcset", "background"}


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


def test_the_page_says_how_even_and_how_sure_the_selections_are(tmp_path):
    text = " ".join(" ".join(Page(render(report_data(tmp_path))).text).split())
    for shown in (
        "It falls in that order here: instance_max 0.500, instance_max_normalized 0.250, bids 0.165.",
        "instance_max° +0.900 -0.100 0.500",
        "a task has none",
        "Suggested budget: 8 rows ; because (median utility of the first picks, 1 % of the pool: 1.9)",
        "77 % [69, 84]",
        "not resampled: the method does not look at the targets",
        "row-1 trivia math t1 2 86 % row-2 0.61",
        "row-7 trivia – – – –",
        "near trivia code t9 +0.987",
        "The last pick added +1.000.",
    ):
        assert shown in text, shown
    assert "bids°" not in text and "random°" not in text


def test_the_page_says_how_far_the_scores_can_be_trusted(tmp_path):
    data = report_data(tmp_path)
    text = " ".join(" ".join(Page(render(data)).text).split())
    assert "split-half reliability +0.91 -0.20" in text
    assert "correlations from 0.70 to 0.93" in text and "no projection noise" in text and "halved" not in text
    noise = {"pearson": 0.61, "difference_std": 0.0111, "exact_std": 0.0123}
    sketched = {**data.trust, "checkpoints": [[1.0]], "projection": [noise], "out_of_memory": 2}
    text = " ".join(" ".join(Page(render(replace(data, trust=sketched))).text).split())
    assert "correlate by 0.61" in text and "0.0111 against 0.0123" in text and "halved 2 times" in text
    assert "Checkpoints rank" not in text and "no projection noise" not in text


def test_the_page_says_who_pays_for_each_filter(tmp_path):
    data = report_data(tmp_path)
    text = " ".join(" ".join(Page(render(data)).text).split())
    for shown in (
        "toxicity 100 10 (10.0 %) 4 source trivia loses 9 of 30 rows (30.0 %), the others 2.0 %: 15.0 times as much; "
        "source maths & more loses 9 of 30 rows (20.0 %), the others none",
        "exact_duplicates 100 1 (10.0 %) – no group",
        "at least 2 times the share of all other rows, where chance is excluded at 0.01",
    ):
        assert shown in text, shown
    assert "Who pays" not in render(replace(data, cleaning={}))


def test_a_spread_that_does_not_fall_is_said_so(tmp_path):
    data = report_data(tmp_path)
    spread = data.analysis["spread"]
    assert "It does not fall in that order here" in render(
        replace(data, analysis={**data.analysis, "spread": {**spread, "falls": False}})
    )
    untold = render(replace(data, analysis={**data.analysis, "spread": {**spread, "falls": None}}))
    assert "in that order here" not in untold


def test_nothing_resampled_still_makes_a_page(tmp_path):
    data = report_data(tmp_path)
    random_only = [arm for arm in data.arms if arm.name == "random"]
    text = "".join(Page(render(replace(data, arms=random_only))).text)
    assert "not resampled" in text
    assert "Suggested budget" not in text


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_labels_at_the_end_of_curves_keep_apart(count):
    figure, (axis,) = new_figure(4, 3)
    axis.set_ylim(0, 100)
    figure.draw_without_rendering()
    label_ends(axis, 1.0, [(50.0 + k / 10, f"task {k}", "black") for k in range(count)])
    places = [text.xy[1] for text in axis.texts]
    assert places == sorted(places) and max(places) <= 100
    height = axis.get_window_extent().height * 72 / figure.dpi
    assert all((b - a) / 100 * height >= 9.99 for a, b in pairwise(places))


def test_a_long_curve_is_thinned_with_both_ends():
    kept = thinned(40_000)
    assert (kept[0], kept[-1], len(kept)) == (0, 39_999, 400)
    assert thinned(3).tolist() == [0, 1, 2]


def test_the_page_refers_to_nothing_outside_itself(tmp_path):
    page = render(report_data(tmp_path))
    parsed = Page(page)
    assert not {"link", "iframe", "img", "object", "embed", "base"} & set(parsed.tags)
    assert parsed.tags.count("svg") >= 5
    # inside the figures `#id` refers to the same page, and a heat map is an image in the page itself
    inside = ("#", "data:image/png;base64,")
    assert [reference for reference in parsed.references if not reference.startswith(inside)] == []
    assert "@import" not in page
    assert re.findall(r"url\((?!#)[^)]*\)", page) == []


def test_names_from_the_data_are_escaped_everywhere(tmp_path):
    page = render(report_data(tmp_path, source=EVIL))
    parsed = Page(page)
    assert parsed.tags.count("script") == page.lower().count("<script") == OWN_SCRIPTS
    assert EVIL in "".join(parsed.text)
    # table of sources, rejected place and reason, removed rows
    assert page.count("&lt;script&gt;alert(&#39;source&#39;)&lt;/script&gt;") >= 4


def test_dollar_signs_in_a_name_are_no_formula(tmp_path):
    assert "cost $x^$ each" in "".join(Page(render(report_data(tmp_path, source="cost $x^$ each"))).text)


def test_every_figure_has_a_name_for_who_cannot_see_it(tmp_path):
    page = render(report_data(tmp_path, source=EVIL))
    names = re.findall(r'<figure role="img" aria-label="([^"]+)">', page)
    assert len(names) == page.count("<figure") == len(set(names))
    assert "Loss of each domain, bids" in names


def test_rows_and_steps_left_out_of_training_are_said_and_escaped(tmp_path):
    data = report_data(tmp_path)
    lost = step_records(4, skipped=True, ids=[EVIL, "r2", "r3", "r4"], losses=np.array([np.nan, 2.0, 3.0, 3.0]))
    page = render(replace(data, arms=[replace(data.arms[0], mixture=lost)]))
    text = "".join(Page(page).text)
    assert "4 step(s) were skipped" in text and f"did not count there ({EVIL})" in text
    assert page.lower().count("<script") == OWN_SCRIPTS
    assert "were skipped" not in render(data)


def test_a_name_in_the_configuration_is_escaped(tmp_path):
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    folder.mkdir()
    page = render(report_data(tmp_path, config=config(tmp_path, model=str(folder))))
    assert "img" not in Page(page).tags


@pytest.mark.parametrize("metric", [ACCURACY, BITS_PER_BYTE], ids=["higher is better", "lower is better"])
@pytest.mark.parametrize("shift", [0.2, -0.2])
def test_the_headline_counts_only_clear_differences(tmp_path, metric, shift):
    compared = comparison(metric, shift)
    (sentence,) = headline(compared)
    difference = compared.tables[0].difference("bids", "random", "code").interval
    assert difference.low <= 0 <= difference.high
    clear = "better on 1, worse on 0" if (shift > 0) == metric.higher_is_better else "better on 0, worse on 1"
    assert clear in sentence
    assert "not clearly different on 1 of 2 capabilities" in sentence


def test_an_interval_with_zero_in_it_is_never_called_better(tmp_path):
    compared = comparison(shift=0.0)
    data = report_data(tmp_path, compared=compared)
    assert {d.verdict for d in compared.tables[0].differences} == {"no clear difference"}
    (sentence,) = headline(data.comparison)
    assert "is better on 0, worse on 0 and not clearly different on 2 of 2" in sentence
    assert "on average no clear difference (" in sentence
    cells = re.findall(r'<span class="(\w+)">[+-]\d', render(data))
    assert cells
    assert set(cells) == {"unclear"}


def test_without_a_control_nothing_is_claimed(tmp_path):
    compared = compare([(ACCURACY, scores_by_capability({"bids": scores(0.0)}))], [], resamples=200, seed=1)
    data = report_data(tmp_path, compared=compared)
    assert headline(data.comparison) == []
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


def test_the_page_shows_what_encoding_left_and_what_the_rows_are_like(tmp_path):
    page = render(report_data(tmp_path, source=EVIL))
    assert "7 × end of turn not trained" in page and "55 (5.2 %)" in page
    assert '12.5 % <span class="interval">[5.0 %, 25.0 %]</span>' in page
    assert '0.938 <span class="interval">[0.875, 1.000]</span>' in page
    assert "higher: the prompt helps the base model less" in page
    assert "loss of the answer" not in page  # no group has that figure
    assert EVIL not in page
