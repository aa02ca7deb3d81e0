"""The stages as a job does them, each by its name, and the count of a model's parameters by shape."""

from functools import partial

from transformers import PreTrainedModel

from compression.engine.stages.prune import parts_counter
from compression.engine.stages.registry import run_stage
from compression.models.architectures.shapes import Count
from compression.planning.search.costs import parameter_count
from compression.schema.stages import BASELINE, DISTILLED, PRUNED, QUANTIZED

prepare, quantize, prune, distill = (partial(run_stage, stage=stage) for stage in (BASELINE, QUANTIZED, PRUNED, DISTILLED))


def counter(model: PreTrainedModel) -> Count:
    """Return what counts the parameters of models like this one, head included."""
    return parameter_count(parts_counter(model))
