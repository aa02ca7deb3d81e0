"""Remedies of a profile: where its time goes, and what would take less on that device. Torch-free, pure.

What runtimes do not tell is not guessed: without times of layers, the remedies on operators are left out.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from compression.models.architectures.pruning_groups import axis_and_layer, key_of
from compression.planning.formats import PlannedModel, lacking
from compression.planning.on_disk import untrained
from compression.schema.artifact_formats import ARTIFACT_FORMATS, GENAI, GGUF, INTEGERS, ONNX, further_formats
from compression.schema.profile import ProfileFailure, ProfileRequest
from compression.schema.profile_figures import OperatorTime, ProfileFigures
from compression.schema.profile_remedies import ProfileRemedy
from compression.schema.recipe.base import Task
from compression.schema.recipe.presets import usual
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.measurements import Remedy, Row, Score
from compression.schema.report.written import plain
from compression.schema.schemes import SCHEMES, SchemeSpec
from compression.schema.specs import FormatSpec
from compression.schema.stages import DISTILLED, POINTS, PRUNED
from compression.schema.tasks import TASKS

GAIN = 0.1
"""Least part of a pass that a remedy must be able to save: two profiles of one artifact may differ by as much."""
IN_INTEGERS = 0.5
"""Part of a product's time that 8-bit integers save: they move a quarter of the bytes, and rounding takes some of that back."""
FIXED_MS = 0.02
"""A layer that takes less than this is mostly the runtime's fixed cost: its call, and the look-up of its tensors."""
MANY = 50
"""Layers from which the fixed cost adds up to a millisecond."""
TOGETHER = 8
"""Rows that a further profile is asked to take together."""
CACHED_BYTES = 32_000_000
"""Weights of fewer bytes stay in the caches of most processors, and are not read from memory in each pass."""
BYTES_PER_SECOND = 4e9
"""About half of what one core of a small board reads from memory: at this rate, reading weights is a large part of the time."""
SLOW_LOAD_MS, COLD = 1000.0, 3.0
"""A first load that a user waits for, and how many times the warm one it must be for the disk to be the cause."""
SMALLER = 0.75
"""Share of an artifact's bytes below which another form counts as smaller."""
VECTOR = {"unit": 64, "channel": 8}
"""Multiples that widths of linear layers and channels of convolutions should have: 64 int8 weights fill a cache line; runtimes
compute channels in blocks of 8 or 16."""

