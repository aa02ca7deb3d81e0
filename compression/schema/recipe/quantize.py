"""The simulated integers, how their ranges are found, and quantization-aware training."""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from compression.schema.config import Config
from compression.schema.recipe.base import Epochs, Observer, Rate
from compression.schema.schemes import SCHEMES, Scheme


class Qat(Config):
    """Quantization-aware training with a progressive schedule.

    Its phases: full precision, a growing share of layers, all layers.
    """

    full: Annotated[Epochs, Field(description="First so many epochs in full precision: no layer is simulated.")] = 5
    ramp: Annotated[
        Epochs, Field(description="Then so many with a share of the layers simulated that grows from epoch to epoch.")
    ] = 10
    quantized: Annotated[Epochs, Field(description="At last so many with all layers simulated.")] = 5
    rate: Rate = 2e-5
    order: Annotated[
        Literal["sensitivity", "depth"],
        Field(
            description="Which depths are quantized first in the ramp. sensitivity: those that change the logits least when "
            "they alone are quantized, measured on calibration rows of train. depth: shallow ones first."
        ),
    ] = "sensitivity"

    @property
    def epochs(self) -> int:
        """Return the epochs of all three phases together."""
        return self.full + self.ramp + self.quantized


Alpha = Annotated[float, Field(gt=0, lt=1)]
_alpha: TypeAdapter[float] = TypeAdapter(Alpha)
SEARCH: Literal["search"] = "search"


def _by_kind(value: Any, _: ValidatorFunctionWrapHandler) -> float | Literal["search"] | None:
    # As for a cut's ratio: a union's errors would name fields that the recipe does not have.
    if value is None or value == SEARCH:
        return None if value is None else SEARCH
    if isinstance(value, str):
        raise ValueError(f"{value!r} is neither a number between 0 and 1 nor {SEARCH!r}")
    return _alpha.validate_python(value)


class Quantize(Config):
    """Simulate the integers of the exported artifact from here on; docs/numerics.md defines each scheme."""

    scheme: Annotated[
        Scheme,
        Field(
            description="dynamic-int8: int8 weights per output channel, 8-bit activations per token. static-int8: 8-bit "
            "activations with one calibrated range a layer. weight-only-int8, weight-only-int4: activations stay floating "
            "point; int4 has one scale a group of inputs. Embeddings are int8 per row in all of them."
        ),
    ] = "dynamic-int8"
    group_size: Annotated[
        Literal[16, 32, 64, 128, 256],
        Field(description="Of weight-only-int4: inputs of an output channel that share one scale."),
    ] = 32
    portable: Annotated[
        bool,
        Field(
            description="Of dynamic-int8 and static-int8: weights stay within ±63 where they meet activations, so that their "
            "products are exact on every processor. false: ±127, which x86 without VNNI multiplies exactly only with ONNX "
            "Runtime's session.x64quantprecision. Weight-only files are portable as they are."
        ),
    ] = True
    observer: Annotated[
        Observer,
        Field(
            description="Of static-int8: what a layer's range is. min-max: all that was seen. percentile: the middle "
            "`percentile` per cent of it. mse: where clipping and rounding together have the least squared error."
        ),
    ] = "mse"
    percentile: Annotated[
        float, Field(ge=50, lt=100, description="Of the observer percentile: per cent of the values that the range holds.")
    ] = 99.99
    calibration_rows: Annotated[
        int,
        Field(
            ge=8,
            le=8192,
            description="Rows of train, drawn with train.seed, that ranges, sensitivities and the check of ranges come from.",
        ),
    ] = 512
    smoothing: Annotated[
        Alpha | Literal["search"] | None,
        WrapValidator(_by_kind),
        Field(
            description="Channels are scaled before they are rounded, where the float model stays the same: by SmoothQuant's "
            "α, which moves outliers of activations into weights, or by factors that are searched for, layer by layer, by what "
            "rounding costs (search; left out where a model goes from file to file); null: not at all."
        ),
    ] = None
    qat: Annotated[Qat | None, Field(description="Train with the simulated integers before pruning.")] = None

    @model_validator(mode="after")
    def _nothing_is_set_that_has_no_effect(self) -> "Quantize":
        defaults = {name: field.default for name, field in Quantize.model_fields.items()}
        owners = {"group_size": "weight-only-int4", "observer": "static-int8", "percentile": "static-int8"}
        for name, scheme in owners.items():
            if getattr(self, name) != defaults[name] and self.scheme != scheme:
                raise ValueError(f"{name} is of {scheme} alone, and the scheme is {self.scheme}")
        if self.percentile != defaults["percentile"] and self.observer != "percentile":
            raise ValueError(f"percentile is of the observer percentile alone, and the observer is {self.observer}")
        if not self.portable and not SCHEMES[self.scheme].rounds_activations:
            raise ValueError(f"portable: false is for rounded activations, and {self.scheme} leaves them in floating point")
        if isinstance(self.smoothing, float) and not SCHEMES[self.scheme].rounds_activations:
            raise ValueError(f"an α of smoothing is for rounded activations, and {self.scheme} leaves them in floating point")
        return self
