"""The portable form: weights that meet activations of 8 bits stay within ±63, in training and in every file."""

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch.nn import functional
from transformers import AutoModelForCausalLM, BertForSequenceClassification, PreTrainedModel

from compression.engine.checkpoints import StageCheckpoint
from compression.evaluation.runtimes.onnx import EXACT_PRODUCTS, OnnxRunner, open_folder
from compression.export.onnx import decoder
from compression.export.onnx.exporter import write_onnx
from compression.export.transformers import sharded
from compression.export.transformers.exporter import write_transformers
from compression.models.linear_layers import is_linear
from compression.quantization import calibration, dynamic_int8, fake_quantize
from compression.quantization.dynamic_int8 import PORTABLE_LEVELS, fake_quantize_rows, integer_linear, integer_rows
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, quantizable, simulation_of
from compression.quantization.moe_layers import SimulatedExperts
from compression.quantization.smoothquant import rounding_error
from compression.schema.recipe.presets import PRESETS
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Recipe
from compression.schema.schemes import Scheme
from tests.compression.export.onnx.test_exporter import random_batch
from tests.support.decoder_models import saved, tensors_in, tiny
from tests.support.tiny_bert import encoded, sentences

PORTABLE = Simulation(portable=True)
SEVEN_BITS = 63


