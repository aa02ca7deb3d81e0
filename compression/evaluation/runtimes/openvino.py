"""OpenVINO's files on the CPU. Torch-free."""

import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from compression.modalities.scoring.base import Floats as Logits, Inputs
from compression.schema.report.operators import Operators

FILE = "openvino_model.xml"  #: the graph, under the name that others' tools look for; its constants are beside it in .bin
NO_WORK = {"Parameter", "Result", "Constant", "Input", "Output", "Const"}
"""Types of what is no operator, in files and in executed graphs."""


def imported() -> ModuleType:
    """Import openvino without the package that tells its makers of each import. Raises ImportError if it is missing."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # openvino then does without
    import openvino

    found: ModuleType = openvino
    return found


class OpenVinoRunner:
    """A compiled model with fixed threads, in float32 wherever it does not compute with integers."""

    def __init__(self, path: Path, *, threads: int) -> None:
        openvino = imported()
        settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # A thread that is bound to a core waits for whatever else runs there.
            "ENABLE_CPU_PINNING": False,
            # Where the processor has bfloat16 or float16, OpenVINO would compute in it, and scores would depend on the machine.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self.compiled = openvino.Core().compile_model(path, "CPU", settings)
        self.inputs = [item.any_name for item in self.compiled.inputs]
        self.outputs = [item.any_name for item in self.compiled.outputs]
        self.name = f"openvino {openvino.__version__.partition('-')[0]} CPU"

    def logits(self, batch: Inputs) -> Logits:
        """Return the logits of a batch; start and end logits are stacked if the file has both."""
        # If a model has no token types, its file has no input for them.
        answer = self.compiled({name: batch.arrays[name] for name in self.inputs})
        found: list[Logits] = [answer[name] for name in self.outputs]
        return found[0] if len(found) == 1 else np.stack(found, axis=-1)


def open_folder(folder: Path, *, threads: int) -> OpenVinoRunner:
    """Open the model in `folder`. Raises RuntimeError if OpenVINO cannot."""
    return OpenVinoRunner(folder / FILE, threads=threads)


def operators(folder: Path, example: Inputs) -> Operators:  # noqa: ARG001 (the graph is known before it runs)
    """Count the operators of the file in a folder, and those that OpenVINO made of them. Raises RuntimeError if it cannot."""
    stored = imported().Core().read_model(folder / FILE).get_ordered_ops()
    compiled = OpenVinoRunner(folder / FILE, threads=1).compiled.get_runtime_model().get_ordered_ops()
    kinds = [one.get_type_name() for one in stored], [one.get_rt_info()["layerType"].astype(str) for one in compiled]
    before, after = (Counter(kind for kind in found if kind not in NO_WORK) for found in kinds)
    return Operators(before=before, after=after)
