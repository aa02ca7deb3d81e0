"""The simulated integers, how their ranges are found, and quantization-aware training."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from compression.schema.config import Config
from compression.schema.recipe.base import Epochs, Observer, Rate
from compression.schema.schemes import SCHEMES, Scheme


class Qat(Config):
    """Quantization-aware training in three phases: full precision, a growing share of layers, all layers."""

    full: Annotated[Epochs, Field(description="First phase: epochs in full precision, without simulated layers.")] = 5
    ramp: Annotated[Epochs, Field(description="Second phase: epochs with a growing share of simulated layers.")] = 10
    quantized: Annotated[Epochs, Field(description="Last phase: epochs with all layers simulated.")] = 5
    rate: Rate = 2e-5
    order: Literal["sensitivity", "depth"] = "sensitivity"
    """Depths to quantize first in the ramp. sensitivity: those that alone change the logits of calibration rows of train least.
    depth: shallow ones."""

    @property
    def epochs(self) -> int:
        """Return the epochs of all three phases together."""
        return self.full + self.ramp + self.quantized


USUAL_SCHEME: Scheme = "dynamic-int8"
if TYPE_CHECKING:
    AnyScheme: TypeAlias = str
else:
    AnyScheme = Literal[(*SCHEMES, "auto")]
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

    scheme: AnyScheme = USUAL_SCHEME
    """dynamic-int8: int8 weights per output channel, 8-bit activations per token. static-int8: 8-bit activations with one
    calibrated range per layer. weight-only-int8, weight-only-int4: activations in floating point; int4 has one scale per group
    of inputs. Embeddings are always int8 per row. auto: of dynamic-int8 and static-int8 the one that the worker's device table
    predicts to be faster."""
    group_size: Literal[16, 32, 64, 128, 256] = 32
    """For weight-only-int4: inputs of an output channel that share one scale."""
    portable: bool = True
    """For dynamic-int8 and static-int8: weights that are multiplied with activations stay within ±63 (of convolutions: as far
    within ±127 as their sums allow), so that products are exact on every processor. false: ±127, exact on x86 without VNNI only
    with ONNX Runtime's session.x64quantprecision. Weight-only files are portable anyway."""
    symmetric: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """For static-int8 on networks of images: ranges around 0 (int8 with zero point 0) and biases in float32, as TensorRT asks
    of QDQ files; not tried in TensorRT. Values that are never negative have half as many steps."""
    observer: Observer = "mse"
    """For static-int8: a layer's range. min-max: of all observed values. percentile: of the middle `percentile` percent of
    them. mse: with the least squared error of clipping and rounding together."""
    percentile: Annotated[float, Field(ge=50, lt=100)] = 99.99
    """For the observer percentile: percent of the values within the range."""
    calibration_rows: Annotated[int, Field(ge=8, le=8192)] = 512
    """Rows of train, sampled with train.seed, from which ranges, sensitivities and the check of ranges are computed."""
    smoothing: Annotated[Alpha | Literal["search"] | None, WrapValidator(_by_kind)] = None
    """Scale channels before rounding, if the float model stays the same: by SmoothQuant's α, which moves outliers of
    activations into weights, or by factors that are searched layer by layer for the least rounding error (search; not from file
    to file). null: no smoothing."""
    qat: Annotated[Qat | None, Field(description="Train with the simulated integers before pruning.")] = None

    @property
    def assumed(self) -> Scheme:
        """Return the scheme, or the usual one as long as the device table has not decided."""
        return USUAL_SCHEME if self.scheme == "auto" else self.scheme

    @model_validator(mode="after")
    def _nothing_is_set_that_has_no_effect(self) -> "Quantize":
        defaults = {name: field.default for name, field in Quantize.model_fields.items()}
        owners = {"group_size": "weight-only-int4"} | dict.fromkeys(("observer", "percentile", "symmetric"), "static-int8")
        for name, scheme in owners.items():
            if getattr(self, name) != defaults[name] and self.scheme != scheme:
                raise ValueError(f"only {scheme} has {name}, and the scheme is {self.scheme}")
        if self.percentile != defaults["percentile"] and self.observer != "percentile":
            raise ValueError(f"only the observer percentile has percentile, and the observer is {self.observer}")
        if not self.portable and not SCHEMES[self.assumed].rounds_activations:
            raise ValueError(f"portable: false needs rounded activations, and {self.scheme} leaves them in floating point")
        if isinstance(self.smoothing, float) and not SCHEMES[self.assumed].rounds_activations:
            raise ValueError(f"an α of smoothing needs rounded activations, and {self.scheme} leaves them in floating point")
        return self