def multiplied(path: Path) -> dict[str, int]:
    """Return the largest |integer| of every int8 matrix that a product of a file reads."""
    proto = onnx.load(path)
    held = {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}
    quantized = [node for node in proto.graph.node if node.op_type == "MatMulInteger"]
    names = [node.input[1] for node in quantized]
    made = {node.output[0]: node.input[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    names += [made[node.input[1]] for node in proto.graph.node if node.op_type == "Gemm" and node.input[1] in made]
    return {name: int(np.abs(held[name].astype(int)).max()) for name in names}


def simulated(model: PreTrainedModel, simulation: Simulation) -> PreTrainedModel:
    twin = copy.deepcopy(model)
    insert_fake_quantization(twin, simulation=simulation)
    return twin


def test_no_two_products_of_a_portable_weight_leave_16_bits() -> None:
    """The sum of two products of a uint8 and an int8 is what x86 without VNNI keeps in 16 bits."""
    assert 2 * 255 * PORTABLE_LEVELS <= 2**15 - 1
    assert 2 * 255 * dynamic_int8.LEVELS > 2**15 - 1


def test_a_portable_layer_answers_as_matrices_of_seven_bits_do_and_a_search_for_smoothing_rounds_as_it_does() -> None:
    torch.manual_seed(0)
    x, weight, bias, push = torch.randn(3, 5, 48), torch.randn(40, 48), torch.randn(40), torch.randn(3, 5, 40)
    mine, other = (value.clone().requires_grad_() for value in (weight, weight))
    found = integer_linear(x, mine, bias, PORTABLE_LEVELS)
    wanted = functional.linear(fake_quantize_rows(x), fake_quantize_rows(other, SEVEN_BITS), bias)
    assert torch.allclose(found, wanted, atol=1e-4)
    assert not torch.allclose(found, integer_linear(x, weight, bias), atol=1e-3)
    found.backward(push)
    wanted.backward(push)
    assert functional.cosine_similarity(mine.grad.flatten(), other.grad.flatten(), dim=0) > 0.9999
    assert integer_rows(weight, SEVEN_BITS)[0].abs().amax(dim=1).tolist() == [SEVEN_BITS] * 40
    x, weight = torch.randn(64, 32), torch.randn(16, 32)
    assert rounding_error(x, [weight], PORTABLE) > 1.5 * rounding_error(x, [weight], Simulation())


@pytest.mark.parametrize("scheme", ["dynamic-int8", "static-int8"])
@pytest.mark.parametrize("portable", [True, False])
def test_an_encoders_file_holds_the_levels_that_were_simulated(
    model: BertForSequenceClassification, scheme: Scheme, portable: bool, tmp_path: Path
) -> None:
    settings = Quantize(scheme=scheme, portable=portable, calibration_rows=16)
    calibration.calibrate(model, encoded(sentences(40, 1)), settings)
    twin = simulated(model, Simulation.of(settings))
    path = write_onnx(twin, tmp_path, int8=True)
    largest = multiplied(path)
    assert (len(largest), set(largest.values())) == (14, {SEVEN_BITS if portable else 127})
    table = numpy_helper.to_array(
        next(item for item in onnx.load(path).graph.initializer if item.name.endswith("word_embeddings.weight_int8"))
    )
    assert np.abs(table.astype(int)).max() == 127, "rows that are gathered multiply nothing"
    batch = random_batch()
    with torch.inference_mode():
        wanted = twin(**{name: torch.from_numpy(value) for name, value in vars(batch).items()}).logits.numpy()
    assert np.median(np.abs(OnnxRunner(path, threads=1).logits(batch) - wanted)) < 1e-5
    exact = onnxruntime.SessionOptions()
    exact.add_session_config_entry(*EXACT_PRODUCTS)
    opened = onnxruntime.InferenceSession(str(path), exact, providers=["CPUExecutionProvider"])
    assert np.median(np.abs(opened.run(None, vars(batch))[0] - wanted)) < 1e-5


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gpt2", "deepseek_v2"])
def test_a_decoders_file_holds_the_levels_that_were_simulated(kind: str, tmp_path: Path) -> None:
    """Tied tables, layers that lie transposed and experts included."""
    model = tiny(kind.removesuffix("-tied"), **({"tie_word_embeddings": True} if kind.endswith("-tied") else {}))
    twin = simulated(model, PORTABLE)
    largest = multiplied(decoder.write(model, tmp_path, simulation=PORTABLE)[0])
    assert set(largest.values()) == {SEVEN_BITS}
    table = twin.get_input_embeddings()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert table.levels == (SEVEN_BITS if tied else 127), "one table for both has the levels of the product"
    ids = np.random.default_rng(2).integers(1, 60, (2, 9))
    with torch.inference_mode():
        wanted = twin(input_ids=torch.from_numpy(ids)).logits.numpy()
    assert np.median(np.abs(open_folder(tmp_path, threads=1).step(ids)[0] - wanted)) < 1e-5


def test_experts_of_a_static_model_are_portable_dynamic_ones(tmp_path: Path) -> None:
    model = tiny("deepseek_v2")
    ranges = {name: (-4.0, 4.0) for name, layer in quantizable(model) if is_linear(layer)}
    simulation = Simulation(scheme="static-int8", ranges=ranges, portable=True)
    twin = simulated(model, simulation)
    experts = [module for module in twin.modules() if isinstance(module, SimulatedExperts)]
    assert {module.levels for module in experts} == {SEVEN_BITS}
    x, weight = torch.randn(6, 16), torch.randn(8, 16)
    assert experts[0].product(x, weight).equal(integer_linear(x, weight, levels=SEVEN_BITS))
    largest = multiplied(decoder.write(model, tmp_path, simulation=simulation)[0])
    assert any(".experts." in name for name in largest)
    assert set(largest.values()) == {SEVEN_BITS}


@pytest.mark.parametrize("kind", ["llama", "deepseek_v2"])
def test_torchaos_checkpoint_holds_these_integers_and_the_file_to_file_way_writes_the_same(kind: str, tmp_path: Path) -> None:
    model = tiny(kind, **({"tie_word_embeddings": True} if kind == "llama" else {})).to(torch.bfloat16)
    source = saved(model, tmp_path / "source")
    sharded.quantize(source, tmp_path / "made", portable=True, block=500)
    assert list(sharded.verifying(source, tmp_path / "made", scheme="dynamic-int8", portable=True, block=700))
    twin = simulated(model, PORTABLE)
    write_transformers(twin, tmp_path / "whole", int8=True)
    made, whole = (tensors_in(tmp_path / name) for name in ("made", "whole"))
    assert made.keys() == whole.keys()
    assert all(made[name].equal(value) for name, value in whole.items())
    products = {name: int(value.abs().max()) for name, value in made.items() if value.dtype == torch.int8 and "qdata" in name}
    table = next(name for name in products if "embed_tokens" in name)
    assert products.pop(table) == (SEVEN_BITS if kind == "llama" else 127)
    assert set(products.values()) == {SEVEN_BITS}
    ids = torch.arange(3, 19)[None]
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32).eval()
    with torch.no_grad():
        found, wanted, plain = opened(ids).logits, twin.float()(ids).logits, model.float()(ids).logits
    assert (found - wanted).square().mean() < (plain - wanted).square().mean(), "activations are rounded, and by 127.5"
    assert not found.equal(plain)


def test_it_is_kept_with_the_model_and_taken_out_it_leaves_nothing_behind(model: BertForSequenceClassification) -> None:
    twin = simulated(model, PORTABLE)
    assert simulation_of(twin) == PORTABLE
    again = simulated(model, Simulation.model_validate_json(PORTABLE.model_dump_json()))
    ids = torch.arange(5, 15)[None]
    assert again(ids).logits.equal(twin(ids).logits)
    old = Simulation.model_validate({"scheme": "dynamic-int8", "group_size": None, "ranges": {}})
    assert (old.portable, old.levels) == (False, 127)
    assert not simulated(model, old)(ids).logits.equal(twin(ids).logits)
    state = {"fingerprint": "1", "stage": "quantized", "labels": [], "rows": [], "artifacts": [], "pruning": None, "files": []}
    kept = StageCheckpoint.model_validate({**state, "simulation": {"scheme": "static-int8", "ranges": {"a": [0.0, 1.0]}}})
    assert not kept.simulation.portable
    fake_quantize.remove_fake_quantization(twin)
    assert twin(ids).logits.equal(model(ids).logits)
    assert {dynamic_int8.levels_of(layer) for _, layer in quantizable(twin)} == {127}
    insert_fake_quantization(twin, simulation=Simulation())
    assert twin(ids).logits.equal(simulated(model, Simulation())(ids).logits)


def test_recipes_are_portable_unless_they_say_otherwise_and_weight_only_ones_need_not_know() -> None:
    assert all(recipe.quantize is None or recipe.quantize.portable for recipe, _ in PRESETS.values())
    assert Simulation.of(Quantize()).portable
    assert not Simulation.of(Quantize(portable=False)).portable
    for scheme in ("weight-only-int8", "weight-only-int4"):
        asked = Recipe.model_validate({"quantize": {"scheme": scheme}}).quantize
        assert Simulation.of(asked) == Simulation(scheme=scheme, group_size=32 if scheme.endswith("4") else None)
