"""Writes the external data file of an ONNX graph, with one tensor in memory at a time; runtimes map it.

A graph that contains its weights is one protobuf message, at most 2 GiB and in memory as a whole.
"""

from io import BufferedWriter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[np.generic]
SMALLEST = 1 << 13
"""Bytes. Smaller tensors stay in the graph, where runtimes read shapes and other constants when they open it."""
PAGE = 4096  #: Bytes. Offsets are multiples of it, so that a tensor can be mapped in place (onnx.proto requires it).


class External:
    """Appends constants to an open external data file."""

    def __init__(self, file: BufferedWriter) -> None:
        self._file = file

    def tensor(self, name: str, value: Array) -> onnx.TensorProto:
        """Store a value; return its tensor for the graph, with a reference to the file unless it is small. Raises OSError."""
        value = np.ascontiguousarray(value)
        if value.nbytes < SMALLEST:
            return numpy_helper.from_array(value, name)
        self._file.write(b"\0" * (-self._file.tell() % PAGE))
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(value.dtype), dims=value.shape)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": Path(self._file.name).name, "offset": self._file.tell(), "length": value.nbytes}
        tensor.external_data.extend(onnx.StringStringEntryProto(key=key, value=str(item)) for key, item in place.items())
        self._file.write(value.reshape(-1).view(np.uint8).data)
        return tensor
