"""Which formats a recipe may ask for, and which a job ships without being asked."""

from dataclasses import replace
from typing import Any

import pytest

from compression.planning import formats
from compression.planning.preflight import preflight
from compression.schema.artifact_formats import ARTIFACT_FORMATS, further_formats
from compression.schema.errors import InvalidSpec
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import JobEvaluate, Recipe
from compression.schema.specs import FormatSpec
from compression.schema.validation import ModelFacts
from tests.compression.planning.test_planning import DATA, MODEL
from tests.support.facts import SMOLLM2, V3


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> FormatSpec:
    """Return a format of language models of one family, which is shipped only if a recipe names it."""
    found = replace(ARTIFACT_FORMATS["timm"], name="spoken", by_default=False, generates=True, families=("llama",))
    monkeypatch.setitem(ARTIFACT_FORMATS, "spoken", found)
    return found


def facts(family: str) -> ModelFacts:
    """Return facts of a model of a family; DeepSeek's has experts."""
    shape = V3 if family.startswith("deepseek") else SMOLLM2
    return MODEL.model_copy(update={"family": family, "shape": shape})


def asking(*names: str, quantize: Quantize | None = None) -> Recipe:
    """Return a recipe that asks for formats, known to recipes or not."""
    return Recipe(quantize=quantize).model_copy(update={"artifacts": names})


def test_a_job_ships_what_its_recipe_names_or_else_the_usual_formats(spoken: FormatSpec) -> None:
    assert [*further_formats(None)] == ["transformers", "timm"]
    assert further_formats(("onnx", "spoken")) == {"spoken": spoken}
    assert further_formats(()) == {}


@pytest.mark.parametrize(
    ("family", "task", "cause"),
    [
        ("llama", "text-classification", "it is a format of language models, and the data is for text-classification"),
        ("qwen2", "causal-lm", "it has no models of the family qwen2; it has llama"),
    ],
)
def test_a_format_that_cannot_hold_the_model_is_refused(spoken: FormatSpec, family: str, task: str, cause: str) -> None:
    asked = asking("onnx", spoken.name)
    formats.check_formats(asked, facts("llama"), "causal-lm")
    formats.check_formats(Recipe(), facts(family), task)
    with pytest.raises(InvalidSpec) as refused:
        formats.check_formats(asked, facts(family), task)
    assert (refused.value.cause, refused.value.param) == (
        f"spoken cannot be shipped of this model: {cause}",
        "recipe.artifacts",
    )


@pytest.mark.parametrize(
    ("name", "family", "quantize", "cause"),
    [
        ("timm", "bert", None, "it has no models of the family bert; it has network"),
        ("ct-w8a8", "gpt2", None, "compressed-tensors leaves the linear layers of gpt2 (Conv1D) in floating point"),
        ("ct-fp8", "deepseek_v3", None, "compressed-tensors has no form of experts whose weights are in one tensor a layer"),
        ("openvino-int8", "bert", None, "quantize is null, so that the model has no integers"),
        (
            "openvino-int8",
            "bert",
            Quantize(scheme="weight-only-int4"),
            "OpenVINO's 8-bit layers read 8-bit activations, which weight-only-int4 leaves in floating point",
        ),
    ],
)
def test_what_family_and_scheme_tell_is_refused_with_what_the_model_can_have(
    name: str, family: str, quantize: Quantize | None, cause: str
) -> None:
    with pytest.raises(InvalidSpec) as refused:
        formats.check_formats(asking(name, quantize=quantize), facts(family), "text-classification")
    assert (refused.value.cause, refused.value.param) == (
        f"{name} cannot be shipped of this model: {cause}",
        "recipe.artifacts",
    )
    leave, _, others = str(refused.value.remedy_text).partition(". What this model can have: ")
    assert leave == f"Leave {name} out"
    can = others.rstrip(".").split(", ")
    assert {"onnx", "transformers", "openvino-f16"} <= {*can}
    formats.check_formats(asking(*can, quantize=quantize), facts(family), "text-classification")


def test_a_forecast_refuses_it_and_experts_count_only_where_there_are_any() -> None:
    with pytest.raises(InvalidSpec, match="timm cannot be shipped"):
        preflight(MODEL, DATA, Recipe(artifacts=("timm",)), JobEvaluate())
    dense = V3.model_copy(update={"experts": V3.experts and V3.experts.model_copy(update={"dense_layers": V3.layers})})
    formats.check_formats(asking("ct-fp8"), facts("deepseek_v3").model_copy(update={"shape": dense}), "text-classification")


def test_a_stored_recipe_has_no_word_of_artifacts_unless_it_names_them() -> None:
    assert "artifacts" not in Recipe().model_dump(mode="json")
    assert Recipe.model_validate({"artifacts": ["transformers"]}).model_dump(mode="json")["artifacts"] == ["transformers"]


@pytest.mark.parametrize(
    ("quantize", "artifacts", "passes"),
    [
        ({"calibration_rows": 8192}, ["openvino-int8"], 0.5),
        ({"calibration_rows": 8192}, ["openvino-f16"], 0.0),
        ({"calibration_rows": 8192, "scheme": "static-int8"}, ["openvino-int8"], 0.0),
        (None, ["openvino-f16"], 0.0),
    ],
)
def test_the_forecast_counts_the_rows_that_ranges_of_a_format_are_calibrated_on(
    quantize: dict[str, Any] | None, artifacts: list[str], passes: float
) -> None:
    recipe = Recipe.model_validate({"quantize": quantize, "artifacts": artifacts})
    assert formats.ranging_passes(recipe, 16_384) == passes
    assert formats.ranging_passes(recipe, 100) == min(2 * passes, 1.0)
    data = DATA.model_copy(update={"rows": {**DATA.rows, "train": 16_384}})
    plain = Recipe.model_validate({"quantize": quantize, "artifacts": ["onnx-f16"]})
    more, less = (preflight(MODEL, data, each, JobEvaluate()).estimate.minutes for each in (recipe, plain))
    assert (more > less) == (passes > 0)
