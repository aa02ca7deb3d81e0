"""Which modalities and tasks there are, and what follows from a task for a job: the half that the API reads. Torch-free.

A package that an operator installs adds a modality by an entry point of the group `lathe.modalities`, which names a
`ModalitySpec`. The engine's half (`compression.modalities.base.Modality`) is named in it and imported in the engine alone.
"""

import logging
from dataclasses import dataclass, replace
from importlib.metadata import entry_points

GROUP = "lathe.modalities"
"""The group of entry points."""


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
class TaskSpec:
    """A task by its name, and what a job must know of it before anything is opened."""

    name: str
    head: Head
    formats: tuple[str, ...]  #: of the data files that it is read from
    metrics: tuple[str, ...]  #: headline metrics, the usual one first; a job may choose where there are several
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


COLUMNS = ("jsonl", "csv", "parquet")
"""Formats whose rows have columns."""
PLAIN = "text"
"""Plain UTF-8, a text ending where a blank line begins: of a task whose rows are texts alone."""
CLASS_METRICS = ("accuracy", "f1", "accuracy_f1", "matthews")
_CLASSES = TaskSpec(
    "text-classification",
    CLASSIFIER,
    COLUMNS,
    CLASS_METRICS,
    asks=("text",),
    named_labels=True,
    one_class=True,
    unlabelled=True,
    augmentable=True,
)
TEXT = ModalitySpec(
    "text",
    (
        _CLASSES,
        replace(_CLASSES, name="text-pair-classification", asks=("text", "text_pair")),
        TaskSpec(
            "text-regression",
            CLASSIFIER,
            COLUMNS,
            ("pearson_spearman",),
            asks=("text",),
            pair="text_pair",
            outputs=1,
            unlabelled=True,
            augmentable=True,
        ),
        TaskSpec(
            "token-classification",
            TAGGER,
            COLUMNS,
            ("entity_f1",),
            asks=("tokens",),
            named_labels=True,
            per_token=True,
            unlabelled=True,
        ),
        TaskSpec(
            "question-answering",
            READER,
            COLUMNS,
            ("f1",),
            asks=("question", "context"),
            outputs=2,
            per_token=True,
            windows=True,
            unlabelled=True,
        ),
        TaskSpec("causal-lm", LANGUAGE, (*COLUMNS, PLAIN), ("perplexity",), per_token=True, generates=True),
    ),
    "compression.modalities.text.modality:TEXT",
)


def installed(built_in: tuple[ModalitySpec, ...] = (TEXT,)) -> dict[str, ModalitySpec]:
    """Return the modalities by their names: those of this package, and behind them those of packages beside it.

    A package that cannot be read, or that claims what another has, is left out with a warning that names it: it must not take
    the service down.
    """
    found = {one.name: one for one in built_in}
    for point in entry_points(group=GROUP):
        try:
            spec = point.load()
            if not isinstance(spec, ModalitySpec):
                raise TypeError(f"it is of type {type(spec).__name__}, not ModalitySpec")
            known = {task.name for one in found.values() for task in one.tasks}
            if spec.name in found or (taken := sorted(known & {task.name for task in spec.tasks})):
                raise ValueError(f"there is already {spec.name if spec.name in found else ', '.join(taken)}")
        except Exception as problem:
            logging.getLogger(__name__).warning("The modality %s (%s) is left out: %s", point.name, point.value, problem)
            continue
        found[spec.name] = spec
    return found


MODALITIES = installed()
TASKS = {task.name: task for one in MODALITIES.values() for task in one.tasks}
FORMATS = tuple(dict.fromkeys(name for task in TASKS.values() for name in task.formats))
"""Of data files. jsonl, csv and parquet have columns; text is plain UTF-8, a text ending where a blank line begins."""


def modality_spec(task: str) -> ModalitySpec:
    """Find the modality that a task is of. Raises KeyError."""
    return next(one for one in MODALITIES.values() if TASKS[task] in one.tasks)
