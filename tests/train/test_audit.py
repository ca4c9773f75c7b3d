"""train.audit: the sums over rows, and what stops a run."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.tiny import make_tokenizer
from train.audit import AuditError, RowAudit, check, in_words, summary, worth_telling, write_audit
from train.encoding import encode_audited
from train.rendering import Finding
from train.settings import AuditSettings

FILE = Path("audit.parquet")
LENGTH = 40
ALPHABET = "a b c d e f g h i j k l m n o p q r s t u v w x y z"


def row(name, source, answer, question="Why?"):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": name, "source": source, "messages": turns}


@pytest.fixture(scope="module")
def audited():
    """Two sources: `short` fits, of `long` one answer is cut and one is lost whole."""
    rows = [
        row("a", "short", "Yes."),
        row("b", "long", ALPHABET),
        row("c", "long", "Yes.", question="x " * LENGTH),
        row("d", "short", "No."),
    ]
    encoded, audits = encode_audited(rows, make_tokenizer(), LENGTH)
    assert [one.id for one in encoded] == ["a", "b", "d"]
    return encoded, audits


def test_every_row_and_every_label_is_accounted_for(audited):
    encoded, audits = audited
    whole, _ = encode_audited(
        [
            row("b", "long", ALPHABET),
            row("c", "long", "Yes.", "x " * LENGTH),
        ],
        make_tokenizer(),
        10_000,
    )
    sums = summary(audits)
    assert sums["rows_in"] == sums["rows"] + sums["excluded_rows"] == 4
    assert sums["tokens"] == sum(len(one.input_ids) for one in encoded)
    assert sums["trained_tokens"] == sum(one.trained_tokens for one in encoded)
    long, short = sums["sources"]["long"], sums["sources"]["short"]
    assert long["trained_tokens"] + long["lost_labels"] == sum(one.trained_tokens for one in whole)
    assert long["lost_share"] == long["lost_labels"] / (long["trained_tokens"] + long["lost_labels"]) > 0
    assert (long["truncated_rows"], long["excluded_rows"]) == (2, 1)
    assert long["findings"] == {Finding.CUT_AWAY.value: 1}
    assert (short["lost_labels"], short["truncated_rows"], short["findings"]) == (0, 0, {})
    for key in ("rows_in", "rows", "tokens", "trained_tokens", "lost_labels", "truncated_rows", "mismatched_rows"):
        assert sums[key] == long[key] + short[key]


def test_largest_source_first_and_ties_by_name():
    rows = [RowAudit(str(i), source, 4, 2, 0, False) for i, source in enumerate("zbbaz")]
    assert list(summary(rows)["sources"]) == ["b", "z", "a"]


def test_the_table_has_every_row(audited, tmp_path):
    write_audit(tmp_path / FILE, {"pool": audited[1], "targets": audited[1][:1]})
    rows = pq.read_table(tmp_path / FILE).to_pylist()
    assert [(r["part"], r["id"]) for r in rows] == [("pool", n) for n in "abcd"] + [("targets", "a")]
    assert rows[2]["findings"] == [Finding.CUT_AWAY.value] and rows[2]["excluded"].startswith(Finding.CUT_AWAY.value)


def test_limits_that_hold_stop_nothing(audited):
    sums = summary(audited[1])
    limits = AuditSettings(min_rows=0.75, max_lost_labels=sums["lost_share"], max_mismatched=0)
    check({"pool": sums}, limits, LENGTH, FILE)


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ({"min_rows": 0.8}, r"3 of 4 rows are left \(75.0%; audit.min_rows is 80.0%\)"),
        ({"max_lost_labels": 0.1}, r"\d+ of the answers' \d+ tokens are beyond max_length 40 .*raise max_length"),
    ],
)
def test_a_passed_limit_stops_with_the_figures_of_each_source(audited, limit, told):
    with pytest.raises(AuditError, match=told) as stopped:
        check({"pool": summary(audited[1])}, AuditSettings(**{"max_lost_labels": 1, **limit}), LENGTH, FILE)
    lines = str(stopped.value).splitlines()
    assert any(line.strip().startswith("long: 2 rows, 1 left") for line in lines)
    assert any(line.strip().startswith("short: 2 rows, 2 left") for line in lines)
    assert str(FILE) in str(stopped.value) and "`audit`" in str(stopped.value)


def test_a_template_that_never_ends_an_answer_stops():
    """The template of another model, whose end of turn this tokenizer does not have."""
    tokenizer = make_tokenizer(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + ' ' + m.content + '<|im_end|>' }}{% endfor %}"
        "{{ '<|im_start|>assistant ' if add_generation_prompt }}"
    )
    _, audits = encode_audited([row(str(i), "web", "Yes, it is.") for i in range(5)], tokenizer, 512)
    with pytest.raises(AuditError, match=r"does not do with 5 of 5 rows what they say .*\n.*5 rows: end of turn"):
        check({"pool": summary(audits)}, AuditSettings(), 512, FILE)


def test_nothing_left_always_stops():
    audits = [RowAudit("a", "web", 0, 0, 3, True, (Finding.CUT_AWAY,), excluded="cut")]
    with pytest.raises(AuditError, match=r"the targets:\n.*0 of 1 rows are left"):
        check({"targets": summary(audits)}, AuditSettings(min_rows=0, max_lost_labels=1), 8, FILE)


def test_only_what_is_off_is_told(audited):
    sources = summary(audited[1])["sources"]
    assert worth_telling(sources["long"]) and not worth_telling(sources["short"])
    assert "lost by truncation" in in_words(sources["long"]) and "lost" not in in_words(sources["short"])
