"""What the place of weights in a file costs: the same model with external data at pages, at 64 bytes and at 4.

A table of which rows are read and a matrix that is multiplied. ONNX Runtime maps the file; it copies the matrix into a form of
its own when it opens the file, unless `session.disable_prepacking` is set.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from bench.alignment import timing
from bench.alignment.layers import Run

PAGE = 4096
PLACES = {"page": 0, "64": 64, "4": 4}  #: bytes behind a page at which each tensor begins
ROWS, WIDTH, READ = 16384, 512, 128  #: of the table, of both, and rows read in a pass
OPENED = 9  #: times that each file is opened


def write(offset: int, folder: Path) -> None:
    """Write model.onnx and its data, of which each tensor begins `offset` bytes behind a page."""
    tensors, draw = [], np.random.default_rng(0)
    with (folder / "data").open("xb") as file:
        for name, rows in (("table", ROWS), ("matrix", WIDTH)):
            file.write(bytes(-file.tell() % PAGE + offset))
            place = {"location": "data", "offset": file.tell(), "length": 4 * rows * WIDTH}
            file.write(draw.normal(size=(rows, WIDTH)).astype(np.float32).tobytes())
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=(rows, WIDTH))
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.extend(onnx.StringStringEntryProto(key=key, value=str(one)) for key, one in place.items())
            tensors.append(tensor)
    nodes = [helper.make_node("Gather", ["table", "ids"], ["rows"]), helper.make_node("MatMul", ["rows", "matrix"], ["y"])]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", WIDTH])
    model = helper.make_model(helper.make_graph(nodes, "place", [ids], [y], tensors), ir_version=10)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def opened(folder: Path, *, packs: bool) -> Run:
    """Open the file; return a pass. packs: whether the matrix is copied into ONNX Runtime's own form."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.add_session_config_entry("session.disable_prepacking", str(int(not packs)))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(1).integers(0, ROWS, READ)
    return lambda: session.run(None, {"ids": ids})


def compare(turns: int) -> dict[str, Any]:
    """Return, by whether the matrix is packed and by place: milliseconds of opening, of a pass, and a pass against pages."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folders = {place: Path(name) / place for place in PLACES}
        for place, folder in folders.items():
            folder.mkdir()
            write(PLACES[place], folder)
        for packs in (True, False):
            loads: dict[str, list[float]] = {place: [] for place in PLACES}
            for _ in range(OPENED):
                for place, folder in folders.items():
                    start = time.perf_counter_ns()
                    opened(folder, packs=packs)
                    loads[place].append((time.perf_counter_ns() - start) / 1e6)
            taken = timing.times({place: opened(folder, packs=packs) for place, folder in folders.items()}, turns)
            found["packed" if packs else "as stored"] = {
                place: {
                    "open_ms": round(statistics.median(loads[place]), 4),
                    "ms": round(statistics.median(taken[place]), 4),
                    "against_page": timing.share(taken[place], taken["page"]),
                }
                for place in PLACES
            }
    return {"storage": found}
