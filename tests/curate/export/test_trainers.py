"""Turns as trainers want them: nothing is lost when neighbours are joined."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from curate.export.trainers import BETWEEN_RESULTS, alternating, write_trainer_files
from curate.records import Example, Message, messages_problem

ROLES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def turns(letters: str) -> tuple[Message, ...]:
    return tuple(Message(ROLES[letter], f"{letter}{number}") for number, letter in enumerate(letters))


def shape(messages) -> str:
    return "".join(message.role[0] for message in messages)


def test_alternating_rows_stay_as_they_are():
    for letters in ("ua", "sua", "uatata", "suaua", "au" * 3):
        assert alternating(turns(letters)) == turns(letters)


def test_neighbours_of_one_side_are_joined():
    assert alternating(turns("uatta"))[2] == Message("tool", f"t2{BETWEEN_RESULTS}t3")
    assert alternating(turns("ssua"))[0] == Message("system", "s0\n\ns1")
    assert alternating(turns("uasua"))[2] == Message("user", "s2\n\nu3")
    assert alternating(turns("uasa"))[2] == Message("user", "s2")
    assert alternating(turns("uatua"))[2] == Message("user", "t2\n\nu3")
    assert shape(alternating(turns("uuaa"))) == "ua"


@given(st.text(alphabet="suat", min_size=1, max_size=12))
def test_any_conversation_alternates_afterwards_and_keeps_every_turn(letters):
    raw = [{"role": message.role, "content": message.content} for message in turns(letters)]
    if messages_problem(raw):
        return
    result = alternating(turns(letters))
    body = shape(result).removeprefix("s")
    assert "s" not in body
    sides = [letter == "a" for letter in body]
    assert all(one != two for one, two in pairwise(sides)) and sides[-1]
    everything = "|".join(message.content for message in result)
    places = [everything.index(message.content) for message in turns(letters)]
    assert places == sorted(places)


def write(folder, *conversations: str):
    examples = [
        Example(str(number), "s", turns(letters), license="MIT", domain="d", origin="f:1")
        for number, letters in enumerate(conversations)
    ]
    return write_trainer_files(folder, examples, "set")


def test_only_rows_that_need_it_get_a_second_file(tmp_path):
    told = write(tmp_path, "ua", "suata")
    assert (told.llama_factory_file, told.joined, told.skipped) == ("chat.jsonl", 0, 0)
    assert not (tmp_path / "chat-alternating.jsonl").exists()
    told = write(tmp_path, "ua", "uatta", "aua")
    assert (told.llama_factory_file, told.joined, told.skipped) == ("chat-alternating.jsonl", 1, 1)
    lines = (tmp_path / "chat.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["messages"]) for line in lines] == [2, 5, 3]
    lines = (tmp_path / "chat-alternating.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["messages"]) for line in lines] == [2, 4, 3]
    assert json.loads((tmp_path / "dataset_info.json").read_text())["set"]["file_name"] == "chat-alternating.jsonl"
