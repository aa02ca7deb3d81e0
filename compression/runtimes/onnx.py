"""ONNX files in stock ONNX Runtime on the CPU. Torch-free."""

from pathlib import Path

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
        self.name = f"onnxruntime {onnxruntime.__version__} {self.session.get_providers()[0]}"

    def logits(self, batch: Batch) -> Logits:
        """Answer one batch: (batch, labels)."""
        # A file of a model that tells no token types apart has no input for them.
        answer: Logits = self.session.run(["logits"], {name: getattr(batch, name) for name in self.inputs})[0]
        return answer


def open_folder(folder: Path, *, threads: int) -> OnnxRunner:
    """Open folder/model.onnx. Raises onnxruntime's own errors where it cannot."""
    return OnnxRunner(folder / FILE, threads=threads)
