"""How rows for distillation are generated from the rows of train."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from compression.schema.config import Config
from compression.schema.tasks import TASKS

AUGMENTED_TASKS = frozenset(name for name, task in TASKS.items() if task.augmentable)
"""Tasks whose rows have one label for the whole text. In other tasks words cannot move: the labels are positions in the
text."""
HelperName = Annotated[
    str,
    Field(
        max_length=100,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="A folder of the worker's helper models (LATHE_HELPER_MODELS): stock files, safetensors.",
    ),
]


class Synonyms(Config):
    """Replace some words with others: TinyBERT's augmentation (Jiao et al. 2020, algorithm 1)."""

    source: Literal["auto", "wordnet", "masked-lm", "embeddings"] = "auto"
    """Where other words come from. wordnet: synonyms of the worker's WordNet folder (LATHE_WORDNET). masked-lm: a masked
    language model's predictions; of words of several pieces, its embedding neighbours. embeddings: whole words nearest in the
    teacher's own input table. auto: wordnet where the worker has it, else embeddings; the row's notes say which."""
    share: Annotated[float, Field(gt=0, le=1, description="Chance of each word to be replaced; one of a row always is.")] = 0.4
    candidates: Annotated[int, Field(ge=1, le=1000, description="Words of which one is drawn, the best so many.")] = 15
    model: HelperName | None = None
    """The masked language model of masked-lm, a helper model's name; null: the base model's own head."""

    @model_validator(mode="after")
    def _a_model_is_of_use(self) -> "Synonyms":
        if self.model is not None and self.source != "masked-lm":
            raise ValueError("model is for the source masked-lm alone")
        return self


class BackTranslation(Config):
    """Translate a text into another language and back (Sennrich et al. 2016; Edunov et al. 2018)."""

    models: tuple[HelperName, HelperName] | None = None
    """Two translation models (MarianMT and alike), there and back, by their helper models' names."""
    apertium: Annotated[str | None, Field(pattern=r"^[a-z]{2,3}(_[A-Za-z]+)?-[a-z]{2,3}(_[A-Za-z]+)?$")] = None
    """An Apertium pair that the worker has, there; it must have the way back too. For example eng-spa."""
    optional: bool = False
    """Leave back-translation and its copy out where the worker lacks it; the row's notes say so."""

    @model_validator(mode="after")
    def _one_of_the_two(self) -> "BackTranslation":
        if (self.models is None) == (self.apertium is None):
            raise ValueError("name either models or apertium")
        return self


class Augment(Config):
    """Rows generated from train once, before distillation; only the teacher labels them."""

    copies: Annotated[int, Field(ge=1, le=50)] = 1
    """Rows made of each row: the first by back-translation, if asked for; others by synonyms."""
    synonyms: Synonyms | None = None
    back_translation: BackTranslation | None = None
    splices: Annotated[int, Field(ge=0, le=50)] = 0
    """Further rows made of each row, by putting another row's text before or behind its own. Of pairs, half get another row's
    second text in the place of their own."""

    @property
    def rows(self) -> int:
        """The number of rows generated from each row."""
        return self.splices + (self.copies if self.synonyms is not None or self.back_translation is not None else 0)

    @model_validator(mode="after")
    def _each_copy_has_its_maker(self) -> "Augment":
        if self.synonyms is None and self.back_translation is None:
            if not self.splices:
                raise ValueError("name synonyms, back_translation or splices")
            if self.copies > 1:
                raise ValueError("copies are made by synonyms and back_translation: name one of them, or leave copies out")
        elif self.synonyms is None and self.copies > 1:
            raise ValueError("back-translation makes one copy of a row: copies is 1, or synonyms make the others")
        if self.synonyms is not None and self.back_translation is not None and self.copies == 1:
            raise ValueError("back-translation makes the first copy: synonyms need copies of at least 2")
        return self
