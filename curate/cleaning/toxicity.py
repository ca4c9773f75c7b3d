"""Removes rows in which a text classifier of the user's choice finds what its label stands for, one threshold a label.

Any `transformers` sequence classifier will do, so that its language, its dimensions and its licence are the user's
decision; none is shipped. Every turn is judged and a row has the largest probability of its turns, since one sentence
is enough. A row's score is its largest probability as a multiple of the label's threshold. Classifiers of toxicity are
known to remove dialects and topics with the insults (arXiv 2410.22587): read the removal rates by group, and see
`equalise`. Cost: a forward pass of every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from curate.cleaning.scored import Equal, ScoredFilter, Verdict
from curate.cleaning.settings import ToxicitySettings
from curate.records import DataError, Example
from train.names import nearest


class Toxicity(ScoredFilter):
    """Loads the classifier when it is made. Raises `DataError` for a threshold of a label that the model has not."""

    name: ClassVar[str] = "toxicity"

    def __init__(self, settings: ToxicitySettings, equal: Equal | None = None):
        from train.models import load_classifier, load_tokenizer

        self._settings, self._equal = settings, equal
        self._model, self._tokenizer = load_classifier(settings.model), load_tokenizer(settings.model)
        labels = {name: int(place) for name, place in self._model.config.label2id.items()}
        if unknown := [f"{name!r}{nearest(name, labels)}" for name in settings.thresholds if name not in labels]:
            known = ", ".join(sorted(labels, key=labels.__getitem__))
            raise DataError(
                f"data.cleaning.toxicity.thresholds: {settings.model} has no label {'; '.join(unknown)} (has: {known})"
            )
        self._labels = {name: labels[name] for name in sorted(settings.thresholds)}

    def _verdicts(self, examples: Sequence[Example]) -> list[Verdict]:
        from curate.cleaning.text_models import label_probabilities

        places = {text: k for k, text in enumerate(dict.fromkeys(m.content for e in examples for m in e.messages))}
        settings = self._settings
        found = label_probabilities(
            self._model, self._tokenizer, list(places), settings.max_length, settings.tokens_per_batch
        )
        verdicts = []
        for example in examples:
            own = found[[places[message.content] for message in example.messages]]
            verdicts.append(self._verdict(example, own))
        return verdicts

    def _verdict(self, example: Example, own: np.ndarray) -> Verdict:
        """own: (turns, L) probabilities of the row's turns."""
        multiples = {name: own[:, k].max() / self._settings.thresholds[name] for name, k in self._labels.items()}
        worst = max(multiples, key=multiples.__getitem__)
        turn = int(own[:, self._labels[worst]].argmax())
        reason = (
            f"{worst} {own[turn, self._labels[worst]]:.4f} in the {example.messages[turn].role}'s turn {turn + 1}, "
            f"threshold {self._settings.thresholds[worst]:g}"
        )
        return Verdict(float(multiples[worst]), bool(multiples[worst] >= 1), reason)
