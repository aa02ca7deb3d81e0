"""Writes the external data file of an ONNX graph, with one tensor in memory at a time.

A graph that contains its weights is one protobuf message. It must not exceed 2 GiB and must be in memory as a whole to be
written or read. An external file has neither limit, and runtimes map it.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[np.generic]
SMALLEST = 1 << 13
"""Bytes. Smaller tensors stay in the graph, where runtimes read shapes and other constants when they open it."""
PAGE = 4096
"""Bytes. Offsets are multiples of it, so that a tensor can be mapped in place (onnx.proto requires it)."""


class External:
    """The open external data file, to which constants are appended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("xb")

    def tensor(self, name: str, value: Array) -> onnx.TensorProto:
        """Store a value; return its tensor for the graph, with a reference to the file unless it is small. Raises OSError."""
        value = np.ascontiguousarray(value)
        if value.nbytes < SMALLEST:
            return numpy_helper.from_array(value, name)
        self._file.write(b"\0" * (-self._file.tell() % PAGE))
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(value.dtype), dims=value.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, said in (("location", self.path.name), ("offset", self._file.tell()), ("length", value.nbytes)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(said)
        self._file.write(value.reshape(-1).view(np.uint8).data)
        return tensor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
