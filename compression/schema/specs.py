"""The entry types of the registries of stages, modalities and tasks. Torch-free.

Installed packages create their entries from these types.
"""

from dataclasses import dataclass

from compression.schema.config import Config

COLUMNS = ("jsonl", "csv", "parquet")
"""Formats whose rows have columns."""
PLAIN = "text"
"""Plain UTF-8, in which a blank line ends a text: for tasks whose rows are texts only."""
FOLDER = "folder"
"""Rows are files, each in a folder that bears the name of its class."""


@dataclass(frozen=True)
class Head:
    """The head of a task's models.

    suffix: of the stock class's name; auto: the class of transformers that opens it; outputs: of model and ONNX file.
    """

    suffix: str
    auto: str
    outputs: tuple[str, ...] = ("logits",)


CLASSIFIER = Head("ForSequenceClassification", "AutoModelForSequenceClassification")
TAGGER = Head("ForTokenClassification", "AutoModelForTokenClassification")
READER = Head("ForQuestionAnswering", "AutoModelForQuestionAnswering", ("start_logits", "end_logits"))
LANGUAGE = Head("ForCausalLM", "AutoModelForCausalLM")
IMAGE_CLASSIFIER = Head("ForImageClassification", "AutoModelForImageClassification")


@dataclass(frozen=True)
class CardText:
    """The texts of a model card for a task."""

    about: str  #: what the model is; {count} and {names} refer to its labels
    pipeline: str  #: the hub's name of the task
    answer: str  #: the form of its predictions; names the code template KIND/ANSWER.py.j2
    templates: str | None = None  #: the package whose folder `templates` has these templates; None: export/templates/
    reader: str = "tokenizers.Tokenizer.from_file('tokenizer.json')"  #: what reads rows for an ONNX file; empty: nothing


@dataclass(frozen=True)
class TaskSpec:
    """A task, and the properties that a job needs before it opens any file."""

    name: str
    head: Head
    formats: tuple[str, ...]  #: of its data files
    metrics: tuple[str, ...]  #: headline metrics, the default first; a job may choose if there are several
    card: CardText
    asks: tuple[str, ...] = ()  #: keys of a prediction request that it reads; none: it makes no predictions for single rows
    columns: tuple[str, ...] = ()  #: keys of `Columns` that it reads
    pair: str | None = None  #: one more such key, if the data have it
    outputs: int | None = None  #: of its head; None: one per label, or the vocabulary
    named_labels: bool = False  #: whether rows have labels with names: classes or tags
    one_class: bool = False  #: whether a row has one class; carved splits are stratified by it
    per_token: bool = False  #: whether predictions are positions among the input's tokens: teachers must tokenize alike
    windows: bool = False  #: whether a long input is read in several windows, not truncated
    sequences: bool = True  #: whether a row is a sequence of positions, whose length recipes limit
    generates: bool = False  #: whether it predicts a distribution over a vocabulary for each token
    unlabelled: bool = False  #: whether unlabelled inputs may be sent too, for the general phase of distillation
    views: bool = False  #: whether training can vary its rows each time that they are shown
    raw_inputs: bool = False  #: whether its ONNX files can read rows of 8 bits and do the arithmetic before the model
    row: str = "row"  #: what a row is, for people: its plural has an s
    some_labels: bool = False  #: whether data may lack some of the labels of a model's head
    augmentable: bool = False  #: whether a row has one label for the whole text, so that its words may move


@dataclass(frozen=True)
class ModalitySpec:
    """A kind of data."""

    name: str
    tasks: tuple[TaskSpec, ...]
    engine: str  #: `module:attribute` of the `Modality`, which only the engine imports
    data_files: tuple[str, ...] = ()  #: suffixes of its data files, beside `schema.file_names.ROWS`


MOST_POINTS = 6
"""Sizes that one job distills and ships, at most."""


@dataclass(frozen=True)
class StageSpec:
    """One stage, with its names in recipes and reports."""

    name: str  #: of its row and of its checkpoint
    recipe_key: str  #: the key of its settings in a recipe; null leaves the stage out
    engine: str  #: "module:name" of its `engine.stages.registry.StageRunner`, which only the engine imports
    after: str | None = None  #: the stage that it follows
    title: str = ""  #: on pages; empty: its name, capitalized
    settings: type[Config] | None = None  #: the model of its settings; None for those that `Recipe` itself declares
    point: int = 0
    """Which of the sizes that `prune.points` asks for it distills, from 2; 0 of other stages. It shares the key of the cut."""


@dataclass(frozen=True)
class FormatLack:
    """Models that a format does not have, by what is known before a job: those that meet each condition that is named."""

    why: str  #: as a clause; {family} and {scheme} refer to the model's
    families: tuple[str, ...] = ()  #: of these families; empty: of any
    networks: bool = False  #: networks of images alone
    experts: bool = False  #: models with routed experts alone
    schemes: tuple[str | None, ...] = ()  #: with the integers of these schemes, None for none; empty: with any


@dataclass(frozen=True)
class FormatSpec:
    """A format of artifacts, with the facts that the API and the measuring process need."""

    name: str  #: on the wire, the `kind` of an artifact
    engine: str  #: "module:NAME" of its `export.exporter.Exporter`, which only the engine imports
    runtime: str  #: "module:NAME" of the function that opens a folder as a `Runner`, given its number of threads
    runs_in: str  #: the name of that runtime for people
    weights: tuple[str, ...]  #: patterns of the files that hold its weights
    tags: tuple[str, ...] = ()  #: of its model card, beside the name of its library
    primary: bool = False  #: whether a stage ships its model in it if it can; rows are timed and predict in it alone
    by_default: bool = True  #: whether a job ships it whose recipe names no artifacts
    timed: bool = False  #: of a further format: whether it is timed beside the baseline's primary artifact
    served: bool = False  #: of a format that is neither: whether `lathe serve` opens it all the same
    ranged: bool = False  #: whether ranges are calibrated for it if a scheme has none
    generates: bool | None = None  #: whether it is for language models alone (True), or for all other tasks (False)
    families: tuple[str, ...] = ()  #: the families of models that it can state; empty: any
    lacks: tuple[FormatLack, ...] = ()  #: which of those models it does not have all the same
    card: str | None = None
    """"module:NAME" of the function that opens a folder on a GPU to score it there (`runner.open_on_card`); None: none can."""
    card_lacks: str | None = None
    """"module:NAME" of the function that returns what a machine with a GPU lacks for that, or None; None: nothing."""
