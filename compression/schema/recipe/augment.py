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
    """Source of the other words. wordnet: synonyms of the worker's WordNet folder (LATHE_WORDNET). masked-lm: predictions of a
    masked language model; for words of several tokens, its embedding neighbours. embeddings: nearest whole words in the
    teacher's token embeddings. auto: wordnet if the worker has it, else embeddings; the row's notes say which."""
    share: Annotated[float, Field(gt=0, le=1, description="Probability of replacing each word; at least one of a row.")] = 0.4
    candidates: Annotated[int, Field(ge=1, le=1000, description="Number of best words of which one is sampled.")] = 15
    model: HelperName | None = None
    """The masked language model of masked-lm, a helper model's name; null: the base model's own head."""

    @model_validator(mode="after")
    def _a_model_is_of_use(self) -> "Synonyms":
        if self.model is not None and self.source != "masked-lm":
            raise ValueError("only the source masked-lm has a model")
        return self


class BackTranslation(Config):
    """Translate a text into another language and back (Sennrich et al. 2016; Edunov et al. 2018)."""

    models: tuple[HelperName, HelperName] | None = None
    """Two translation models (MarianMT and alike), there and back, by their helper models' names."""
    apertium: Annotated[str | None, Field(pattern=r"^[a-z]{2,3}(_[A-Za-z]+)?-[a-z]{2,3}(_[A-Za-z]+)?$")] = None
    """An Apertium pair that the worker has in both directions, for example eng-spa."""
    optional: bool = False
    """Leave out back-translation and its copy if the worker lacks it; the row's notes say so."""

    @model_validator(mode="after")
    def _one_of_the_two(self) -> "BackTranslation":
        if (self.models is None) == (self.apertium is None):
            raise ValueError("name either models or apertium")
        return self


class Augment(Config):
    """Rows generated from train once, before distillation; only the teacher labels them."""

    copies: Annotated[int, Field(ge=1, le=50)] = 1
    """New rows from each row: the first by back-translation, if requested; others by synonyms."""
    synonyms: Synonyms | None = None
    back_translation: BackTranslation | None = None
    splices: Annotated[int, Field(ge=0, le=50)] = 0
    """More new rows from each row, with another row's text before or after its own. Half of the pairs get another row's second
    text in place of their own."""

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