PRODUCTS = re.compile("MatMul|Gemm|Conv(?!ert)|FullyConnected|Attention")
"""Parts of the names of products, of all types. OpenVINO's Convert is none."""
SMALLEST_GGUF = "gguf-q4-0"
"""The format of llama.cpp with the fewest bits: its files are made of the trained weights, whatever the recipe's scheme is."""
FLOAT_PRODUCTS = {"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Conv", "FusedConv", "NhwcFusedConv", "Attention"}
FLOAT_PRODUCTS |= {"MultiHeadAttention", "TransposeMatMul"}
"""Types that compute in floating point, in a file of integers too. OpenVINO's FullyConnected and Convolution may do either."""
SEPARATE = {"BatchNormalization", "Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "Elu", "Mish", "Gelu"}
SEPARATE |= {"FastGelu", "Erf", "Eltwise", "QuickGelu", "Softplus"}
"""Normalizations and activations that have a layer of their own because the runtime did not join them to a product."""
ROUNDING = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ReduceMax", "ReduceMin", "Abs", "Round"}
"""What rounds activations by their own range, pass by pass, and makes floats of them again."""


@dataclass(frozen=True)
class Form:
    """An artifact of the job, as far as remedies read it."""

    id: str
    name: str
    kind: str
    stage: str
    precision: str
    bytes: int
    figures: ProfileFigures | None = None  #: on the same device, of the same request
    score: Score | None = None  #: on validation

    @property
    def is_integer(self) -> bool:
        """Return whether its weights are integers."""
        return self.precision in INTEGERS

    @property
    def runs_in(self) -> str:
        """Return the name of its runtime; "" of a format that is not installed here. genai generates with ONNX Runtime."""
        name = ARTIFACT_FORMATS[self.kind].runs_in if self.kind in ARTIFACT_FORMATS else ""
        return ONNX.runs_in if name == GENAI.runs_in else name

    @property
    def is_for_running(self) -> bool:
        """Return whether it is a form to run, not a checkpoint."""
        return self.kind in ARTIFACT_FORMATS and (ARTIFACT_FORMATS[self.kind].primary or ARTIFACT_FORMATS[self.kind].timed)


@dataclass(frozen=True)
class ProfiledCase:
    """A profile that was taken or failed, and what its remedies depend on."""

    form: Form  #: the profiled artifact
    others: Sequence[Form]  #: the job's other artifacts, of the same dataset
    request: ProfileRequest  #: with its sizes filled in, if the profile was taken
    recipe: Recipe
    failure: ProfileFailure | None = None
    row: Row | None = None  #: of the artifact's stage
    task: Task | None = None
    family: str | None = None  #: of the model
    needed: float | None = None  #: the score on validation that reaches the job's targets
    streamed: bool = False  #: the job went from file to file

    @cached_property
    def siblings(self) -> list[Form]:
        """Return the other forms of the same model that are for running."""
        return [one for one in self.others if one.stage == self.form.stage and one.is_for_running]

    @property
    def scheme(self) -> SchemeSpec | None:
        """Return the recipe's scheme."""
        return SCHEMES[self.recipe.quantize.assumed] if self.recipe.quantize is not None else None

    @property
    def rounds(self) -> bool:
        """Return whether the recipe's scheme rounds activations, so that integers are multiplied."""
        return self.scheme is not None and self.scheme.rounds_activations

    def multiplies_integers(self, form: Form) -> bool:
        """Return whether a form multiplies activations in integers too: not one of a scheme that rounds weights alone."""
        return form.is_for_running and form.precision == "int8" and (self.scheme is None or self.rounds)

    @property
    def generates(self) -> bool:
        """Return whether answers are next tokens, which `lathe serve` does not give."""
        return self.task in TASKS and TASKS[self.task].generates

    def may_have(self, spec: FormatSpec) -> bool:
        """Return whether nothing that is known speaks against a format of this model."""
        shape = self.row.shape if self.row is not None else None
        return lacking(spec, PlannedModel.of(self.family, shape, self.task, self.recipe)) is None

    def keeps_enough(self, form: Form) -> bool:
        """Return whether a form reaches the targets of the score on validation, as far as that is known."""
        if form.score is None or self.needed is None:
            return True
        return form.score.value <= self.needed if form.score.lower_is_better else form.score.value >= self.needed

    def share(self, types: Callable[[str], bool]) -> tuple[float, list[OperatorTime]]:
        """Return the share of time of some operators, and these operators, the slowest first."""
        known = self.form.figures.operators if self.form.figures is not None else ()
        found, total = [one for one in known if types(one.type)], sum(one.ms for one in known)
        return (sum(one.ms for one in found) / total if total else 0.0), found

    def change(self, key: str, proposed: Any, why: str) -> Remedy | None:
        """Return the change of a key of the recipe; None if it is none, if no recipe may have it, or if the stage is left out.

        A job that went from file to file may be too large for memory: it is offered nothing that needs the model there.
        """
        *path, last = key.split(".")
        place = changed = self.recipe.model_dump(mode="json")
        for name in path:
            place = place[name]
            if place is None:
                return None
        now = place.get(last)
        place[last] = proposed
        try:
            recipe = Recipe.model_validate(changed)
        except ValidationError:
            return None
        if self.streamed and not untrained(recipe):
            return None
        return None if now == proposed else Remedy(key=f"recipe.{key}", now=now, proposed=proposed, why=why)


def profile_remedies(case: ProfiledCase) -> tuple[ProfileRemedy, ...]:
    """Return the remedies of a profile, those of the largest effect first: none if it still waits."""
    if case.failure is not None:
        return (_of_failure(case, case.failure),)
    if case.form.figures is None:
        return ()
    return tuple(remedy for rule in RULES for remedy in rule(case, case.form.figures))


def _named(found: Sequence[OperatorTime]) -> str:
    """Return operators with their number and the name of the slowest, as text."""
    return ", ".join(f"{one.count} {one.type} (slowest: {one.slowest[0] or 'unnamed'})" for one in found[:3])


def _took(own: ProfileFigures, other: ProfileFigures) -> tuple[str, float, float]:
    """Return what two forms are compared by, and its milliseconds in each."""
    if own.decode_ms is not None and other.decode_ms is not None:
        return "A further token", own.decode_ms, other.decode_ms
    return "A pass", own.median_ms, other.median_ms


def _faster_form(case: ProfiledCase, own: ProfileFigures) -> Iterator[ProfileRemedy]:
    """The form that took the least: for a further token if both forms tell it, else for a pass."""
    timed = [(*_took(own, one.figures), one) for one in case.siblings if one.figures is not None and case.keeps_enough(one)]
    best = min(timed, key=lambda found: found[2] / found[1], default=None)
    if best is None:
        return
    what, now, then, form = best
    if then <= (1 - GAIN) * now:
        cause = f"{what} takes {plain(now)} ms here, and {plain(then)} ms as {form.name}, profiled on this device."
        yield ProfileRemedy(code="faster_form", cause=cause, remedy=f"Take {form.name}.", artifact=form.id)


def _float_products(case: ProfiledCase, _: ProfileFigures) -> Iterator[ProfileRemedy]:
    """Products in floating point: of a model without integers, of a scheme that rounds weights alone, or of attention."""
    form = case.form
    share, found = case.share((lambda name: name in FLOAT_PRODUCTS) if form.is_integer else _is_product)
    if share * IN_INTEGERS < GAIN:
        return
    cause = f"{share:.0%} of the time goes to products in floating point: {_named(found)}."
    integers = next((one for one in (*case.siblings, *reversed(case.others)) if case.multiplies_integers(one)), None)
    if not form.is_integer and integers is not None:
        remedy = f"Take {integers.name}, which multiplies integers."
        yield ProfileRemedy(code="float_products", cause=cause, remedy=remedy, artifact=integers.id)
    elif case.scheme is None:
        change = case.change("quantize", (usual(case.task).quantize or Quantize()).model_dump(mode="json"), cause)
        yield ProfileRemedy(code="float_products", cause=cause, remedy="Quantize the model.", change=change)
    elif not case.rounds:
        remedy = "Take a scheme that rounds activations too, so that integers are multiplied."
        change = case.change("quantize.scheme", "dynamic-int8", cause)
        yield ProfileRemedy(code="float_products", cause=cause, remedy=remedy, change=change)
    elif form.is_integer and not any("Conv" in one.type for one in found) and (case.row is None or case.row.shape.heads):
        remedy = "They multiply activations by activations, as attention does: shorter rows or fewer heads (prune) take less."
        yield ProfileRemedy(code="float_products", cause=cause, remedy=remedy)


def _is_product(name: str) -> bool:
    return PRODUCTS.search(name) is not None


def _rounding(case: ProfiledCase, _: ProfileFigures) -> Iterator[ProfileRemedy]:
    scheme = case.scheme
    share, found = case.share(lambda name: name in ROUNDING)
    if not case.form.is_integer or scheme is None or not scheme.rounds_activations or scheme.calibrated or share < GAIN:
        return
    cause = f"{share:.0%} of the time goes to rounding activations by their own range: {_named(found)}."
    remedy = "Calibrate one range a layer (static-int8): nothing is searched for in each pass, and runtimes join the rounding."
    change = case.change("quantize.scheme", "static-int8", cause)
    yield ProfileRemedy(code="rounding", cause=cause, remedy=remedy, change=change)


def _unfused(case: ProfiledCase, _: ProfileFigures) -> Iterator[ProfileRemedy]:
    share, found = case.share(lambda name: name in SEPARATE)
    if share < GAIN:
        return
    cause = f"{share:.0%} of the time goes to normalizations and activations by themselves: {_named(found)}."
    other = next((one for one in case.siblings if one.runs_in != case.form.runs_in and one.figures is None), None)
    if other is not None:
        remedy = f"Profile {other.name}: {other.runs_in} may join them to the products before them."
        yield ProfileRemedy(code="unfused_operators", cause=cause, remedy=remedy, artifact=other.id)
        return
    used = {case.form.runs_in, *(one.runs_in for one in case.siblings), GENAI.runs_in}
    runtimes = [spec for spec in ARTIFACT_FORMATS.values() if spec.timed and spec.runs_in not in used]
    if formats := [spec for spec in runtimes if case.may_have(spec)]:
        remedy = f"Ship {formats[0].name} too and profile it: {formats[0].runs_in} may join them to the products before them."
        change = case.change("artifacts", _with(case, formats[0].name), cause)
        yield ProfileRemedy(code="unfused_operators", cause=cause, remedy=remedy, change=change)


def _with(case: ProfiledCase, kind: str) -> list[str]:
    """Return the recipe's further formats, the usual ones as far as the model can have them, and one that may be another."""
    usual_formats = (name for name, spec in further_formats(None).items() if case.may_have(spec))
    asked = case.recipe.artifacts
    return list(dict.fromkeys([*(usual_formats if asked is None else asked), kind]))


def _unaligned(case: ProfiledCase, _: ProfileFigures) -> Iterator[ProfileRemedy]:
    """Widths that the cut left beside the multiples at which runtimes are fastest, where products take the time."""
    prune, shape = case.recipe.prune, case.row.shape if case.row is not None else None
    share, _found = case.share(_is_product)
    if prune is None or shape is None or share < GAIN or case.form.stage not in (PRUNED, DISTILLED, *POINTS):
        return
    kind = "unit" if shape.widths is None else "channel"
    own = {key_of("ffn", number): units for number, units in enumerate(shape.ffns or ())}
    widths = shape.widths or own or {"ffn": shape.ffn}
    odd = {name: width for name, width in widths.items() if width % VECTOR[kind] and axis_and_layer(name)[0] != "heads"}
    # What a network's widths are rounded to is no more than what its vectors hold, whatever larger is asked for.
    rounds = prune.multiple != "auto" and prune.multiple >= VECTOR["channel"] and kind == "channel"
    if not odd or rounds or prune.multiple == VECTOR["unit"]:
        return
    named = ", ".join(f"{name} {width}" for name, width in list(odd.items())[:3])
    cause = f"{share:.0%} of the time goes to products, and {len(odd)} widths are no multiple of {VECTOR[kind]}: {named}."
    change = case.change("prune.multiple", VECTOR["unit"], cause)
    remedy = f"Let the cut round widths to {VECTOR[kind]}: a wider layer may take less time than a narrower one beside it."
    yield ProfileRemedy(code="unaligned_widths", cause=cause, remedy=remedy, change=change)


def _small_operators(case: ProfiledCase, _: ProfileFigures) -> Iterator[ProfileRemedy]:
    _share, all_types = case.share(lambda _: True)
    layers, took = sum(one.count for one in all_types), sum(one.ms for one in all_types)
    if layers < MANY or took / layers > FIXED_MS or case.request.batch >= TOGETHER:
        return
    cause = f"The pass has {layers} layers of {1000 * took / layers:.2g} µs each: most of that is the fixed cost of a layer."
    if case.form.kind == GENAI.name:  # it takes rows one after the other
        return
    remedy = f"Put rows together{_served(case)}: {TOGETHER} rows pay the fixed cost once; or prune layers."
    request = case.request.model_copy(update={"batch": TOGETHER})
    yield ProfileRemedy(code="small_operators", cause=cause, remedy=remedy, request=request)


def _memory_traffic(case: ProfiledCase, own: ProfileFigures) -> Iterator[ProfileRemedy]:
    """Weights that are read from memory in each pass, or for each further token, at a rate near what memory gives."""
    took, read = own.decode_ms or own.median_ms, case.form.bytes
    if own.decode_ms is None and case.row is not None and case.row.parameters.total:
        read = round(read * case.row.parameters.other / case.row.parameters.total)  # of tables, a pass reads its tokens' rows
    rate = 1000 * read / took
    if read < CACHED_BYTES or rate < BYTES_PER_SECOND:
        return
    what = "A further token" if own.decode_ms else "A pass"
    cause = f"{what} takes {plain(took)} ms and reads {read / 1e6:,.0f} MB of weights: {rate / 1e9:.3g} GB/s."
    smaller = min(case.siblings, key=lambda one: one.bytes, default=None)
    change = None
    if smaller is not None and smaller.bytes < SMALLER * case.form.bytes:
        remedy = f"Take {smaller.name}: it has {smaller.bytes / 1e6:,.0f} MB."
        yield ProfileRemedy(code="memory_traffic", cause=cause, remedy=remedy, artifact=smaller.id)
        return
    if case.form.kind in {one.name for one in GGUF}:
        change = case.change("artifacts", _with(case, SMALLEST_GGUF), cause) if case.form.kind != SMALLEST_GGUF else None
    elif not case.form.is_integer and case.recipe.quantize is None:
        change = case.change("quantize", (usual(case.task).quantize or Quantize()).model_dump(mode="json"), cause)
    elif own.decode_ms is not None and case.form.precision == "int8":
        change = case.change("quantize.scheme", "weight-only-int4", cause)
    if change is not None:
        remedy = f"Ship {SMALLEST_GGUF} too." if change.key == "recipe.artifacts" else "Store weights in fewer bits."
        yield ProfileRemedy(code="memory_traffic", cause=cause, remedy=remedy, change=change)
    elif case.request.batch < TOGETHER and case.form.kind != GENAI.name:
        request = case.request.model_copy(update={"batch": TOGETHER})
        remedy = f"Put rows together{_served(case)}: weights are read once for all of them."
        yield ProfileRemedy(code="memory_traffic", cause=cause, remedy=remedy, request=request)


def _slow_load(case: ProfiledCase, own: ProfileFigures) -> Iterator[ProfileRemedy]:
    first, warm = own.load.first_ms, own.load.warm_ms
    if first < SLOW_LOAD_MS or first < COLD * warm:
        return
    cause = f"The first opening takes {first:,.0f} ms, a later one {warm:,.0f} ms: the rest is reading {_megabytes(case.form)}."
    smaller = min(case.siblings, key=lambda one: one.bytes, default=None)
    if smaller is not None and smaller.bytes < SMALLER * case.form.bytes:
        remedy = f"Take {smaller.name}, of {_megabytes(smaller)}, or keep the process open."
        yield ProfileRemedy(code="slow_load", cause=cause, remedy=remedy, artifact=smaller.id)
    else:
        yield ProfileRemedy(code="slow_load", cause=cause, remedy=f"Keep the process open{_served(case)}.")


def _served(case: ProfiledCase) -> str:
    return "" if case.generates else ", as `lathe serve` does"


def _megabytes(form: Form) -> str:
    return f"{form.bytes / 1e6:,.1f} MB"


RULES = (_faster_form, _float_products, _unaligned, _unfused, _rounding, _small_operators, _memory_traffic, _slow_load)


def _of_failure(case: ProfiledCase, failure: ProfileFailure) -> ProfileRemedy:
    """Return what to try after a profile that could not be taken."""
    cause = f"{failure.subject}: {failure.detail}" if failure.subject else failure.detail
    facts: dict[str, Any] = {"code": failure.code, "cause": cause, "remedy": failure.remedy}
    if failure.request is not None:
        return ProfileRemedy(**facts, request=failure.request)
    if failure.code in ("failed", "device_lost"):
        return ProfileRemedy(**facts, request=case.request)
    if failure.code == "out_of_memory":
        return _smaller(case, facts)
    if failure.code in ("unsupported", "version_mismatch"):
        able = [one for one in case.siblings if one.figures is not None]
        other = next((one for one in (*able, *case.siblings) if one.runs_in != case.form.runs_in), None)
        if other is not None:
            facts["remedy"] = f"{failure.remedy} {other.name} runs in {other.runs_in}."
            return ProfileRemedy(**facts, artifact=other.id)
    return ProfileRemedy(**facts)


def _smaller(case: ProfiledCase, facts: dict[str, Any]) -> ProfileRemedy:
    """Return a remedy with half the batch, else half the length, else the smallest other form."""
    for name in ("batch", "length"):
        if (now := getattr(case.request, name)) is not None and now > 1:
            facts["remedy"] = f"Ask for a {name} of {now // 2}, or take a device with more memory."
            return ProfileRemedy(**facts, request=case.request.model_copy(update={name: now // 2}))
    smaller = min(case.siblings, key=lambda one: one.bytes, default=None)
    if smaller is not None and smaller.bytes < SMALLER * case.form.bytes:
        facts["remedy"] = f"Take {smaller.name}, of {_megabytes(smaller)}, or a device with more memory."
        return ProfileRemedy(**facts, artifact=smaller.id)
    return ProfileRemedy(**facts)
