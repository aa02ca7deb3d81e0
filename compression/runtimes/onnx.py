"""ONNX files in stock ONNX Runtime on the CPU. Torch-free."""

from pathlib import Path

import numpy as np
import onnxruntime

from compression.runtimes.runner import Batch, Logits

FILE = "model.onnx"


class OnnxRunner:
    """An inference session with fixed threads."""

    def __init__(self, path: Path, *, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Spinning threads steal the core from whoever else is measured in this process.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [item.name for item in self.session.get_inputs()]
        self.outputs = [item.name for item in self.session.get_outputs()]
        self.name = f"onnxruntime {onnxruntime.__version__} {self.session.get_providers()[0]}"

    def logits(self, batch: Batch) -> Logits:
        """Answer one batch; starts and ends, where the file has both, side by side."""
        # A file of a model that tells no token types apart has no input for them.
        found: list[Logits] = self.session.run(self.outputs, {name: getattr(batch, name) for name in self.inputs})
        return found[0] if len(found) == 1 else np.stack(found, axis=-1)


def open_folder(folder: Path, *, threads: int) -> OnnxRunner:
    """Open folder/model.onnx. Raises onnxruntime's own errors where it cannot."""
    return OnnxRunner(folder / FILE, threads=threads)
