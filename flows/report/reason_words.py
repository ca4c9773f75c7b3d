"""Why a row was picked, in a sentence a reader without the papers understands: one wording per selection method.

A sentence claims only what the method did: for BIDS the largest gap over what was picked before, for a draw at random
that nothing was looked at. The numbers are the method's own criterion, in its own units, never accuracy.
"""

from __future__ import annotations

# {goal}: the target with its task; {value}: the utility of the pick
WORDS = {
    "bids": "of all rows left it stands furthest above the average of the rows picked before it: "
    "by {value} standard deviations of influence, on {goal}.",
    "weakest_first": "the rows picked before it served {goal} least, and of the rows left this one helps it most "
    "(influence {value} standard deviations above the average row).",
    "less": "its mean influence on one task, {value}, is among the largest; it helps most on {goal}.",
    "sum": "its influence summed over all targets, {value}, is among the largest; it helps most on {goal}.",
    "instance_max": "its influence on one target, {value}, is among the largest: on {goal}.",
    "instance_max_normalized": "its influence on one target is among the largest for that target: {value} standard "
    "deviations above the average row, on {goal}.",
    "equal_quota": "it was the task's turn, and of the rows left this one has the largest mean influence on it, "
    "{value}; it helps most on {goal}.",
    "rds": "the model's inner representation of it is among those most like a target's: cosine {value} with {goal}.",
    "bm25": "its words match one target better than most rows do: {value} standard deviations above the average row, "
    "on {goal}.",
    "dsir": "drawn with a chance that grows with how much its words look like the targets' (log weight with the "
    "draw's noise: {value}).",
}
RANDOM = "drawn at random; no target was looked at."
INCLUDED = "the configuration asks for it by its id."


def reason(method: str, rank: int, target: str | None, task: str | None, utility: float | None, included: bool) -> str:
    """The sentence; rank counts from 1, target, task, utility are None where the method has none."""
    picked = f"Picked {ordinal(rank)}"
    if included:
        return f"{picked}: {INCLUDED}"
    if task is None or utility is None or method not in WORDS:
        return f"{picked}: {RANDOM}" if method == "random" else f"{picked} by {method}."
    words = WORDS[method].format(value=f"{utility:.3g}", goal=f"target {target}")
    return f"{picked}: {words}" if method == "dsir" else f"{picked}, for {task}: {words}"


def ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"
