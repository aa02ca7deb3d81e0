"""Writes the external data file of an ONNX graph, with one tensor in memory at a time; runtimes map it. A graph that contains
its weights is one protobuf message, at most 2 GiB and in memory as a whole.
"""

from io import BufferedWriter
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compression.export.onnx.graph_builder import Array

SMALLEST = 1 << 13
"""Bytes. Smaller tensors stay in the graph, where runtimes read shapes and other constants when they open it."""
PAGE = 4096  #: Bytes. Offsets are multiples of it, so that a tensor can be mapped in place (onnx.proto requires it).


def stored_tensor(file: BufferedWriter, name: str, value: Array) -> onnx.TensorProto:
    """Append a value to an open data file, unless it is small; return its tensor for the graph. Raises OSError."""
    value = np.ascontiguousarray(value)
    if value.nbytes < SMALLEST:
        return numpy_helper.from_array(value, name)
    file.write(b"\0" * (-file.tell() % PAGE))
    tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(value.dtype), dims=value.shape)
    tensor.data_location = TensorProto.EXTERNAL
    place = {"location": Path(file.name).name, "offset": file.tell(), "length": value.nbytes}
    tensor.external_data.extend(onnx.StringStringEntryProto(key=key, value=str(item)) for key, item in place.items())
    file.write(value.reshape(-1).view(np.uint8).data)
    return tensor
