"""Which formats a recipe may ask for, and which a job ships without being asked."""

from dataclasses import replace
from typing import Any

import pytest

from compression.planning import formats
from compression.planning.preflight import preflight
from compression.schema.artifact_formats import ARTIFACT_FORMATS, further_formats
from compression.schema.errors import InvalidSpec
from compression.schema.recipe.recipe import JobEvaluate, Recipe
from compression.schema.specs import FormatSpec
from tests.compression.planning.test_planning import DATA, MODEL


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> FormatSpec:
    """Return a format of language models of one family, which is shipped only if a recipe names it."""
    found = replace(ARTIFACT_FORMATS["timm"], name="spoken", by_default=False, generates=True, families=("llama",))
    monkeypatch.setitem(ARTIFACT_FORMATS, "spoken", found)
    return found


def test_a_job_ships_what_its_recipe_names_or_else_the_usual_formats(spoken: FormatSpec) -> None:
    assert [*further_formats(None)] == ["transformers", "timm"]
    assert further_formats(("onnx", "spoken")) == {"spoken": spoken}
    assert further_formats(()) == {}


@pytest.mark.parametrize(
    ("family", "task", "cause"),
    [
        ("llama", "text-classification", "spoken is a format of language models, and the data is for text-classification"),
        ("qwen2", "causal-lm", "spoken has no models of the family qwen2; it has llama"),
    ],
)
def test_a_format_that_cannot_hold_the_model_is_refused(spoken: FormatSpec, family: str, task: str, cause: str) -> None:
    formats.check_formats((spoken.name,), "llama", "causal-lm")
    formats.check_formats(None, family, task)
    with pytest.raises(InvalidSpec) as refused:
        formats.check_formats(("onnx", spoken.name), family, task)
    assert (refused.value.cause, refused.value.param) == (cause, "recipe.artifacts")
    assert refused.value.remedy_text == "Leave spoken out."


def test_a_stored_recipe_has_no_word_of_artifacts_unless_it_names_them() -> None:
    assert "artifacts" not in Recipe().model_dump(mode="json")
    assert Recipe.model_validate({"artifacts": ["transformers"]}).model_dump(mode="json")["artifacts"] == ["transformers"]


@pytest.mark.parametrize(
    ("quantize", "artifacts", "passes"),
    [
        ({"calibration_rows": 8192}, ["openvino-int8"], 0.5),
        ({"calibration_rows": 8192}, ["openvino-f16"], 0.0),
        ({"calibration_rows": 8192, "scheme": "static-int8"}, ["openvino-int8"], 0.0),
        (None, ["openvino-int8"], 0.0),
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
