"""What is pruned, by which criterion, how far and in how many steps, and how the model recovers."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Field,
    TypeAdapter,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from compression.schema.config import Config
from compression.schema.recipe.base import Axis, Epochs, Patience, Rate
from compression.schema.recipe.finalists import Finalists
from compression.schema.searches import SEARCHES
from compression.schema.specs import MOST_POINTS


class Recovery(Config):
    """Training right after the cut. In steps: layers join from shallow to deep; L2 adapts to the validation score."""

    epochs: Annotated[Epochs, Field(description="Passes over the train split; of all steps together.")] = 20
    rate: Rate = 1e-5
    shallow_first: bool = True
    """Unfreeze gradually, from the shallowest layer on, one in each equal share of the epochs; in the last share the whole
    model trains, with embeddings and head. false: all from the start."""
    adapt_l2: Annotated[bool, Field(description="Double weight decay when validation falls, halve it when it rises.")] = True
    patience: Annotated[Patience, Field(description="Counted from the epoch in which the whole model learns.")] = None
    by: Literal["labels", "teacher"] = "labels"
    """labels: the task's own loss. teacher: distillation from the baseline's outputs at distill's temperature after each cut
    (Minitron)."""


Share = Annotated[float, Field(gt=0, lt=1)]


class AxisRatios(Config):
    """A ratio per axis: the share removed; null leaves the axis unchanged.

    If `axes` is left out, one of hidden and heads that is named alone applies to both. GPT-2 can only shrink both together, at
    one ratio. Encoders can shrink hidden alone too, or by more than heads; the size of heads then falls. Other decoders can
    shrink each alone. `axes` states which is alone.
    """

    hidden: Annotated[Share | None, Field(description="Share of the channels of the stream between layers.")] = None
    heads: Share | None = None
    """Share of each layer's attention heads; in decoders whole groups: a KV head and its query heads."""
    ffn: Annotated[Share | None, Field(description="Share of each layer's feed-forward units.")] = None
    layers: Annotated[Share | None, Field(description="Share of the layers, each as a whole.")] = None
    experts: Annotated[Share | None, Field(description="Share of the routed experts of each layer (DeepSeek).")] = None
    expert_ffn: Share | None = None
    """Share of each expert's units; shared experts shrink as much (DeepSeek)."""
    query_rank: Share | None = None
    """Share of the channels that queries are squeezed to (DeepSeek)."""
    kv_rank: Share | None = None
    """Share of the channels that keys and values are squeezed to (DeepSeek)."""
    channels: Share | None = None
    """Share of each convolution's channels, the residual stream (hidden) left out (networks of images)."""
    vocabulary: Annotated[float | None, Field(gt=0, le=1)] = None
    """Largest share of tokens to remove; tokens that the texts need stay. null: all others go."""


class TargetLatency(Config):
    """The artifact's target latency, at evaluate's shape, in its measuring runtime. One of the two."""

    speed_up: Annotated[float | None, Field(gt=1, le=1000, description="Times as fast as the baseline's artifact.")] = None
    milliseconds: Annotated[float | None, Field(gt=0, le=1e6, description="Median, on the worker that does the job.")] = None

    @model_validator(mode="after")
    def _one_is_given(self) -> "TargetLatency":
        if (self.speed_up is None) == (self.milliseconds is None):
            raise ValueError("name either speed_up or milliseconds")
        return self


MOST_EVALUATIONS = 20_000


class SearchBudget(Config):
    """When a search among widths ends, whichever comes first."""

    evaluations: Annotated[int, Field(ge=1, le=MOST_EVALUATIONS, description="Predictions of a cut's error and costs.")] = 1000
    seconds: Annotated[float, Field(gt=0, le=3600)] = 300.0
    """If this ends it, another run may try more or less, and find other widths."""


TARGET_KEYS = ("target_params", "target_flops", "target_bytes", "target_latency")
"""Keys of a cut that say how far it goes, in place of the ratio."""
USUAL_AXES: tuple[Axis, ...] = ("hidden", "heads", "ffn")
SHRINKING: tuple[Axis, ...] = tuple(axis for axis in get_args(Axis) if axis != "vocabulary")
"""The axes that a ratio can be given for; the texts determine the cut of the vocabulary."""
_share: TypeAdapter[float] = TypeAdapter(Share)


def _by_kind(value: Any, _: ValidatorFunctionWrapHandler) -> float | AxisRatios:
    # Not pydantic's union: its errors name `ratio.float` and `ratio.AxisRatios`, which are not fields of the recipe.
    return AxisRatios.model_validate(value) if isinstance(value, Mapping | AxisRatios) else _share.validate_python(value)


USUAL_MULTIPLE = 64
Multiple = Annotated[int, Field(ge=1, le=256)]
_multiple: TypeAdapter[int] = TypeAdapter(Multiple)


