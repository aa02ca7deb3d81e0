"""Which artifacts a job ships, and the work of making and scoring them. Torch-free."""

from compression.planning.counted import Counted
from compression.planning.token_estimates import CHARACTERS_A_TOKEN, of_row
from compression.planning.work import EXPORT, Work
from compression.schema.artifact_formats import BUILT_IN, further_formats
from compression.schema.recipe.base import Split
from compression.schema.recipe.recipe import JobEvaluate, Recipe, Train
from compression.schema.schemes import SCHEMES
from compression.schema.stages import BASELINE, QUANTIZED, wanted
from compression.schema.tasks import TASKS
from compression.schema.validation import DataFacts

SHIP_SECONDS = 12.0
"""Seconds to export, verify and time an artifact (`standard` on MiniLM-L6, two cores); scoring is added to it."""
DEFAULT_SHARES: dict[Split, float] = {"validation": 0.1, "test": 0.2}
"""The splits that artifacts are scored on, each as a share of train if it is not given."""


def artifacts(model: Counted, result: Counted, recipe: Recipe, *, language: bool) -> list[tuple[str, Counted, str]]:
    """Return the stages of a job's artifacts, at most, their models and formats: one per row, and the headline again in each
    further format, at the end. The format is "" where a GPU lacks operators: of ONNX files with activations in 8 bits.

    A language model's headline has two forms of its own library; so has the pruned model, if an earlier stage is the headline.
    """
    further, primary = further_formats(recipe.artifacts).values(), next(one for one in BUILT_IN if one.primary)
    libraries = [one.name for one in further if one in BUILT_IN and one.by_default]
    own = libraries[:1] * (2 if language else 1)  # a model came from one library
    smaller = language and (recipe.prune is not None or result.parameters.total < model.parameters.total)
    rounds = recipe.quantize is not None and SCHEMES[recipe.quantize.assumed].rounds_activations
    others = ["" if rounds and one.runs_in == primary.runs_in else one.name for one in further if one.name not in libraries]
    rows = [
        (stage, model if stage in (BASELINE, QUANTIZED) else result, "" if rounds and stage != BASELINE else primary.name)
        for stage in wanted(dict(recipe))
    ]
    again = [*own * smaller, *others * (1 + smaller)]
    return [*rows, *((EXPORT, model, name) for name in own), *((EXPORT, result, name) for name in again)]


def split_rows(data: DataFacts, split: Split) -> int:
    """Return the rows of validation or test, as they are carved from train if they are not given."""
    return data.rows.get(split, round(DEFAULT_SHARES[split] * data.rows["train"]))


def scored(
    stage: str, model: Counted, data: DataFacts, train: Train, evaluate: JobEvaluate, *, seconds: float = 0.0, kind: str = ""
) -> Work:
    """Return the work of scoring one artifact on validation and test, with the seconds of making it. kind: of `artifacts`.

    Each token is read twice: in a row alone and in a batch of 32; in a language model's text, in windows that advance by half.
    """
    if TASKS[data.task].generates:
        characters = [data.characters.get(split, share * data.characters["train"]) for split, share in DEFAULT_SHARES.items()]
        tokens = sum(min(each / CHARACTERS_A_TOKEN, evaluate.tokens) for each in characters)
        return Work(stage=stage, decoder_flops=2 * 2 * model.active * tokens, seconds=seconds, format=kind)
    rows = sum(split_rows(data, split) for split in DEFAULT_SHARES)
    flops = rows * 2 * 2 * model.active * of_row(data, train)
    family = "decoder_flops" if model.shape.groups is not None else "encoder_flops"
    return Work(stage=stage, scored_rows=rows, seconds=seconds, format=kind).model_copy(update={family: flops})
