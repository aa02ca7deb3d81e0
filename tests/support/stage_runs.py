"""The stages as a job does them, each by its name, and the count of a model's parameters by shape."""

from functools import partial

from transformers import PreTrainedModel

from compression.engine.stages.prune import model_sizes
from compression.engine.stages.registry import run_stage
from compression.models.architectures.shapes import Count, Counts
from compression.schema.stages import BASELINE, DISTILLED, PRUNED, QUANTIZED

prepare, quantize, prune, distill = (partial(run_stage, stage=stage) for stage in (BASELINE, QUANTIZED, PRUNED, DISTILLED))
ROW = 16  #: tokens, of models of text


def counts(model: PreTrainedModel) -> Counts:
    """Return what counts the sizes of models like this one, in floating point."""
    return model_sizes(model, None, ROW).counts


def counter(model: PreTrainedModel) -> Count:
    """Return what counts the parameters of models like this one, head included."""
    return model_sizes(model, None, ROW).parameters
