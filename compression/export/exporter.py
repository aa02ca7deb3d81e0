"""The engine's half of a format of artifacts (`schema.artifact_formats`): writes a model's files and describes them."""
# ruff: noqa: ARG002 (methods that a format overrides)

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar

from torch import nn
from transformers import PreTrainedModel

from compression.modalities.modality import RawInput
from compression.modalities.scoring.base import Inputs, Runner
from compression.models.linear_layers import is_transposed
from compression.quantization.fake_quantize import Simulation, left_in_float
from compression.schema.artifact_formats import ARTIFACT_FORMATS, BUILT_IN, INTEGERS, ArtifactPrecision, Kind
from compression.schema.recipe.base import Task
from compression.schema.report.instruction_sets import ComparedAnswers, NotCompared
from compression.schema.schemes import SCHEMES, Scheme


class Exporter(ABC):
    """What differs between formats. A package's exporter overrides what its format needs."""

    templates: ClassVar[Path] = Path(__file__).parent / "templates"
    """Folder of the model card's templates: FORMAT.md.j2, and FORMAT/ANSWER.py.j2 with code that opens the artifact."""
    form: ClassVar[str | None] = None  #: FORMAT in those names and the library on cards, if several formats share them
    rounding_noise: ClassVar[float] = 2.0
    """Tolerance for an artifact of integers, in units of the change that the simulation causes (`parity_check.limit`)."""
    writes_half: ClassVar[bool] = False  #: whether a language model also ships in it in 16 bits
    quantizes_transposed: ClassVar[bool] = True  #: whether it quantizes layers with weights of (inputs, outputs), as in GPT-2
    packs_integers: ClassVar[bool] = True  #: whether integers of less than 8 bits take less than a byte

    @abstractmethod
    def write(self, model: PreTrainedModel, folder: Path, precision: ArtifactPrecision) -> None:
        """Write an unchanged model's weights, in an integer precision with its simulated integers (else dynamic-int8)."""

    @abstractmethod
    def opens_with(self, precision: ArtifactPrecision, task: Task, *, split: bool) -> str:
        """Return the tool and call that open an artifact. split: whether its weights are in several files."""

    def hinders(self, model: nn.Module) -> str | None:
        """Return why a model cannot have this format, or None if it can."""
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

    def stored_as(self, model: nn.Module, precision: ArtifactPrecision) -> str:
        """Return the precision of an artifact's weights, and how many parameters stayed in floating point."""
        if precision not in INTEGERS:
            return precision
        stored = precision if self.packs_integers else "int8"
        left = left_in_float(model, transposed=not self.quantizes_transposed)
        return f"{stored}, {left:,} parameters float32" if left else stored


@cache
def exporter_of(kind: Kind) -> Exporter:
    """Import the engine's half of a format. Raises TypeError if it is none."""
    found = resolve_name(ARTIFACT_FORMATS[kind].engine)
    if not isinstance(found, Exporter):
        raise TypeError(f"{ARTIFACT_FORMATS[kind].engine} is no Exporter")
    return found


def further_exporters(model: nn.Module) -> tuple[dict[Kind, Exporter], list[str]]:
    """Return the exporters of further formats that a model can have, and which of packages fail and are left out."""
    found, failed = {}, []
    for kind, spec in ARTIFACT_FORMATS.items():
        try:
            if not spec.primary and exporter_of(kind).hinders(model) is None:
                found[kind] = exporter_of(kind)
        except Exception as problem:
            if spec in BUILT_IN:
                raise
            failed.append(f"The exporter of {kind} is left out: {problem}."[:4000])
    return found, failed
