"""The filters together: their order, what is off by default, languages, the likeness filters, and `cleaning.json`."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from curate.cleaning import NearDuplicates, NearMatch, Reference
from curate.cleaning.language import Language, detect_languages
from curate.cleaning.settings import CleaningSettings
from curate.cleaning.steps import libraries_of, run_filters, write_cleaning
from curate.records import Example, Message

WORDS = [f"word{k}" for k in range(60)]
GERMAN = "Der Fluss entspringt in den Bergen und erreicht nach einem langen Weg durch die Ebene endlich das Meer."
ENGLISH = "The river rises in the hills and reaches the sea at last after a long way through the wide plain."


def example(row_id, user, answer="ok", source="src", domain="d"):
    return Example(row_id, source, (Message("user", user), Message("assistant", answer)), "MIT", domain, f"f:{row_id}")


def ids(rows):
    return [row.id for row in rows]


def edited(words, *places):
    return " ".join("other" if k in places else word for k, word in enumerate(words))


def test_near_duplicates_keep_the_first_and_name_it():
    rows = [example("a", " ".join(WORDS)), example("b", "something else"), example("c", edited(WORDS, 30))]
    kept, removed = NearDuplicates(0.8)(rows)
    assert ids(kept) == ["a", "b"]
    # 59 triples of 61 words each, of which three differ
    assert (removed[0].id, removed[0].matched_id) == ("c", "a")
    assert removed[0].reason == "Jaccard similarity 0.90 with the first row of its cluster"


def test_a_nearly_same_prompt_is_found_in_any_turn_and_shown():
    reference = Reference("item", ("Before.", " ".join(WORDS[:40])))
    long = Message("user", edited(WORDS[:40], 9))
    later = (Message("user", "hello"), Message("assistant", "x"), long, Message("assistant", "y"))
    rows = [
        Example("a", "src", later, "MIT", "d", "f:1"),
        example("b", edited(WORDS[:40], 3, 10, 17, 24, 31)),
        example("c", "Before."),
    ]
    kept, removed = NearMatch([reference], 0.8)(rows)
    assert ids(kept) == ["b", "c"]
    assert removed[0].matched_id == "item"
    assert removed[0].reason.startswith("Jaccard similarity 0.85 with a prompt: word0 word1 word2")


def test_languages_that_are_not_wanted_go_and_unknown_stays():
    rows = [example("de", GERMAN, GERMAN), example("en", ENGLISH, ENGLISH), example("short", "Ja?", "Nein.")]
    rows.append(example("code", "Hi", f"```\n{GERMAN}\n```"))
    languages = detect_languages(rows, min_letters=40, min_probability=0.7)
    assert languages == {"de": "de", "en": "en", "short": "unknown", "code": "unknown"}
    kept, removed = Language(["en"], languages)(rows)
    assert ids(kept) == ["en", "short", "code"] and removed[0].reason == "language de is not wanted"


def test_nothing_new_runs_unless_it_is_switched_on():
    rows = [example("a", " ".join(WORDS)), example("b", edited(WORDS, 30))]
    rows.append(example("c", "mail a@b.org", "I cannot assist"))
    cleaned, rates = run_filters(rows, [], CleaningSettings())
    assert cleaned.kept == rows and cleaned.changed == []
    assert [step.filter for step in cleaned.steps] == [
        "exact_duplicates",
        "target_overlap",
        "word_run_overlap",
        "near_match",
    ]
    assert {(rate.by, rate.group) for rate in rates} == {("source", "src"), ("domain", "d")}
    assert libraries_of(CleaningSettings()) == {}


ALL = {
    "near_match": {},
    "language": {"wanted": ["en"]},
    "quality": {},
    "personal_data": {},
    "near_duplicates": {},
}


def test_order_and_accounts_of_all_filters(tmp_path):
    body = " ".join(f"{word}, and so on." for word in WORDS[:30])
    rows = [
        example("refused", f"{body} first", "I cannot assist with that."),
        example("kept", f"{body} first", "Write to one@mail.org."),
        example("like-it", f"{body} first", "Write to two@mail.org."),
        example("german", GERMAN, GERMAN),
        example("english", ENGLISH, ENGLISH, source="other"),
    ]
    settings = CleaningSettings.model_validate(ALL)
    cleaned, rates = run_filters(rows, [Reference("item", (edited(WORDS, 1),))], settings)
    assert ids(cleaned.kept) == ["kept", "english"]
    # a refusal is no reason to lose the row that is like it; two that differ in an address only are one when masked
    assert [(row.id, row.filter, row.matched_id) for row in cleaned.removed] == [
        ("german", "language", ""),
        ("refused", "quality", ""),
        ("like-it", "near_duplicates", "kept"),
    ]
    assert [row.id for row in cleaned.changed] == ["kept", "like-it"]
    assert set(libraries_of(settings)) == {"py3langid", "phonenumbers", "detect-secrets"}
    write_cleaning(tmp_path / "cleaning.json", cleaned, rates, settings)
    told = json.loads((tmp_path / "cleaning.json").read_text())
    steps = {step["filter"]: step for step in told["filters"]}
    assert list(steps) == [
        *("exact_duplicates", "target_overlap", "word_run_overlap", "near_match", "language", "quality"),
        *("personal_data", "near_duplicates"),
    ]
    assert (steps["personal_data"]["changed"], steps["personal_data"]["masked"]) == (2, {"email": 2})
    assert (steps["quality"]["seen"], steps["quality"]["removed"], steps["quality"]["rate"]) == (4, 1, 0.25)
    groups = {(row["by"], row["group"]): row for row in steps["language"]["groups"]}
    assert groups["language", "de"]["rate"] == 1.0 and groups["language", "de"]["ratio"] is None
    assert groups["source", "src"]["seen"] == 4 and groups["source", "other"]["removed"] == 0


@pytest.mark.parametrize("step", [2, 3])
def test_every_second_run_gives_the_same(step):
    rows = [example(f"r{k}", edited(WORDS, k % step), f"mail{k}@host.org") for k in range(12)]
    settings = CleaningSettings.model_validate(ALL | {"language": None})
    first, second = (run_filters(rows, [], settings) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"qualty": {}}, "qualty"),
        ({"language": {"wanted": ["eng"]}}, "no language code 'eng', did you mean 'en'?"),
        ({"language": {"wanted": []}}, "at least 1 item"),
        ({"personal_data": {"phone_regions": ["UK"]}}, "no region 'UK'"),
        ({"quality": {"min_words": 9, "max_words": 3}}, "min_words 9 is above max_words 3"),
        ({"toxicity": {"model": "no/such/folder", "thresholds": {"x": 0.5}}}, "no such file or folder"),
        ({"near_duplicates": {"threshold": 0}}, "greater than 0"),
    ],
)
def test_settings_that_cannot_be_run(values, told):
    with pytest.raises(ValidationError) as caught:
        CleaningSettings.model_validate(values)
    assert told in str(caught.value)
