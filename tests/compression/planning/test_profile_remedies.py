"""Of a profile follows where its time goes, and what to try: a change of the recipe, another form, or another profile."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from compression.evaluation.profiling import command
from compression.planning.profile_remedies import Form, ProfiledCase, profile_remedies
from compression.schema.artifact_formats import ARTIFACT_FORMATS
from compression.schema.profile import LayerTime, Profile, ProfileFailure, ProfileRequest
from compression.schema.profile_figures import MOST_OPERATORS, ProfileFigures, operator_times
from compression.schema.profile_remedies import ProfileRemedy, SlowCode
from compression.schema.recipe.base import Task
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Prepare, Recipe
from compression.schema.report.measurements import Shape
from tests.conftest import ROOT
from tests.support.profiled import artifact, classifier, spec_of
from tests.support.profiles import measured
from tests.support.verdict_rows import distilled

REQUEST = ProfileRequest(length=64)
FLOAT, INTEGERS = Recipe(quantize=None), Recipe()
WEIGHTS = Recipe(quantize=Quantize(scheme="weight-only-int8"))
STREAMED = Recipe(prepare=Prepare(epochs=0), quantize=Quantize(), prune=None, distill=None)


def figures(ms: float = 10.0, *, layers: dict[str, float] | None = None, **changes: Any) -> ProfileFigures:
    """Return figures whose layers take these milliseconds by type: one layer each, named after its type."""
    named = [{"name": f"/{kind}", "type": kind, "ms": took} for kind, took in (layers or {}).items()]
    latency = {"median_ms": ms, "p95_ms": ms, "samples_ms": [ms]}
    whole = measured({"length": 64}, latency=latency, layers=named, **changes)
    return ProfileFigures.of(Profile.model_validate(whole))


def form(name: str = "distilled-onnx-int8", found: ProfileFigures | None = None, **changes: Any) -> Form:
    stage, _, kind = name.partition("-")
    precision = "int8"
    if kind not in ARTIFACT_FORMATS:
        kind, _, precision = kind.rpartition("-")
    facts = {"id": f"art_{name}", "kind": kind, "stage": stage, "precision": precision, "bytes": 1_000_000, "figures": found}
    return Form(name=name, **{**facts, **changes})


def case(profiled: Form, *others: Form, recipe: Recipe = INTEGERS, **changes: Any) -> ProfiledCase:
    return replace(ProfiledCase(profiled, others, REQUEST, recipe), **changes)


def only(given: ProfiledCase) -> ProfileRemedy:
    found = profile_remedies(given)
    assert len(found) == 1, found
    return found[0]


def test_a_form_that_was_faster_on_the_device_is_named() -> None:
    others = (
        form("distilled-openvino-int8", figures(8.0)),
        form("pruned-onnx-int8", figures(1.0)),
        form("distilled-triton-int8"),
    )
    found = only(case(form(found=figures()), *others))
    assert (found.code, found.artifact) == ("faster_form", "art_distilled-openvino-int8")
    assert "10 ms here, and 8 ms as distilled-openvino-int8" in found.cause
    assert profile_remedies(case(form(found=figures()), form("distilled-openvino-int8", figures(9.5)))) == ()


def test_language_models_are_compared_by_their_further_tokens_and_none_that_lost_its_score_is_named() -> None:
    token, quicker = ({"median_ms": ms, "p95_ms": ms, "samples_ms": [ms]} for ms in (4.0, 2.0))
    own = form(found=figures(10.0, decoding=token))
    slow, fast = figures(5.0, decoding=token), figures(20.0, decoding=quicker)
    found = only(case(own, form("distilled-gguf-q8-0", slow), form("distilled-gguf-q4-0", fast, precision="int4")))
    assert found.artifact == "art_distilled-gguf-q4-0"
    assert "A further token takes 4 ms here, and 2 ms as" in found.cause
    score = distilled(0.7).score
    assert profile_remedies(case(own, form("distilled-gguf-q4-0", fast, score=score), needed=0.71)) == ()
    assert only(case(own, form("distilled-gguf-q4-0", fast, score=score), needed=0.69)).artifact is not None


def test_products_in_floating_point_are_named_and_a_retry_makes_integers_of_them() -> None:
    slow = form("distilled-onnx-float32", figures(layers={"MatMul": 7.0, "Softmax": 3.0}))
    found = only(case(slow, recipe=FLOAT))
    assert found.code == "float_products"
    assert "70%" in found.cause
    assert "1 MatMul (slowest: /MatMul)" in found.cause
    assert found.change is not None
    assert (found.change.key, found.change.now) == ("recipe.quantize", None)
    assert isinstance(found.change.proposed, dict)
    assert found.change.proposed["scheme"] == "dynamic-int8"
    # Where there are integers already, they are taken.
    found = only(case(slow, form("quantized-onnx-int8"), form()))
    assert (found.change, found.artifact) == (None, "art_distilled-onnx-int8")
    assert profile_remedies(case(form("distilled-onnx-float32", figures(layers={"MatMul": 1.0, "Softmax": 9.0})))) == ()


def test_a_scheme_that_rounds_weights_alone_leaves_products_in_floating_point() -> None:
    found = figures(layers={"MatMul": 6.0, "DequantizeLinear": 3.0})
    weights = Recipe(quantize=Quantize(scheme="weight-only-int8"))
    change = only(case(form(found=found), recipe=weights)).change
    assert change is not None
    assert (change.key, change.now, change.proposed) == ("recipe.quantize.scheme", "weight-only-int8", "dynamic-int8")
    # A group size is of int4 alone: with dynamic-int8 the recipe would be refused, so it is not offered.
    grouped = Recipe(quantize=Quantize(scheme="weight-only-int4", group_size=64))
    assert only(case(form(found=found), recipe=grouped)).change is None
    assert "attention" in only(case(form(found=figures(layers={"FusedMatMul": 3.0, "MatMulInteger": 7.0})))).remedy
    # OpenVINO's name for a product does not say what it computes in.
    assert profile_remedies(case(form(found=figures(layers={"FullyConnected": 9.0})))) == ()


def test_only_what_multiplies_integers_is_said_to() -> None:
    slow = form("distilled-onnx-f16", figures(layers={"MatMul": 9.0}), precision="float16")
    checkpoint, int4 = form("distilled-transformers-int8"), form("distilled-onnx-int4", precision="int4")
    weights = Recipe(quantize=Quantize(scheme="weight-only-int4"))
    remedy = only(case(slow, checkpoint, int4, recipe=weights))
    assert remedy.artifact is None
    assert remedy.change is not None
    assert remedy.change.proposed == "dynamic-int8"
    static = figures(layers={"DequantizeLinear": 9.0})
    remedies = profile_remedies(case(form(found=static), streamed=True, recipe=STREAMED))
    assert [(one.code, one.change) for one in remedies] == [("rounding", None)]  # ranges need the model in memory
    # A network's convolutions are no attention, and to convert is no product.
    assert profile_remedies(case(form(found=figures(layers={"Conv": 5.0, "QLinearConv": 5.0})))) == ()
    assert profile_remedies(case(replace(slow, figures=figures(layers={"Convert": 9.0})))) == ()


def test_rounding_in_each_pass_asks_for_calibrated_ranges() -> None:
    found = figures(layers={"MatMulInteger": 8.0, "QuantizeLinear": 1.0, "DequantizeLinear": 1.0})
    remedy = only(case(form(found=found)))
    assert remedy.code == "rounding"
    assert remedy.change is not None
    assert remedy.change.proposed == "static-int8"
    assert profile_remedies(case(form(found=found), recipe=Recipe(quantize=Quantize(scheme="static-int8")))) == ()


def test_operators_that_were_not_joined_ask_for_another_runtime() -> None:
    found = figures(layers={"QLinearConv": 6.0, "BatchNormalization": 2.0, "Relu": 2.0})
    remedy = only(
        case(form(found=found), form("distilled-transformers-int8", figures()), task="image-classification", family="network")
    )
    assert remedy.code == "unfused_operators"
    assert "40%" in remedy.cause
    assert "1 BatchNormalization" in remedy.cause
    assert remedy.change is not None
    assert (remedy.change.key, remedy.change.proposed) == ("recipe.artifacts", ["timm", "openvino-int8"])
    shipped = case(form(found=found), form("distilled-openvino-f16"), task="image-classification")
    assert only(shipped).artifact == "art_distilled-openvino-f16"


@pytest.mark.parametrize(
    ("family", "task", "recipe", "expected"),
    [
        ("llama", "causal-lm", FLOAT, ["transformers", "gguf-q8-0"]),
        ("deepseek_v3", "causal-lm", FLOAT, None),
        ("bert", "text-classification", FLOAT, ["transformers", "openvino-f16"]),
        ("bert", "text-classification", Recipe(quantize=Quantize(scheme="weight-only-int8")), ["transformers", "openvino-f16"]),
        ("bert", "text-classification", Recipe(artifacts=("onnx-f16",)), ["onnx-f16", "openvino-int8"]),
    ],
)
def test_only_a_format_that_the_model_can_have_is_to_be_shipped(
    family: str, task: Task, recipe: Recipe, expected: list[str] | None
) -> None:
    found = figures(layers={"Gelu": 2.0, "QLinearMatMul": 8.0})
    remedies = profile_remedies(case(form(found=found), recipe=recipe, family=family, task=task))
    changes = [one.change.proposed for one in remedies if one.code == "unfused_operators" and one.change is not None]
    assert changes == ([expected] if expected else [])


def test_widths_beside_the_multiple_ask_for_rounding() -> None:
    row = distilled()
    odd = row.model_copy(update={"shape": row.shape.model_copy(update={"ffn": 715})})
    narrow = Recipe(prune=Prune(multiple=1))
    found = form(found=figures(layers={"MatMulInteger": 9.0, "Softmax": 1.0}))
    remedy = only(case(found, recipe=narrow, row=odd))
    assert (remedy.code, "ffn 715" in remedy.cause) == ("unaligned_widths", True)
    assert remedy.change is not None
    assert (remedy.change.key, remedy.change.now, remedy.change.proposed) == ("recipe.prune.multiple", 1, 64)
    even = row.model_copy(update={"shape": row.shape.model_copy(update={"ffn": 704})})
    assert profile_remedies(case(found, recipe=narrow, row=even)) == ()
    assert profile_remedies(case(found, recipe=INTEGERS, row=odd)) == ()  # it rounds already, as far as it can
    own = row.model_copy(update={"shape": row.shape.model_copy(update={"layers": 2}).with_ffns((704, 715))})
    assert "1 widths are no multiple of 64: ffn.1 715" in only(case(found, recipe=narrow, row=own)).cause
    network = Shape(layers=2, hidden=12, heads=0, ffn=0, vocabulary=0, widths={"channels.0": 16, "channels.1": 11})
    remedy = only(case(found, recipe=narrow, row=row.model_copy(update={"shape": network})))
    assert "1 widths are no multiple of 8: channels.1 11" in remedy.cause
    rounded = row.model_copy(update={"shape": network})
    wide = narrow.model_copy(update={"prune": Prune(ratio=0.5, multiple=16)})
    assert profile_remedies(case(found, recipe=wide, row=rounded)) == ()  # its vectors hold no more
    heads = network.model_copy(update={"widths": {"heads.0": 3, "ffn.0": 16}})
    assert profile_remedies(case(found, recipe=narrow, row=row.model_copy(update={"shape": heads}))) == ()


def test_many_small_layers_ask_for_rows_together() -> None:
    layers = [{"name": f"/{number}", "type": "Add", "ms": 0.01} for number in range(60)]
    small = ProfileFigures.of(Profile.model_validate(measured({"length": 64}, layers=layers)))
    remedy = only(case(form(found=small)))
    assert (remedy.code, remedy.request) == ("small_operators", ProfileRequest(length=64, batch=8))
    assert "60 layers of 10 µs" in remedy.cause
    together = ProfileRequest(length=64, batch=8)
    assert profile_remedies(case(form(found=small), request=together)) == ()


def test_weights_that_memory_gives_no_faster_ask_for_fewer_bits() -> None:
    decoding = {"median_ms": 10.0, "p95_ms": 10.0, "samples_ms": [10.0]}
    found = figures(200.0, decoding=decoding)
    large = form(found=found, bytes=80_000_000)
    remedy = only(case(large))
    assert (remedy.code, "reads 80 MB of weights: 8 GB/s" in remedy.cause) == ("memory_traffic", True)
    assert remedy.change is not None
    assert remedy.change.proposed == "weight-only-int4"
    assert only(case(replace(large, precision="float16"), recipe=FLOAT)).change is not None
    assert only(case(replace(large, precision="int4"))).request == ProfileRequest(length=64, batch=8)
    # What llama.cpp reads follows from no scheme: the smaller form is one more to ship, in a job without quantize too.
    for recipe in (INTEGERS, FLOAT):
        change = only(case(replace(large, kind="gguf-q8-0"), recipe=recipe, family="llama", task="causal-lm")).change
        assert change is not None
        assert (change.key, change.proposed) == ("recipe.artifacts", ["transformers", "gguf-q4-0"])
    assert only(case(large, recipe=FLOAT)).change is None
    assert profile_remedies(case(replace(large, kind="genai", precision="int4"))) == ()  # it takes rows one by one
    smaller = form("distilled-gguf-q4-0", bytes=40_000_000)
    assert only(case(large, smaller)).artifact == smaller.id
    assert profile_remedies(case(replace(large, bytes=20_000_000))) == ()  # caches hold them
    assert profile_remedies(case(form(found=figures(200.0), bytes=80_000_000))) == ()  # 0.4 GB/s: computing takes the time


def test_a_first_load_that_waits_for_the_disk_is_told() -> None:
    slow = figures(100.0, load={"first_ms": 4000.0, "warm_ms": 400.0})
    remedy = only(case(form(found=slow, bytes=90_000_000), form("distilled-onnx-f16", bytes=50_000_000)))
    assert (remedy.code, remedy.artifact) == ("slow_load", "art_distilled-onnx-f16")
    assert "4,000 ms, a later one 400 ms" in remedy.cause
    assert "lathe serve" in only(case(form(found=slow))).remedy
    assert "lathe serve" not in only(case(form(found=slow), task="causal-lm")).remedy  # it serves no language models
    checkpoint = form("distilled-transformers-int8", bytes=10_000_000)
    assert only(case(form(found=slow, bytes=90_000_000), checkpoint)).artifact is None
    assert profile_remedies(case(form(found=figures(load={"first_ms": 4000.0, "warm_ms": 3900.0})))) == ()


def test_a_profile_that_waits_has_no_remedies() -> None:
    assert profile_remedies(case(form())) == ()


def failed(code: str, **facts: Any) -> ProfileFailure:
    return ProfileFailure.model_validate({"code": code, "detail": "as the runtime says", "remedy": "Mend it.", **facts})


@pytest.mark.parametrize(
    ("request_", "expected"), [({"batch": 5, "length": 64}, {"batch": 2, "length": 64}), ({"length": 64}, {"length": 32})]
)
def test_what_did_not_fit_in_memory_is_asked_for_in_halves(request_: dict[str, int], expected: dict[str, int]) -> None:
    found = only(case(form(), failure=failed("out_of_memory"), request=ProfileRequest(**request_)))
    assert found.request == ProfileRequest(**expected)
    assert f"of {min(expected.values())}," in found.remedy


def test_at_one_row_a_smaller_form_is_offered_if_there_is_one() -> None:
    row = {"failure": failed("out_of_memory"), "request": ProfileRequest()}
    smaller = form("distilled-onnx-f16", bytes=500_000)
    assert only(case(form(), smaller, **row)).artifact == smaller.id
    assert only(case(form(), form("distilled-onnx-f16"), **row)).artifact is None


def test_what_a_runtime_lacks_leads_to_a_form_of_another() -> None:
    others = form("distilled-onnx-f16"), form("distilled-transformers-int8"), form("distilled-openvino-f16")
    lacks = failed("unsupported", subject="Unheard")
    found = only(case(form(), *others, failure=lacks))
    assert found.artifact == "art_distilled-openvino-f16"
    assert found.cause == "Unheard: as the runtime says"
    assert "distilled-openvino-f16 runs in OpenVINO" in found.remedy
    opened = (*others, form("distilled-openvino-int8", figures()))
    assert only(case(form(), *opened, failure=lacks)).artifact == "art_distilled-openvino-int8"
    assert only(case(form(), form("distilled-genai"), failure=lacks)).artifact is None  # ONNX Runtime too
    assert only(case(form(), failure=failed("version_mismatch", subject="Opset 99"))).artifact is None


def test_sizes_that_fit_and_what_may_have_been_chance_are_asked_for_again() -> None:
    fits = ProfileRequest(length=32)
    assert only(case(form(), failure=failed("unsupported", subject="input_ids", request=fits))).request == fits
    assert only(case(form(), failure=failed("device_lost"))).request == REQUEST
    assert only(case(form(), failure=failed("bad_artifact"))).request is None


def test_operators_are_summed_by_type_and_bounded() -> None:
    layers = [LayerTime(name=f"{kind}{number}", type=f"T{kind}", ms=kind) for kind in range(50) for number in range(5)]
    found = operator_times(layers)
    assert len(found) == MOST_OPERATORS
    assert (found[0].type, found[0].count, found[0].ms, len(found[0].slowest)) == ("T49", 5, 245.0, 3)


def test_the_page_has_a_line_for_each_code() -> None:
    text = (ROOT / "docs" / "profiles.md").read_text("utf-8").partition("## What to try")[2]
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(get_args(SlowCode))


@pytest.mark.fresh
def test_a_real_profile_names_its_float_products(tmp_path: Path) -> None:
    folder = artifact(tmp_path / "artifact", proto=classifier(width=1024, outputs=2048))
    profiled = ProfileFigures.of(command.profile(spec_of(folder, length=1), tmp_path))
    found = {one.code: one for one in profile_remedies(case(form("baseline-onnx-float32", profiled), recipe=FLOAT))}
    assert "1 MatMul (slowest: project)" in found["float_products"].cause
    assert found["float_products"].change is not None
