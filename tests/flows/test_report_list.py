"""The list of selected rows as data: nothing breaks out of its script element, and what is cut is counted."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.records import write_examples
from curate.selection import METHODS
from flows.report.browser import MAX_CHARACTERS, embed, safe_json
from flows.report.data import Pick, read_conversations, read_picks
from flows.report.layout import arrange
from flows.report.page import render
from flows.report.reason_words import WORDS, ordinal, reason
from flows.report.summary import key_figures, outcomes, sentence
from flows.stages.analysis import confidence_file, neighbours_file
from flows.stages.data import POOL
from flows.stages.selection import SELECTION
from tests.flows.report_values import comparison, conversation, report_data

HOSTILE = "</script><script>alert(1)</script><!-- <script> ]]> &lt; \u2028\u2029 \\u003c \" ' 字 \x07"


def arms(tmp_path, counts=(3, 2)):
    """`bids` and `random` with so many picks; they share their first rows."""
    found = report_data(tmp_path).arms
    return [
        replace(
            arm,
            picks=[Pick(f"row-{k}", "trivia", f"t{k}", "math", 1.5, 0.5, [("row-0", 0.25)]) for k in range(count)],
        )
        for arm, count in zip(found, counts, strict=True)
    ]


def test_hostile_text_comes_back_as_it_was_and_never_as_markup():
    text = safe_json({"a": HOSTILE})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"a": HOSTILE}
    with pytest.raises(ValueError):
        safe_json(float("nan"))


def test_a_hostile_conversation_stays_inside_its_script_element(tmp_path):
    data = report_data(tmp_path, conversations={"row-1": conversation("row-1", question=HOSTILE, license=HOSTILE)})

    class Scripts(HTMLParser):
        inside, texts = False, ()

        def handle_starttag(self, tag, attributes):
            self.inside = tag == "script" and ("id", "picks") in attributes

        def handle_data(self, text):
            self.texts += (text,) * self.inside

        def handle_endtag(self, tag):
            self.inside = False

    parser = Scripts()
    parser.feed(render(data))
    found = json.loads("".join(parser.texts))
    assert found["rows"][0]["turns"][0] == ["user", HOSTILE]
    assert found["rows"][0]["license"] == HOSTILE


def test_a_row_that_two_methods_took_is_embedded_once_and_names_both(tmp_path):
    found = json.loads(embed(arms(tmp_path), {"row-0": conversation("row-0")}).json)
    assert [row["id"] for row in found["rows"]] == ["row-0", "row-1", "row-2"]
    assert found["rows"][1]["methods"] == [[0, 2], [1, 2]]
    assert [(pick["method"], pick["rank"]) for pick in found["picks"]] == [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3)]
    assert found["rows"][0]["turns"] and found["rows"][1]["turns"] == []
    assert found["picks"][0]["near"] == ["row-0", 0.25]


def test_rows_and_bytes_are_capped_by_rank_and_the_page_says_so(tmp_path):
    many = arms(tmp_path, (40, 40))
    capped = embed(many, {}, max_rows=7)
    assert (capped.shown, capped.total) == (7, 80)
    assert max(pick["rank"] for pick in json.loads(capped.json)["picks"]) == 4
    small = embed(many, {}, max_bytes=3_000)
    assert 0 < small.shown < 80 and len(small.json.encode()) < 3_200
    assert json.loads(small.json)["picks"] == json.loads(embed(many, {}, max_rows=small.shown).json)["picks"]


def test_a_large_selection_still_makes_a_small_page(tmp_path):
    long = {f"row-{k}": conversation(f"row-{k}", answer="<code> " * 1_000) for k in range(1_500)}
    page = render(replace(report_data(tmp_path), arms=arms(tmp_path, (1_500, 1_500)), conversations=long))
    assert re.search(r"the first [\d,]+ of 3,000 picks", " ".join(page.split()))
    assert 2_000_000 < len(page.encode()) < 5_000_000


def test_a_long_conversation_is_cut_and_the_rest_counted(tmp_path):
    long = conversation("row-0", question="q" * 10, answer="a" * (MAX_CHARACTERS + 90))
    (row,) = json.loads(embed(arms(tmp_path, (1, 0)), {"row-0": long}).json)["rows"]
    assert sum(len(text) for _, text in row["turns"]) == MAX_CHARACTERS
    assert row["left"] == 100


def test_picks_and_their_texts_come_from_the_stages_files(tmp_path):
    for name in ("clean", "select", "analysis"):
        (tmp_path / name).mkdir()
    write_examples(tmp_path / "clean" / POOL, [conversation(f"row-{k}") for k in range(9)])
    order = {"id": ["row-7", "row-2"], "source": ["trivia"] * 2, "target": ["t1", None], "task": ["math", None]}
    pq.write_table(pa.table({**order, "utility": [1.5, None]}), tmp_path / "select" / SELECTION)
    shares = {"id": ["row-2", "row-7"], "share": [0.1, 0.9], "selected": [True, True]}
    pq.write_table(pa.table(shares), tmp_path / "analysis" / confidence_file("bids"))
    near = {"id": ["row-7"], "neighbours": [["row-2"]], "similarity": [[0.5]]}
    pq.write_table(pa.table(near), tmp_path / "analysis" / neighbours_file("bids"))
    picks = read_picks(tmp_path / "select", tmp_path / "analysis", "bids")
    assert picks == [
        Pick("row-7", "trivia", "t1", "math", 1.5, 0.9, [("row-2", 0.5)]),
        Pick("row-2", "trivia", None, None, None, 0.1, []),
    ]
    (arm,) = arms(tmp_path, (1, 0))[:1]
    found = read_conversations(tmp_path / "clean", [replace(arm, picks=picks)])
    assert found == {name: conversation(name) for name in ("row-2", "row-7")}
    assert read_conversations(tmp_path / "clean", [replace(arm, picks=[])]) == {}


def test_every_method_has_words_for_its_reason():
    assert set(WORDS) | {"random"} == set(METHODS)
    for method in WORDS:
        told = reason(method, 12, "m-3", "math", 0.4123, False)
        assert told.startswith("Picked 12th") and "0.412" in told and told.endswith(".")
    assert "m-3" in reason("bids", 1, "m-3", "math", 0.4, False) and "math" in reason(
        "bids", 1, "m-3", "math", 0.4, False
    )
    assert reason("random", 3, None, None, None, False) == "Picked 3rd: drawn at random; no target was looked at."
    assert "asks for it" in reason("bids", 1, "m-3", "math", 0.4, True)
    assert reason("bids", 2, None, None, None, False) == "Picked 2nd by bids."


def test_a_reason_keeps_braces_of_names_as_they_are():
    assert "target {value}" in reason("bids", 1, "{value}", "{task}", 0.4, False)


def test_ordinals():
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111, 1_003)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th", "1,003rd",
    ]  # fmt: skip


@pytest.mark.parametrize("shift", [0.0, 0.6])
def test_a_key_figure_is_coloured_only_when_its_interval_is_clear(shift):
    (figure,) = outcomes(comparison(shift=shift), "bids")
    assert figure.tone == ("better" if shift else "unclear")
    assert ("no clear difference" in figure.detail) == (not shift)
    assert "interval" in figure.detail and figure.name == "bids against random: accuracy (higher is better)"


def test_a_control_has_no_outcome_and_the_head_still_stands(tmp_path):
    data = report_data(tmp_path)
    assert outcomes(data.comparison, "random") == []
    told = sentence(data)
    assert "10 of 100 conversations selected by bids to serve math and code, beside random" in told
    assert [figure.value for figure in key_figures(data)][:3] == ["100", "10", "2"]
    alone = replace(data, arms=data.arms[1:])
    assert "beside" not in sentence(alone) and len(key_figures(alone)) == 3


def test_sections_get_addresses_and_wide_things_boxes():
    body, contents = arrange(
        "<section>\n<h2>What &amp; why</h2><table><tr><th>a</th><th class='number'>b</th></tr></table></section>"
        '<section><h2>What &amp; why</h2><figure aria-label="A figure"><svg></svg></figure></section>'
    )
    assert [entry.address for entry in contents] == ["what-why", "what-why-1"]
    assert all(f'<section id="{entry.address}"' in body for entry in contents)
    assert '<div class="box" role="region" tabindex="0" aria-label="Table: What &amp; why"><table>' in body
    assert '<figure role="img" aria-label="A figure">' in body
    assert body.count('<th scope="col"') == 2