def _multiple_or_auto(value: Any, _: ValidatorFunctionWrapHandler) -> int | Literal["auto"]:
    if isinstance(value, str | bool):
        if value == "auto":
            return "auto"
        raise ValueError(f"must be a number or 'auto', not {json.dumps(value)}")
    return _multiple.validate_python(value)


class Prune(Config):
    """Remove whole channels, heads, feed-forward units, experts, layers or tokens: shapes really shrink."""

    ratio: Annotated[Share | AxisRatios, WrapValidator(_by_kind)] = 0.3
    """Share of units to remove, for all axes or for each. The vocabulary keeps what the texts need, unless it has its own
    ratio. With a target the ratios only say how the axes compare to each other."""
    axes: Annotated[tuple[Axis, ...], Field(min_length=1)] = USUAL_AXES
    """Axes to shrink; by default those that ratio names, if it does; else, of a network of images, those of channels, heads and
    ffn that it has."""
    target_params: Annotated[float | None, Field(gt=0, le=1e15)] = None
    """Target of the mildest cut: the most parameters to keep (1 and above), or the least share to remove (below 1)."""
    target_flops: Annotated[float | None, Field(gt=0, le=1e18)] = None
    """Target of the mildest cut: the most multiply-adds of one image, or of one text of evaluate.length tokens, to keep (1 and
    above), or the least share to remove (below 1)."""
    target_bytes: Annotated[float | None, Field(gt=0, le=1e15)] = None
    """Target of the mildest cut: the most bytes of the artifact's weights in the recipe's scheme (1 and above), or the least
    share to remove of what the whole model's take in it (below 1). Bytes are counted as forecasts count them."""
    target_latency: TargetLatency | None = None
    """Target of the mildest cut: a latency. Shapes are measured on the worker."""
    steps: Annotated[int, Field(ge=1, le=20)] = 1
    """Number of cuts, each followed by its share of recovery; the size falls geometrically."""
    importance: Literal["l1", "l1_weight", "l2", "l2_weight", "bn_scale", "taylor"] = "l1"
    """l1, l2: norm of a unit's activations on calibration rows. l1_weight, l2_weight: L1 or L2 norm of its weights. bn_scale:
    size of its batch normalization's factors, in networks that have them (Liu et al. 2017). taylor: first-order change of the
    loss without it. Layers are always chosen by how much they change their input; residual blocks of a network
    of images by that for each millisecond that they take."""
    search: Literal["solver", "tpe", "nsga2", "rl"] | None = None
    """Who chooses the widths. null: each axis loses alike. solver: the widths, and the layers if they are cut, whose outputs
    change least by the error tables, within all targets, or with no more parameters than the ratio would leave. tpe, nsga2:
    samplers (Optuna) that look for the same. rl: an agent that learns to (AMC). The report has the solver beside these."""
    free_widths: bool = False
    """Let the search choose the feed-forward units of each layer, in encoders of text. Graphs (ONNX, OpenVINO) have these
    widths; a checkpoint for transformers has the widest for all layers, narrower ones filled with zeros, and answers alike.
    false: one width for all layers, as a stock config states it."""
    mixed_bits: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """Let the search choose the bits of each layer, in text models whose scheme is weight-only-int4: 8 (weight-only-int8) in
    layers where that takes more from the error than wider layers would for the same bytes. It needs target_bytes. Not beside
    free_widths, points or experts. false: 4 bits in all layers."""
    search_budget: SearchBudget = SearchBudget()
    """How long tpe, nsga2 and rl may look; the solver needs one evaluation."""
    finalists: Finalists | None = None
    """Distill the best few cuts of the solver shortly before one is taken. null: the answers of untrained cuts decide alone."""
    points: Annotated[int, Field(ge=1, le=MOST_POINTS)] = 1
    """Sizes that the job distills and ships, by one set of error tables and one general phase. The target, or the ratio, is of
    the smallest; each of the others is larger than the next by the same factor. Above 1 it needs search: solver."""
    multiple: Annotated[Multiple | Literal["auto"], WrapValidator(_multiple_or_auto)] = USUAL_MULTIPLE
    """The feed-forward width is rounded to this multiple; in decoders also hidden, expert widths and ranks. Channels of a
    network of images are rounded to a multiple of 8, or of this if it is less. auto: the smallest from which on the worker's
    device table shows no width that takes longer than a wider one."""
    calibration_rows: Annotated[int, Field(ge=8, le=8192, description="Rows of train that the activations come from.")] = 512
    reconstruct: bool = False
    """Fit the remaining linear layers to the whole model's outputs by least squares, one after another, on at most 16,384
    tokens of the calibration rows (He et al. 2017), before any training. Not done beside search, whose cut has weights that
    least squares have updated already."""
    refresh_statistics: bool = True
    """Estimate the means and variances of batch normalization again on the calibration rows, after a cut."""
    stock: bool = False
    """Give all layers of a network's stage the same width, so that the stock config of its library can state them. false: each
    layer has its own width."""
    sensitivity: bool = False
    """Score cuts of each axis alone, at several ratios and untrained, on validation, for the report."""
    recovery: Recovery | None = None

    @model_validator(mode="before")
    @classmethod
    def _axes_follow_from_ratios(cls, given: Any) -> Any:
        ratio = given.get("ratio") if isinstance(given, Mapping) else None
        if not isinstance(ratio, Mapping | AxisRatios) or "axes" in given:
            return given
        named = ratio if isinstance(ratio, Mapping) else dict(ratio)
        axes = tuple(axis for axis in get_args(Axis) if named.get(axis) is not None)
        if "hidden" in axes or "heads" in axes:
            axes = tuple(axis for axis in get_args(Axis) if axis in {*axes, "hidden", "heads"})
        return {**given, "axes": axes}

    @field_validator("points")
    @classmethod
    def _sizes_are_solved_for(cls, points: int, known: ValidationInfo) -> int:
        if points > 1 and known.data.get("search", "solver") != "solver":  # without it, its own error is the one to mend
            raise ValueError(f"{points} sizes are solved for by error tables: set search to solver")
        return points

    @model_validator(mode="after")
    def _keys_agree(self) -> "Prune":
        if len(set(self.axes)) != len(self.axes):
            raise ValueError("axes names the same axis twice")
        if isinstance(self.ratio, AxisRatios):
            for axis in get_args(Axis):
                if getattr(self.ratio, axis) is not None and axis not in self.axes:
                    raise ValueError(f"ratio names {axis}, and axes does not")
                if axis in self.axes and axis != "vocabulary" and not self.ratios[axis]:
                    raise ValueError(f"axes names {axis}, and ratio does not")
        if self.search is None and sum(getattr(self, key) is not None for key in TARGET_KEYS) > 1:
            raise ValueError(f"name one of {', '.join(TARGET_KEYS)}; prune.search: solver takes several")
        if self.search is not None and (self.steps > 1 or self.stock or set(self.axes) <= {"vocabulary"}):
            why = "cuts once" if self.steps > 1 else "gives each layer its own width" if self.stock else "chooses no tokens"
            raise ValueError(f"search {why}: leave out {'steps' if self.steps > 1 else 'stock' if self.stock else 'it'}")
        if self.free_widths and (self.search is None or "ffn" not in self.axes):
            raise ValueError("free_widths is of feed-forward units that a search chooses: set search, and name ffn in axes")
        if self.finalists is not None and self.search != "solver":
            raise ValueError("finalists are cuts that the solver chooses: set search to solver")
        if self.search_budget != SearchBudget() and (self.search is None or not SEARCHES[self.search].budgeted):
            raise ValueError("search_budget is of searches that end with it: name tpe, nsga2 or rl as prune.search")
        if self.has_target and set(self.axes) <= {"vocabulary"}:
            raise ValueError("a target needs an axis other than vocabulary, whose cut follows from the texts")
        if self.steps > 1 and (self.recovery is None or self.recovery.epochs < self.steps):
            raise ValueError(f"{self.steps} steps need recovery of at least as many epochs, or they are one cut")
        return self

    @property
    def reconstructs(self) -> bool:
        """Return whether layers are solved anew after a cut: a search's keeps the weights that its tables assume."""
        return self.reconstruct and self.search is None

    @property
    def rounding(self) -> int:
        """Return the multiple, or the usual one as long as the device table has not decided."""
        return USUAL_MULTIPLE if self.multiple == "auto" else self.multiple

    @property
    def has_target(self) -> bool:
        """Return whether the ratios follow from a target."""
        return any(getattr(self, key) is not None for key in TARGET_KEYS)

    @property
    def has_size_target(self) -> bool:
        """Return whether there is a target that shapes alone decide, without a measurement."""
        return any(getattr(self, key) is not None for key in TARGET_KEYS if key != "target_latency")

    @property
    def ratios(self) -> dict[Axis, float]:
        """Return the requested ratio of each axis except the vocabulary, 0 if there is none."""
        one = self.ratio
        if not isinstance(one, AxisRatios):
            return {axis: one if axis in self.axes else 0.0 for axis in SHRINKING}
        each = {**dict(one), "hidden": one.hidden or one.heads, "heads": one.heads or one.hidden}
        return {axis: each[axis] or 0.0 if axis in self.axes else 0.0 for axis in SHRINKING}

    @property
    def deepest(self) -> float:
        """Return the largest of the ratios; 0 if only the vocabulary is cut."""
        return max(self.ratios.values())

    @property
    def vocabulary_ratio(self) -> float:
        """Return the maximum share of tokens to remove: 0 if none, 1 if only the texts decide."""
        if "vocabulary" not in self.axes:
            return 0.0
        return self.ratio.vocabulary or 1.0 if isinstance(self.ratio, AxisRatios) else 1.0
