"""What stands in the registries: of stages, modalities and tasks. Torch-free; installed packages make theirs of these."""

from dataclasses import dataclass

from compression.schema.config import Config

COLUMNS = ("jsonl", "csv", "parquet")
"""Formats whose rows have columns."""
PLAIN = "text"
"""Plain UTF-8, a text ending where a blank line begins: of a task whose rows are texts alone."""


@dataclass(frozen=True)
class Head:
    """suffix: of the stock class's name; auto: the class of transformers that opens it; outputs: of model and ONNX file."""

    suffix: str
    auto: str
    outputs: tuple[str, ...] = ("logits",)


CLASSIFIER = Head("ForSequenceClassification", "AutoModelForSequenceClassification")
TAGGER = Head("ForTokenClassification", "AutoModelForTokenClassification")
READER = Head("ForQuestionAnswering", "AutoModelForQuestionAnswering", ("start_logits", "end_logits"))
LANGUAGE = Head("ForCausalLM", "AutoModelForCausalLM")


@dataclass(frozen=True)
class CardText:
    """What a model card says of a task."""

    about: str  #: what the model is; {count} and {names} are those of its labels
    pipeline: str  #: the hub's name of the task
    answer: str  #: the form of its answers, which names the template of the code in export/templates/


@dataclass(frozen=True)
class TaskSpec:
    """A task by its name, and what a job must know of it before anything is opened."""

    name: str
    head: Head
    formats: tuple[str, ...]  #: of the data files that it is read from
    metrics: tuple[str, ...]  #: headline metrics, the usual one first; a job may choose where there are several
    card: CardText
    asks: tuple[str, ...] = ()  #: keys of a prediction request that it reads; none: it answers no single row
    pair: str | None = None  #: one more such key, where the data has it
    outputs: int | None = None  #: of its head; None: one for each label, or the vocabulary
    named_labels: bool = False  #: whether rows have labels with names: classes or tags
    one_class: bool = False  #: whether a row has one class, by which carved splits are stratified
    per_token: bool = False  #: whether answers are places among the input's tokens: teachers must cut inputs alike
    windows: bool = False  #: whether a long input is read in several windows, and not cut
    generates: bool = False  #: whether it answers each token with a distribution over a vocabulary
    unlabelled: bool = False  #: whether inputs without labels may be sent too, for the general phase of distillation
    augmentable: bool = False  #: whether a row's answer is for all of it, so that its words may move


@dataclass(frozen=True)
class ModalitySpec:
    """A kind of data. engine: `module:attribute` of the `Modality`, which the engine imports."""

    name: str
    tasks: tuple[TaskSpec, ...]
    engine: str


@dataclass(frozen=True)
class StageSpec:
    """One stage, as recipes and reports name it."""

    name: str  #: of the row that it ends with, and of its checkpoint
    recipe_key: str  #: under which a recipe has its settings; null there leaves the stage out
    engine: str  #: "module:name" of its `engine.stages.registry.StageRunner`, which the engine alone imports
    after: str | None = None  #: the stage that it follows
    settings: type[Config] | None = None  #: what stands under its key; None for those that `Recipe` itself declares
