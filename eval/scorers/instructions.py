"""Score an answer by the instructions in its prompt that can be verified: IFEval's 25 kinds, by lm-eval's own checkers.

Our own reading of "at least three sections" would give numbers that compare with nobody's, so lm-eval's code is called.
It wants nltk's learned sentence splitter (`punkt`) and downloads it when it is imported; where that is not on disk,
no download is tried, and an unlearned Punkt with a list of common abbreviations takes its place. It serves two of the
25 kinds alone, the count of sentences and the count of words in capitals, and differs from the learned one where
abbreviations are rare. Language detection, random in its origin, has a fixed seed.
Cost: lm-eval's imports (5 to 30 s in a new process), then about 10 ms per answer. Strict looks at the answer as it is,
loose also at what it is without its first line, its last line and its asterisks.
"""

from __future__ import annotations

import os
from functools import cache
from types import SimpleNamespace
from typing import Any

from eval.errors import EvaluationError
from eval.scorers.base import Document, Metrics, Scorer, each, read_checks, wrong_item

_ABBREVIATIONS = (
    "a.m al apr approx assn aug ave blvd capt cf cmdr co col corp dec dept dr e.g ed est etc feb fig gen gov hon i.e "
    "inc jan jr lt ltd maj messrs mr mrs ms mt no nov oct p.m ph.d pp prof rep rev sen sept sgt sr st u.k u.n u.s "
    "u.s.a vol vs"
)


def _offline(utilities: Any) -> None:
    """Give lm-eval's checkers a sentence splitter and a word splitter that need no file."""
    import nltk
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = set(_ABBREVIATIONS.split())
    sentences, words = PunktSentenceTokenizer(parameters), NLTKWordTokenizer()

    def word_tokenize(text: str) -> list[str]:
        return [word for sentence in sentences.tokenize(text) for word in words.tokenize(sentence)]

    # in that module alone; nltk itself stays as it is for others
    utilities.nltk = SimpleNamespace(tokenize=nltk.tokenize, data=nltk.data, word_tokenize=word_tokenize)
    utilities._get_sentence_tokenizer = lambda: sentences


@cache
def _checkers() -> Any:
    """lm-eval's module of checks, imported without a download. Raises `EvaluationError` when a package is missing."""
    rank = os.environ.get("LOCAL_RANK")
    try:
        import langdetect
        import nltk

        try:
            nltk.data.find("tokenizers/punkt_tab")
            learned = True
        except LookupError:
            learned = False
            os.environ["LOCAL_RANK"] = "1"  # all but the first of several processes leave the download to that one
        from lm_eval.tasks.ifeval import instructions_util, utils
    except ImportError as error:
        raise EvaluationError(
            f"the scorer instructions needs {error.name or error}: install langdetect, immutabledict and nltk "
            "(the packages of `lm-eval[ifeval]`)"
        ) from error
    finally:
        if rank is None:
            os.environ.pop("LOCAL_RANK", None)
        else:
            os.environ["LOCAL_RANK"] = rank
    langdetect.DetectorFactory.seed = 0
    if not learned:
        _offline(instructions_util)
    return utils


def follows(doc: Document, answer: str) -> tuple[list[bool], list[bool]]:
    """Whether each instruction of the item is followed: strictly, and loosely."""
    checks = read_checks(doc, "instructions", "instruction_id_list", "kwargs")
    names, arguments = checks["instruction_id_list"], checks["kwargs"]
    checkers = _checkers()
    unknown = set(names) - set(checkers.instructions_registry.INSTRUCTION_DICT)
    if unknown or not names or len(names) != len(arguments):
        problem = f"unknown instructions {', '.join(sorted(unknown))}" if unknown else "instructions and kwargs differ"
        raise wrong_item(doc, "instructions", problem)
    given = checkers.InputExample(
        key=0,
        instruction_id_list=names,
        prompt=doc["prompt"],
        kwargs=[{key: value for key, value in one.items() if value is not None} for one in arguments],
    )
    strict = checkers.test_instruction_following_strict(given, answer)
    loose = checkers.test_instruction_following_loose(given, answer)
    return strict.follow_instruction_list, loose.follow_instruction_list


def _score(doc: Document, answer: str) -> Metrics:
    strict, loose = follows(doc, answer)
    return {
        "prompt_strict": float(all(strict)),
        "prompt_loose": float(all(loose)),
        "instructions_strict": sum(strict) / len(strict),
        "instructions_loose": sum(loose) / len(loose),
    }


INSTRUCTIONS = Scorer(
    "instructions", ("prompt_strict", "prompt_loose", "instructions_strict", "instructions_loose"), each(_score)
)
