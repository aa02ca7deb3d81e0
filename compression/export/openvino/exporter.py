"""Writes a model as an intermediate representation (IR) of OpenVINO: openvino_model.xml, and its constants in a .bin file.

OpenVINO itself reads the ONNX graph that is written of the same model. Of static-int8's pairs of QuantizeLinear and
DequantizeLinear it makes, when it compiles the file, layers that multiply uint8 by int8, with the integers and the ranges that
training simulated; the rounding behind a GELU becomes a part of the layer before. dynamic-int8 it does not read while
shapes are free (docs/decisions/0029-what-openvino-reads.md): such a model is written as a twin with the same integer weights
and calibrated ranges (docs/decisions/0049-recommended-forms.md). With 16 bits, the weights are those that integers are rounded
from, stored in float16; OpenVINO widens them and computes in the precision that it chooses for the processor.
"""

import copy
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from compression.evaluation.runtimes.onnx import has_vnni
from compression.evaluation.runtimes.openvino import FILE, OpenVinoRunner, imported
from compression.export.onnx.exporter import OnnxExporter, is_language_model, write_onnx
from compression.export.onnx.trace import outputs_of
from compression.export.openvino.alignment import align_constants
from compression.modalities.modality import RawInput
from compression.modalities.registry import modality_for
from compression.modalities.scoring.base import Inputs, Runner
from compression.quantization.calibration import Calibrate
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, simulation_of
from compression.quantization.moe_layers import fused_expert_modules
from compression.schema.artifact_formats import ArtifactPrecision
from compression.schema.errors import ExportMismatch
from compression.schema.recipe.base import Task
from compression.schema.recipe.quantize import Quantize
from compression.schema.report.instruction_sets import NotCompared
from compression.schema.schemes import SCHEMES, Scheme

if TYPE_CHECKING:
    import openvino

RANGED: Scheme = "static-int8"  #: the scheme whose ranges OpenVINO reads
NEUTRAL = {"divide": 1.0, "subtract": 0.0}
TYPES = {torch.int64: "i64", torch.float32: "f32"}


class OpenVinoExporter(OnnxExporter):
    """OpenVINO's files, with a model's integers or in 16 bits."""

    templates = Path(__file__).parent / "templates"
    library = "openvino"

    def __init__(self, *, int8: bool) -> None:
        self.int8 = int8

    def hinders(self, model: nn.Module) -> str | None:
        """Return why OpenVINO has no such file of a model, or why this machine cannot write it."""
        if find_spec("openvino") is None:
            return "This machine lacks the package openvino."
        if is_language_model(model):
            return "Language models have no form of OpenVINO's here: their cache is not written as its tools expect it."
        return super().hinders(model) or (_hinders_integers(model) if self.int8 else None)

    def prepared(self, model: PreTrainedModel, calibrate: Calibrate) -> PreTrainedModel:
        """Return a twin of a model that rounds each row by its own range: with calibrated ranges, and the same weights.

        Weights keep their integers, which both schemes scale by output channel; values that have a range keep it.
        """
        simulation = self._without_ranges(model)
        if simulation is None:
            return model
        twin = copy.deepcopy(model)
        calibrate(twin, Quantize(scheme=RANGED))
        insert_fake_quantization(twin, simulation=simulation.model_copy(update={"scheme": RANGED}))
        return twin

    def _without_ranges(self, model: nn.Module) -> Simulation | None:
        """Return what a model simulates if its integers are to be written and its scheme has no range for each layer."""
        simulation = simulation_of(model) if self.int8 else None
        return None if simulation is None or SCHEMES[simulation.scheme].calibrated else simulation

    def write(self, model: PreTrainedModel, folder: Path, precision: ArtifactPrecision) -> None:  # noqa: ARG002
        """Write openvino_model.xml and .bin. Raises TypeError for a model that `hinders` refuses or that is not `prepared`."""
        reason = self.hinders(model)
        if reason is not None or self._without_ranges(model) is not None:
            raise TypeError(reason or "The model has no calibrated ranges.")
        openvino = imported()
        with tempfile.TemporaryDirectory(dir=folder) as place:
            # Its own softmax, a twentieth faster in all: answers are compared on one machine alone.
            made = openvino.Core().read_model(write_onnx(model, Path(place), int8=self.int8, same_softmax=False))
            _name_by_place(made)
            openvino.save_model(made, folder / FILE, compress_to_fp16=not self.int8)
        align_constants(folder / FILE)

    def opens_with(self, precision: ArtifactPrecision, task: Task, *, split: bool) -> str:  # noqa: ARG002
        """Return the call of OpenVINO."""
        reader = super().opens_with(precision, task, split=False).partition(" with ")[2]
        return f"openvino.Core().compile_model('{FILE}', 'CPU'){f' with {reader}' if reader else ''}"

    def precision_of(self, scheme: Scheme | None, model: nn.Module) -> ArtifactPrecision:
        """Return int8, or float16 whatever the model simulates."""
        return super().precision_of(scheme, model) if self.int8 else "float16"

    def take_raw_input(self, folder: Path, raw: RawInput) -> bool:
        """Put the arithmetic before the model into the file. Raises KeyError if it has no input that `raw` replaces."""
        openvino = imported()
        core = openvino.Core()
        core.set_property({"ENABLE_MMAP": False})  # the files are written again while the model is open
        model = core.read_model(folder / FILE)
        _put_before(model, raw)
        _name_by_place(model)
        openvino.save_model(model, folder / FILE, compress_to_fp16=False)  # what is in float16 stays so
        align_constants(folder / FILE)
        return True

    def check_interface(self, runner: Runner[Any], model: nn.Module, folder: Path | None = None) -> None:
        """Check the names, types and free dimensions of inputs and outputs. Raises ExportMismatch."""
        if not isinstance(runner, OpenVinoRunner):
            return
        modality = modality_for(model)
        free = modality.free_dimensions(model)
        wanted = {
            name: (TYPES[value.dtype], [place in free[name] for place in range(value.ndim)])
            for name, value in modality.example_inputs(model, 1, 1).items()
        }
        raw = modality.raw_input(folder) if folder is not None else None
        if raw is not None and raw.name in runner.inputs:
            axes = wanted.pop(raw.replaces)[1]
            wanted[raw.name] = ("u8", [axes[raw.order.index(axis)] for axis in range(len(axes))])
        inputs = {
            one.any_name: (one.element_type.get_type_name(), [size.is_dynamic for size in one.partial_shape])
            for one in runner.compiled.inputs
        }
        if inputs != wanted:
            raise ExportMismatch(f"the file's inputs are {inputs}")
        if tuple(runner.outputs) != outputs_of(model):
            raise ExportMismatch(f"the file's outputs are {runner.outputs}")

    def compare_processors(
        self,
        folder: Path,  # noqa: ARG002
        asked: Sequence[Inputs],  # noqa: ARG002
        simulation: Simulation,  # noqa: ARG002
        seconds: float | None,  # noqa: ARG002
    ) -> NotCompared:
        """Return that answers are compared only on the machine that wrote the file."""
        return NotCompared(not_compared="OpenVINO is not run under an emulated processor.")


