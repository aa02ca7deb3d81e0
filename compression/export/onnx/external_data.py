"""The file beside an ONNX graph that holds its weights, written tensor by tensor: none of them is in memory for longer.

A graph with its weights inside is one protobuf message, which may not pass 2 GiB and has to be in memory whole to be written
or read. A file beside it has neither limit, and runtimes map it.
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
"""Bytes. What is smaller stays in the graph, where runtimes look for shapes and other constants when they open it."""
PAGE = 4096
"""Bytes that offsets are multiples of, so that a tensor can be mapped where it lies (onnx.proto asks for it)."""


class External:
    """The open file, to which constants are appended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("xb")

    def tensor(self, name: str, value: Array) -> onnx.TensorProto:
        """Store a value and return what the graph says of it: where it lies, or the value itself where that is small.

        Raises OSError where the disk is full.
        """
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
