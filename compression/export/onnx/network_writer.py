"""Writes networks as ONNX files: `network_graph` in float32, `network_integers` with integers."""

from pathlib import Path
from typing import Any

import onnx
from transformers import PreTrainedModel

from compression.evaluation.runtimes.onnx import FILE
from compression.export.onnx.graph_writer import GraphWriter
from compression.export.onnx.network_graph import float_graph
from compression.export.onnx.network_integers import integer_graph
from compression.export.onnx.short_names import shorten_names
from compression.quantization.fake_quantize import Simulation


class NetworkWriter(GraphWriter):
    """Writes networks. Their weights are in the graph's own file."""

    def write(self, model: PreTrainedModel, folder: Path, *, simulation: Simulation | None = None) -> tuple[Path, ...]:
        """Write model.onnx. simulation: the model's own. Raises RuntimeError if its values have no ranges."""
        tensors = {name: value.detach().cpu().float().numpy() for name, value in model.state_dict().items()}
        if simulation is None:
            proto = float_graph(model.config.network, tensors)
        else:
            proto = integer_graph(model, tensors, simulation)
            shorten_names(proto)
        onnx.checker.check_model(proto)
        path = folder / FILE
        path.write_bytes(proto.SerializeToString())
        return (path,)

    def config(self, written: dict[str, Any]) -> dict[str, Any]:
        """Return the config without what the file itself says, and without where the network came from."""
        return {name: value for name, value in written.items() if name not in ("graph", "source")}


WRITER = NetworkWriter()
