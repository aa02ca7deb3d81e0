"""The modalities and tasks, and their properties: the half that the API reads. Torch-free.

A package that an operator installs adds a modality by an entry point of the group `lathe.modalities`, which names a
`ModalitySpec`. The spec names the engine's half (`compression.modalities.base.Modality`), which only the engine imports.
"""

from dataclasses import replace

from compression.schema.plugins import add_plugins
from compression.schema.specs import (
    CLASSIFIER,
    COLUMNS,
    FOLDER,
    IMAGE_CLASSIFIER,
    LANGUAGE,
    PLAIN,
    READER,
    TAGGER,
    CardText,
    ModalitySpec,
    TaskSpec,
)

GROUP = "lathe.modalities"
"""The group of entry points."""
JUDGED = 65_536
"""Tokens of validation that choose a language model's epoch. The error of the difference of two models' losses on the same
tokens is far below either loss's own error, so these suffice to compare them; all of a large split would cost more time than
training."""


CLASS_METRICS = ("accuracy", "f1", "accuracy_f1", "matthews")
_CLASSES = TaskSpec(
    "text-classification",
    CLASSIFIER,
    COLUMNS,
    CLASS_METRICS,
    CardText("A text classifier for {count} labels ({names})", "text-classification", "label"),
    asks=("text",),
    columns=("text", "label"),
    named_labels=True,
    one_class=True,
    unlabelled=True,
    augmentable=True,
)
TEXT = ModalitySpec(
    "text",
    (
        _CLASSES,
        replace(
            _CLASSES,
            name="text-pair-classification",
            card=CardText("A classifier of pairs of texts for {count} labels ({names})", "text-classification", "label"),
            asks=("text", "text_pair"),
            columns=("text", "text_pair", "label"),
        ),
        TaskSpec(
            "text-regression",
            CLASSIFIER,
            COLUMNS,
            ("pearson_spearman",),
            CardText("A model that gives a text, or a pair of texts, a number", "text-classification", "number"),
            asks=("text",),
            columns=("text", "text_pair", "label"),
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
            CardText("A model that gives each word one of {count} tags ({names})", "token-classification", "tags"),
            asks=("tokens",),
            columns=("tokens", "tags"),
            named_labels=True,
            per_token=True,
            unlabelled=True,
        ),
        TaskSpec(
            "question-answering",
            READER,
            COLUMNS,
            ("f1",),
            CardText(
                "A model that answers a question with a span of a given context, or says that there is no answer",
                "question-answering",
                "span",
            ),
            asks=("question", "context"),
            columns=("question", "context", "answers"),
            outputs=2,
            per_token=True,
            windows=True,
            unlabelled=True,
        ),
        TaskSpec(
            "causal-lm",
            LANGUAGE,
            (*COLUMNS, PLAIN),
            ("perplexity",),
            CardText("A causal language model", "text-generation", "text"),
            columns=("text",),
            per_token=True,
            generates=True,
        ),
    ),
    "compression.modalities.text.modality:TEXT",
)


IMAGE_FILES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Suffixes of image files."""
IMAGE = ModalitySpec(
    "image",
    (
        TaskSpec(
            "image-classification",
            IMAGE_CLASSIFIER,
            (FOLDER, "parquet", "npz"),
            ("accuracy", "balanced_accuracy"),
            CardText(
                "An image classifier for {count} labels ({names})",
                "image-classification",
                "image-label",
                reader="PIL.Image.open('image.jpg')",
            ),
            asks=("image",),
            columns=("image", "label"),
            named_labels=True,
            one_class=True,
            sequences=False,
            row="image",
            some_labels=True,
            views=True,
            raw_inputs=True,
        ),
    ),
    "compression.modalities.image.modality:IMAGE",
    data_files=(*IMAGE_FILES, ".npz"),  # an array of Python objects is refused by its header, before anything is unpickled
)
MODALITIES = {TEXT.name: TEXT, IMAGE.name: IMAGE}


def _add(spec: ModalitySpec) -> None:
    """Add a modality. Raises ValueError if one of its names is taken."""
    known = {"several", *(task.name for one in MODALITIES.values() for task in one.tasks)}  # "several": of jobs, JobTask
    if spec.name in MODALITIES or (taken := sorted(known & {task.name for task in spec.tasks})):
        raise ValueError(f"there is already {spec.name if spec.name in MODALITIES else ', '.join(taken)}")
    MODALITIES[spec.name] = spec


add_plugins(GROUP, ModalitySpec, _add)
TASKS = {task.name: task for one in MODALITIES.values() for task in one.tasks}
FORMATS = tuple(dict.fromkeys(name for task in TASKS.values() for name in task.formats))
"""Formats of data. jsonl, csv and parquet have columns; text is plain UTF-8, in which a blank line ends a text; folder has
images in a folder for each class; npz is NumPy arrays."""
SUFFIXES = {"csv": (".csv", ".tsv"), PLAIN: (".txt",), FOLDER: IMAGE_FILES}
"""Suffixes of the files of a format, if they are not its name alone."""


def suffixes_of(name: str) -> tuple[str, ...]:
    """Return the suffixes of the files of a format."""
    return SUFFIXES.get(name, (f".{name}",))


def row_of(task: str | None) -> str:
    """Return what a row of a task is, for people; "row" if the task is unknown, or if there are several."""
    return TASKS[task].row if task in TASKS else "row"


def modality_spec(task: str) -> ModalitySpec:
    """Return the modality of a task. Raises KeyError."""
    return next(one for one in MODALITIES.values() if TASKS[task] in one.tasks)
