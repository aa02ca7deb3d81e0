"""A device table: what single layers cost on a machine, in each runtime and form. Torch-free.

`python -m compression device-table` measures one. It holds for a processor, its instruction set, a number of threads and
versions of the runtimes; `planning.device_times` predicts a model's latency from it.
"""

import hashlib
from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, Field

from compression.schema.config import Config

MOST_ROWS = 2000
VERSION = 2
"""Of what is timed and how. Tables of another version count for nothing: a new one is measured beside them."""
TableRuntime = Literal["onnxruntime", "openvino"]
RUNTIMES: tuple[TableRuntime, ...] = get_args(TableRuntime)
Form = Literal["float32", "dynamic-int8", "static-int8"]
FORMS: tuple[Form, ...] = get_args(Form)
Operation = Literal["call", "linear", "attention", "normalization", "activation", "convolution", "depthwise", "addition"]
OF_IMAGES: tuple[Operation, ...] = ("convolution", "depthwise", "addition")
GRAINS = (16, 4, 1)
"""Steps of widths: runtimes have faster kernels for channels whose number is a multiple of a larger one."""
Name = Annotated[str, Field(max_length=100, pattern=r"^[ -~]*$")]
Width = Annotated[int, Field(ge=1, le=1 << 20)]


class TableConditions(Config):
    """What a table's times depend on beside the layers."""

    processor: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$", description="The processor's name.")]
    instructions: Annotated[Name, Field(description="Instruction set, for example AVX512.")]
    threads: Annotated[int, Field(ge=1, le=1024, description="Threads of the runtime.")]
    runtimes: Annotated[dict[Name, Name], Field(max_length=20)]
    """Versions of the runtimes by name."""

    @property
    def digest(self) -> str:
        """Return what identifies tables of this version under these conditions: SHA-256 in hexadecimal digits."""
        runtimes = ",".join(f"{name}={self.runtimes[name]}" for name in sorted(self.runtimes))
        parts = (VERSION, self.processor, self.instructions, self.threads, runtimes)
        return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


class TableRow(Config):
    """The time of one layer in one runtime."""

    runtime: TableRuntime
    form: Annotated[Form, Field(description="What the layer computes in, or those around it if it has no weights.")]
    operation: Operation
    """linear; attention: products and softmax between its linear layers, softmax in separate operators among integers;
    normalization: a sum and a layer_norm; activation: GELU; convolution and depthwise: 3×3; addition: the sum of two values of
    images; call: a pass of a graph that computes nothing, which other times contain. Those of images are of a layer between
    others of its kind and contain none; a convolution's is the mean of both directions."""
    inputs: Annotated[Width, Field(description="Channels that it reads.")]
    outputs: Annotated[Width, Field(description="Channels that it makes; of attention: heads.")]
    places: Annotated[Width, Field(description="Tokens of a row, or pixels of a convolution's square image.")]
    batch: Annotated[int, Field(ge=1, le=4096, description="Rows of a pass.")]
    microseconds: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False, description="Median of the passes.")]
    spread: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False, description="Quartiles' distance / median.")]

    @property
    def layer(self) -> tuple[Operation, int, int, int, int]:
        """Return which layer at which size was timed."""
        return self.operation, self.inputs, self.outputs, self.places, self.batch


class DeviceTable(Config):
    """Times of layers, measured under the same conditions."""

    version: Literal[2] = 2
    conditions: TableConditions
    measured_at: AwareDatetime
    exclusive: Annotated[bool, Field(description="Whether nothing else was timed on the machine meanwhile.")] = True
    rows: Annotated[tuple[TableRow, ...], Field(max_length=MOST_ROWS)]
