"""What the filters are told: one frozen model per filter, collected in `CleaningSettings`, `data.cleaning` in a run.

A filter that is null is off, and `{}` switches it on with its defaults; all but `near_match` are off unless named.
Exact duplicates and overlaps with targets and evaluation items are always removed and have no settings. Models must
exist and languages be known when the settings are read, not after an hour.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from curate.cleaning.balance import ALPHA, RATIO
from curate.local_or_hub import existing_or_hub
from train.names import nearest
from train.settings import Settings

Grouping = Literal["source", "domain", "language"]
Kind = Literal["key", "email", "iban", "card", "ip", "phone"]
Threshold = Annotated[float, Field(gt=0, le=1)]
ModelPath = Annotated[str, AfterValidator(existing_or_hub)]


class NearMatchSettings(Settings):
    threshold: Threshold = Field(0.8, description="Jaccard similarity of word triples from which a prompt is leaked")


class LanguageSettings(Settings):
    wanted: list[str] = Field(
        min_length=1, description="ISO 639 codes of the languages that stay, such as [en, de]; unknown always stays"
    )

    @field_validator("wanted")
    @classmethod
    def _known(cls, wanted: list[str]) -> list[str]:
        from curate.cleaning.language import known_languages

        known = known_languages()
        if unknown := [f"no language code {code!r}{nearest(code, known)}" for code in wanted if code not in known]:
            raise ValueError("\n".join([*unknown, f"known: {', '.join(known)}"]))
        return wanted


class DetectionSettings(Settings):
    min_letters: int = Field(40, ge=1, description="a text of fewer letters is of unknown language")
    min_probability: float = Field(0.7, ge=0, le=1, description="a text with a less sure language is of unknown one")


class QualitySettings(Settings):
    min_characters: int | None = Field(None, ge=1, description="least characters of a row's answers; null: any")
    max_characters: int | None = Field(None, ge=1, description="most characters of a row's answers; null: any")
    min_words: int | None = Field(None, ge=1, description="least words of a row's answers; null: any")
    max_words: int | None = Field(None, ge=1, description="most words of a row's answers; null: any")
    max_repeated_lines: Threshold | None = Field(
        0.5, description="largest share of characters in lines that repeat an earlier one, of 4 lines or more"
    )
    ngram: int = Field(5, ge=1, le=50, description="words of a run whose repetition is counted")
    max_repeated_ngrams: Threshold | None = Field(
        0.4, description="largest share of runs of words that repeat an earlier one, of 50 words or more"
    )
    max_symbols: Threshold | None = Field(
        0.7, description="largest share of punctuation and symbols, of 100 characters or more; code has some 0.25"
    )
    truncated_from: int | None = Field(
        400, ge=1, description="characters from which an answer that ends within a sentence is cut off; null: unchecked"
    )
    refusals: bool = Field(True, description="remove answers that open with a refusal (list in curate/cleaning)")
    equalise: Grouping | None = Field(
        None, description="remove the same share of every source, domain or language, those with the worst measures"
    )

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> Self:
        for what in ("characters", "words"):
            least, most = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if least is not None and most is not None and least > most:
                raise ValueError(f"min_{what} {least} is above max_{what} {most}; no answer could be both")
        return self


class PersonalDataSettings(Settings):
    action: Literal["mask", "drop"] = Field(
        "mask", description="mask: put a placeholder such as [EMAIL] there; drop: remove the row"
    )
    kinds: list[Kind] = Field(
        ["key", "email", "iban", "card", "ip", "phone"], min_length=1, description="what is looked for"
    )
    phone_regions: list[str] = Field(
        [], description="ISO 3166 countries whose national phone numbers count, such as [US, DE]; +… always does"
    )

    @field_validator("phone_regions")
    @classmethod
    def _known(cls, regions: list[str]) -> list[str]:
        from phonenumbers import SUPPORTED_REGIONS

        if unknown := [f"no region {name!r}{nearest(name, SUPPORTED_REGIONS)}" for name in regions
                       if name not in SUPPORTED_REGIONS]:  # fmt: skip
            raise ValueError("\n".join(unknown))
        return regions


class ModelFilterSettings(Settings):
    """What filters with a model of their own share."""

    model: ModelPath = Field(description="folder or hub id of the model")
    max_length: int = Field(512, ge=8, description="tokens of a window; a longer text is read in several")
    tokens_per_batch: int = Field(8192, ge=8, description="padded tokens of a forward pass; does not change the result")
    equalise: Grouping | None = Field(
        None, description="remove the same share of every source, domain or language, those with the highest scores"
    )


class ToxicitySettings(ModelFilterSettings):
    thresholds: dict[str, Threshold] = Field(
        min_length=1, description="label of the classifier -> probability from which a row is removed"
    )


class NearDuplicatesSettings(Settings):
    threshold: Threshold = Field(0.8, description="Jaccard similarity of word triples from which rows are duplicates")


class SemanticDuplicatesSettings(ModelFilterSettings):
    threshold: Threshold = Field(0.95, description="cosine of mean-pooled embeddings from which rows are duplicates")


class BalanceSettings(Settings):
    by: list[Grouping] = Field(
        ["source", "domain"], description="groupings whose removal rates are counted; language costs its detection"
    )
    ratio: float = Field(RATIO, gt=1, description="a flagged group loses at least so many times the others' share")
    alpha: float = Field(ALPHA, gt=0, lt=1, description="largest corrected p-value of a flag")


class CleaningSettings(Settings):
    """In the order in which they run."""

    near_match: NearMatchSettings | None = Field(
        NearMatchSettings(), description="rows that nearly are a target or evaluation item; null: only longer overlaps"
    )
    language: LanguageSettings | None = Field(None, description="rows in a language that is not wanted")
    quality: QualitySettings | None = Field(None, description="answers that are broken, cut off or refused")
    personal_data: PersonalDataSettings | None = Field(None, description="addresses, numbers and keys in the rows")
    toxicity: ToxicitySettings | None = Field(None, description="rows that a classifier finds toxic")
    near_duplicates: NearDuplicatesSettings | None = Field(None, description="rows that are nearly an earlier one")
    semantic_duplicates: SemanticDuplicatesSettings | None = Field(
        None, description="rows whose embedding is nearly an earlier row's"
    )
    detection: DetectionSettings = DetectionSettings()
    balance: BalanceSettings = BalanceSettings()

    @property
    def needs_languages(self) -> bool:
        """Whether a filter or a count goes by language."""
        groupings = {step.equalise for step in (self.quality, self.toxicity, self.semantic_duplicates) if step}
        return self.language is not None or "language" in {*groupings, *self.balance.by}

    @property
    def groupings(self) -> list[Grouping]:
        """Those whose removal rates are counted: languages too where they are known anyway."""
        return list(dict.fromkeys([*self.balance.by, *(("language",) if self.needs_languages else ())]))
