"""A preflight knows what a decoder takes that nobody trains: it goes from file to file."""

import pytest

from compression.models.architectures.families import LLAMA
from compression.models.architectures.shapes import parameters_at
from compression.planning.estimator import LARGEST_GRAPH
from compression.planning.multi_dataset import preflight_several
from compression.planning.preflight import preflight
from compression.schema.errors import UnsupportedShape
from compression.schema.recipe.prune import Prune, Recovery
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Evaluate, JobEvaluate, Prepare, Recipe
from compression.schema.report.measurements import Shape
from tests.compression.planning.test_planning import DATA, MODEL
from tests.support.facts import LLAMA3, decoder_facts


def test_an_encoder_beyond_one_file_is_refused_and_a_decoder_has_its_weights_beside_its_graph() -> None:
    shape = Shape(layers=48, hidden=1536, heads=24, ffn=6144, vocabulary=128100)
    encoder = MODEL.model_copy(update={"shape": shape})
    with pytest.raises(UnsupportedShape, match="do not fit into an ONNX file"):
        preflight(encoder, DATA, Recipe(), Evaluate())
    facts = decoder_facts("llama", shape.model_copy(update={"groups": 24, "head_size": 64}), 2, "ForSequenceClassification")
    assert preflight(facts, DATA, Recipe(), Evaluate()).baseline_parameters.total > LARGEST_GRAPH // 4


def test_a_decoder_that_nobody_trains_asks_a_worker_for_little_memory() -> None:
    model = decoder_facts("llama", LLAMA3, 2, "ForSequenceClassification", labels=("negative", "positive"))
    parameters = model.parameters
    only_quantize = Recipe(prepare=Prepare(epochs=0), prune=None, distill=None)
    plan = preflight(model, DATA, only_quantize, Evaluate())
    assert plan.estimate.memory_bytes < 2 << 30 < model.bytes
    assert 4 * parameters.total < plan.estimate.disk_bytes < 5 * parameters.total  # in 16 bits, and int8 twice: in ONNX too
    assert any("from file to file" in warning for warning in plan.warnings)
    cut = only_quantize.model_copy(update={"prune": Prune(ratio={"ffn": 0.3})})
    # What is cut of float32 lies there in all its digits until its integers are made, beside the form in 16 bits.
    precise = model.model_copy(update={"dtype": "float32", "bytes": 4 * parameters.total})
    one, other = (preflight(each, DATA, cut, Evaluate()).estimate.disk_bytes for each in (model, precise))
    assert other - one == 2 * 2 * parameters.total + 2 * parameters.total
    assert plan.estimate.memory_bytes < preflight(model, DATA, cut, Evaluate()).estimate.memory_bytes < 8 << 30
    for trained in (
        only_quantize.model_copy(update={"prepare": Prepare(epochs=1)}),
        only_quantize.model_copy(update={"prune": Prune(recovery=Recovery(epochs=1))}),
        only_quantize.model_copy(update={"quantize": Quantize(scheme="static-int8")}),
    ):
        assert preflight(model, DATA, trained, Evaluate()).estimate.memory_bytes > 4 * parameters.total
    small = LLAMA3.model_copy(update={"layers": 2, "hidden": 512, "heads": 4, "groups": 4, "ffn": 1024, "vocabulary": 32000})
    facts = model.model_copy(update={"shape": small, "parameters": parameters_at(LLAMA, small, outputs=2)})
    plan = preflight(facts, DATA, only_quantize, Evaluate())
    assert any(warning.startswith("Where a worker has less than") for warning in plan.warnings)
    # Least squares need it whole; what it takes without them is said.
    middle = small.model_copy(update={"layers": 16, "hidden": 1536, "ffn": 4096})
    facts = model.model_copy(update={"shape": middle, "parameters": parameters_at(LLAMA, middle, outputs=2)})
    solving = cut.model_copy(update={"prune": Prune(ratio={"ffn": 0.3}, reconstruct=True)})
    whole, plain = (preflight(facts, DATA, each, Evaluate()) for each in (solving, cut))
    assert plain.estimate.memory_bytes < whole.estimate.memory_bytes
    told = f"prune.reconstruct: false it goes from file to file, in {plain.estimate.memory_bytes:,}."
    assert [told in "".join(each.warnings) for each in (whole, plain)] == [True, False]


def test_of_several_datasets_none_goes_from_file_to_file() -> None:
    model = decoder_facts("llama", LLAMA3, 2, "ForSequenceClassification", labels=("negative", "positive"))
    only_quantize = Recipe(prepare=Prepare(epochs=0), prune=None, distill=None)
    alone = preflight(model, DATA, only_quantize, Evaluate())
    several = preflight_several(model, {"a": DATA, "b": DATA}, only_quantize, JobEvaluate())
    assert several.estimate.memory_bytes > 4 * model.parameters.total > alone.estimate.memory_bytes
    assert any("from file to file" in warning for warning in alone.warnings)
    assert not any("from file to file" in warning for warning in several.warnings)
