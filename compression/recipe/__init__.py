"""What to do with a model: one frozen, validated object shared by API, row, engine and report. Torch-free.

The order of the stages is fixed by the method (quantize → prune → distill), so a recipe has keys and not a list; `null`
skips a stage. Unknown keys are refused by name. `version` lets old recipes stay readable.
"""

from compression.recipe.augment import AUGMENTED_TASKS, Augment, BackTranslation, HelperName, Synonyms
from compression.recipe.base import (
    MOST_PARTS,
    MOST_TEACHERS,
    Axis,
    Config,
    DataFormat,
    DataSplit,
    Epochs,
    JobTask,
    Observer,
    PartName,
    Patience,
    Precision,
    Rate,
    Scheme,
    Split,
    Task,
    Weight,
)
from compression.recipe.distill import TERMS, Distill, Gate, General, Teachers, Weights
from compression.recipe.presets import ARTICLE, PRESETS, QUICK, SMALLEST, STANDARD, merged, preset
from compression.recipe.prune import AxisRatios, Prune, Recovery, TargetLatency
from compression.recipe.quantize import Qat, Quantize
from compression.recipe.question import AnswerSpec, Question, asked_for
from compression.recipe.spec import Column, Columns, Data, DataCheck, ModelCheck, Part, Spec, check_data
from compression.recipe.whole import OF_EACH, Evaluate, JobEvaluate, LmEval, Metric, Prepare, Recipe, Targets, Train

__all__ = [
    "ARTICLE",
    "AUGMENTED_TASKS",
    "MOST_PARTS",
    "MOST_TEACHERS",
    "OF_EACH",
    "PRESETS",
    "QUICK",
    "SMALLEST",
    "STANDARD",
    "TERMS",
    "AnswerSpec",
    "Augment",
    "Axis",
    "AxisRatios",
    "BackTranslation",
    "Column",
    "Columns",
    "Config",
    "Data",
    "DataCheck",
    "DataFormat",
    "DataSplit",
    "Distill",
    "Epochs",
    "Evaluate",
    "Gate",
    "General",
    "HelperName",
    "JobEvaluate",
    "JobTask",
    "LmEval",
    "Metric",
    "ModelCheck",
    "Observer",
    "Part",
    "PartName",
    "Patience",
    "Precision",
    "Prepare",
    "Prune",
    "Qat",
    "Quantize",
    "Question",
    "Rate",
    "Recipe",
    "Recovery",
    "Scheme",
    "Spec",
    "Split",
    "Synonyms",
    "TargetLatency",
    "Targets",
    "Task",
    "Teachers",
    "Train",
    "Weight",
    "Weights",
    "asked_for",
    "check_data",
    "merged",
    "preset",
]
