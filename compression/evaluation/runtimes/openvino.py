"""OpenVINO's files on the CPU. Torch-free."""

import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from compression.modalities.scoring.base import Declared, Floats as Logits, Inputs
from compression.schema.profile import LayerTime
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
        self.path, self.settings = path, settings
        self.compiled = openvino.Core().compile_model(path, "CPU", settings)
        self.inputs = [item.any_name for item in self.compiled.inputs]
        self.outputs = [item.any_name for item in self.compiled.outputs]
        self.name = f"openvino {openvino.__version__.partition('-')[0]} CPU"

    def declared(self) -> tuple[list[Declared], list[Declared]]:
        """Return the file's inputs and outputs. Sizes that are free have no names."""
        inputs, outputs = (
            [
                Declared(
                    one.any_name,
                    str(one.element_type.to_dtype()),
                    tuple(None if size.is_dynamic else size.get_length() for size in one.partial_shape),
                )
                for one in found
            ]
            for found in (self.compiled.inputs, self.compiled.outputs)
        )
        return inputs, outputs

    def logits(self, batch: Inputs) -> Logits:
        """Return the logits of a batch; start and end logits are stacked if the file has both."""
        # If a model has no token types, its file has no input for them.
        answer = self.compiled({name: batch.arrays[name] for name in self.inputs})
        found: list[Logits] = [answer[name] for name in self.outputs]
        return found[0] if len(found) == 1 else np.stack(found, axis=-1)

    def layers(self, batch: Inputs, passes: int) -> list[LayerTime]:
        """Return the mean time of each node in a pass over a batch, from a compiled model of its own that times them."""
        twin = imported().Core().compile_model(self.path, "CPU", {**self.settings, "PERF_COUNT": True})
        request = twin.create_infer_request()
        found: dict[tuple[str, str], float] = {}
        for number in range(passes + 1):
            request.infer({name: batch.arrays[name] for name in self.inputs})
            for node in request.get_profiling_info() if number else ():  # the first pass allocates memory
                if node.status == node.Status.EXECUTED:
                    key = (node.node_name[:500], node.node_type[:200])
                    found[key] = found.get(key, 0.0) + 1000 * node.real_time.total_seconds() / passes
        return [LayerTime(name=name, type=kind, ms=time) for (name, kind), time in found.items()]


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