INT8, F16 = OpenVinoExporter(int8=True), OpenVinoExporter(int8=False)


def _hinders_integers(model: nn.Module) -> str | None:
    """Return why the integers that a model simulates are not those of an OpenVINO file."""
    simulation = simulation_of(model)
    if simulation is None:
        return "The model simulates no integers."
    if not SCHEMES[simulation.scheme].rounds_activations:
        return f"OpenVINO's 8-bit layers read 8-bit activations, which {simulation.scheme} leaves in floating point."
    if any(True for _ in fused_expert_modules(model)):
        return "Experts round each token by its own range, which OpenVINO does not read."
    if not simulation.portable and not has_vnni():
        return "On this machine's processor, which has no VNNI, OpenVINO's products of weights beyond ±63 are not exact."
    return None


def _name_by_place(model: "openvino.Model") -> None:
    """Name operators without a name of their own by their place: OpenVINO counts them from the start of the process, and a
    file's bytes must not depend on what was written before.
    """
    for number, operator in enumerate(model.get_ordered_ops()):
        kind, _, count = operator.get_friendly_name().rpartition("_")
        if kind == operator.get_type_name() and count.isdecimal():
            operator.set_friendly_name(f"{kind}.{number}")


def _put_before(model: "openvino.Model", raw: RawInput) -> None:
    """Make a model read `raw.name`, uint8, in place of `raw.replaces`, as `onnx.raw_input` does. Raises KeyError."""
    openvino = imported()
    ops = openvino.opset13
    given = next((one for one in model.get_parameters() if raw.replaces in one.output(0).names), None)
    if given is None:
        raise KeyError(raw.replaces)
    sizes = given.get_partial_shape()
    shape = openvino.PartialShape([sizes[raw.order.index(axis)] for axis in range(len(sizes))])
    read = ops.parameter(shape, openvino.Type.u8, raw.name)
    read.output(0).set_names({raw.name})
    value = ops.transpose(read, list(raw.order))
    if raw.channels != tuple(sorted(raw.channels)):
        value = ops.gather(value, list(raw.channels), 1)
    value = ops.convert(value, "f32")
    column = (-1, *(1,) * (len(sizes) - 2))
    for step, numbers in (("divide", (raw.divisor,)), ("subtract", raw.mean), ("divide", raw.deviation)):
        if set(numbers) != {NEUTRAL[step]}:
            value = getattr(ops, step)(value, np.array(numbers, np.float32).reshape(column))
    given.output(0).replace(value.output(0))
    model.remove_parameter(given)
    model.add_parameters([read])
    model.validate_nodes_and_infer_types()
