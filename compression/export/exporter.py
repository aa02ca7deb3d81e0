"""The engine's half of a format of artifacts (`schema.artifact_formats`): writes a model's files and describes them."""
# ruff: noqa: ARG002 (methods that a format overrides)

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from compression.modalities.modality import RawInput
from compression.modalities.scoring.base import Inputs, Runner
from compression.models.linear_layers import is_transposed, matrix
from compression.quantization.calibration import Calibrate
from compression.quantization.fake_quantize import Simulation, left_in_float, remove_fake_quantization, simulation_of
from compression.schema.artifact_formats import ARTIFACT_FORMATS, BUILT_IN, INTEGERS, ArtifactPrecision, Kind, further_formats
from compression.schema.recipe.base import Task
from compression.schema.report.instruction_sets import ComparedAnswers, NotCompared
from compression.schema.schemes import SCHEMES, Scheme


class Exporter(ABC):
    """What differs between formats. A package's exporter overrides what its format needs."""

    templates: ClassVar[Path] = Path(__file__).parent / "templates"
    """Folder of the model card's templates: FORMAT.md.j2, and FORMAT/ANSWER.py.j2 with code that opens the artifact."""
    rounding_noise: ClassVar[float] = 2.0
    """Tolerance for an artifact of integers, in units of the change that the simulation causes (`parity_check.limit`)."""
    writes_half: ClassVar[bool] = False  #: whether a language model also ships in it in 16 bits
    quantizes_transposed: ClassVar[bool] = True  #: whether it quantizes layers with weights of (inputs, outputs), as in GPT-2
    packs_integers: ClassVar[bool] = True  #: whether integers of less than 8 bits take less than a byte
    is_simulated: ClassVar[bool] = True  #: whether its integers are those that training simulates, up to the runtime's rounding
    computes_in: ClassVar[torch.dtype | None] = None  #: the 16 bits that readers compute in, whatever the weights are
    card: ClassVar[str | None] = None  #: the name of its card's template; None: the library's
    path: ClassVar[str] = ""  #: the folder of its weights in an artifact's, with a slash behind it
    needs: ClassVar[str] = ""  #: packages that its library needs beside itself, for the card's code
    library: ClassVar[str | None] = None
    """The library that opens it, as hubs name it, and the folder of the templates with its code; None: the format's name."""

    @abstractmethod
    def write(self, model: PreTrainedModel, folder: Path, precision: ArtifactPrecision) -> None:
        """Write the weights of an unchanged model that is `prepared`, in an integer precision with its simulated integers (else
        dynamic-int8).

        folder: has the preprocessor's files.
        """

    @abstractmethod
    def opens_with(self, precision: ArtifactPrecision, task: Task, *, split: bool) -> str:
        """Return the tool and call that open an artifact. split: whether its weights are in several files."""

    def hinders(self, model: nn.Module) -> str | None:
        """Return why a model cannot have this format, or None if it can."""
        return None

    def stated(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return a model that nothing `hinders` as the format can state it, with the same answers: it, or a changed copy."""
        return model

    def prepared(self, model: PreTrainedModel, calibrate: Calibrate) -> PreTrainedModel:
        """Return the model that is written and verified in the place of a `stated` one: it, or a copy with other numbers.

        calibrate: sets the ranges of a scheme on a model, from rows of train.
        """
        return model

    def cannot_read(self, model: nn.Module, folder: Path) -> str | None:
        """Return why the format cannot have the preprocessor's files in a folder. model: one that nothing `hinders`."""
        return None

    def config(self, model: PreTrainedModel, folder: Path, max_length: int) -> dict[str, Any]:
        """Return the format's own config.json. folder: has the weights."""
        return {**model.config.to_diff_dict(), **({"max_length": max_length} if max_length else {})}

    def labelled(self, config: dict[str, Any], labels: tuple[str, ...]) -> dict[str, Any]:
        """Return a config with the names of the outputs."""
        named = {str(number): label for number, label in enumerate(labels)}
        return {**config, "id2label": named, "label2id": {label: number for number, label in enumerate(labels)}}

    def take_raw_input(self, folder: Path, raw: RawInput) -> bool:
        """Let the written files in a folder have another input, and return whether they have it now."""
        return False

    def check_interface(self, runner: Runner[Any], model: nn.Module, folder: Path | None = None) -> None:  # noqa: B027
        """Check that a reopened artifact's inputs and outputs are those of its card. Raises ExportMismatch.

        folder: of the artifact, if its file may have a `RawInput`.
        """

    def compare_processors(
        self, folder: Path, asked: Sequence[Inputs], simulation: Simulation, seconds: float | None
    ) -> ComparedAnswers | NotCompared | None:
        """Compare predictions on other processors with this one's; None if they cannot differ. seconds: the time limit."""
        return None

    def reference(self, model: nn.Module, *, int8: bool) -> nn.Module:
        """Return a float32 copy on the CPU that computes as the artifact does. int8: with its integers."""
        if int8:
            return copy.deepcopy(model).to("cpu", torch.float32).eval()
        return plain(model)

    def unit_of_noise(self, model: nn.Module) -> nn.Module | None:
        """Return a float32 copy whose distance from the model in floating point `rounding_noise` counts; None: `reference`."""
        return None

    def rounds_activations(self, model: nn.Module, *, int8: bool) -> bool:
        """Return whether the artifact rounds activations. int8: it has the model's integers, or else dynamic-int8's."""
        simulation = simulation_of(model)
        return int8 and (simulation is None or SCHEMES[simulation.scheme].rounds_activations)

    def reads_as_filed(self, folder: Path) -> bool:
        """Return whether the code on the card tokenizes texts as tokenizer.json does."""
        return True

    def precision_of(self, scheme: Scheme | None, model: nn.Module) -> ArtifactPrecision:
        """Return the precision of a scheme's weights in an artifact. scheme: None means no quantization."""
        if scheme is None:
            return "float32"
        if not self.quantizes_transposed and any(map(is_transposed, model.modules())):
            return "mixed"
        return SCHEMES[scheme].precision

    def trained_as_shipped(self, precision: ArtifactPrecision, simulation: Simulation | None) -> bool:
        """Return whether training computed with an artifact's numbers: its integers, or float32 where none are simulated."""
        return self.is_simulated and precision in INTEGERS if simulation is not None else precision == "float32"

    def stored_as(self, model: nn.Module, precision: ArtifactPrecision) -> str:
        """Return the precision of an artifact's weights, and how many parameters have another one."""
        if precision not in INTEGERS:
            return precision
        stored = precision if self.packs_integers else "int8"
        parts, simulation = [str(stored)], simulation_of(model)
        if simulation is not None and simulation.eight_bits:
            finer = sum(matrix(model.get_submodule(name)).numel() for name in simulation.eight_bits)
            parts.append(f"{finer:,} parameters {'int8' if self.packs_integers else 'of 8 bits'}")
        if left := left_in_float(model, transposed=not self.quantizes_transposed):
            parts.append(f"{left:,} parameters float32")
        return ", ".join(parts)


def plain(model: nn.Module) -> nn.Module:
    """Return a float32 copy of a model on the CPU, without simulated integers."""
    twin = copy.deepcopy(model).to("cpu", torch.float32).eval()
    remove_fake_quantization(twin)
    return twin


@cache
def exporter_of(kind: Kind) -> Exporter:
    """Import the engine's half of a format. Raises TypeError if it is none."""
    found = resolve_name(ARTIFACT_FORMATS[kind].engine)
    if not isinstance(found, Exporter):
        raise TypeError(f"{ARTIFACT_FORMATS[kind].engine} is no Exporter")
    return found


def further_exporters(
    model: nn.Module, asked: Sequence[str] | None, preprocessor: Path | None = None
) -> tuple[dict[Kind, Exporter], list[str]]:
    """Return the exporters of further formats that a model can have, and which are left out and why: those of packages that
    fail, and those that are asked for by name and cannot state it.

    asked: the recipe's `artifacts`; preprocessor: the folder with the files of what reads the inputs, which some formats hold.
    """
    found, left_out = {}, []
    for kind, spec in further_formats(asked).items():
        try:
            exporter = exporter_of(kind)
            why = exporter.hinders(model)
            if why is None and preprocessor is not None:
                why = exporter.cannot_read(model, preprocessor)
        except Exception as problem:
            if spec in BUILT_IN and spec.by_default:
                raise
            left_out.append(f"The exporter of {kind} is left out: {problem}."[:4000])
            continue
        if why is None:
            found[kind] = exporter
        elif asked is not None:
            left_out.append(f"There is no {kind} artifact: {why.rstrip('.')}."[:4000])
    return found, left_out
