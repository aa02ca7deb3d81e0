"""Which layers a device table times: widths, places and batches of each operation, and the forms of each runtime."""

from collections.abc import Iterator
from dataclasses import dataclass

from compression.schema.device_table import GRAINS, OF_IMAGES, Form, Operation, TableRuntime

MOST_WORK = 600_000_000
"""Multiply-adds of the largest timed layer: some 20 ms."""
INT8: tuple[Form, ...] = ("static-int8",)
READS: dict[TableRuntime, tuple[Form, ...]] = {
    "onnxruntime": ("float32", "dynamic-int8", "static-int8"),
    "openvino": ("float32", "static-int8"),
}
"""Forms by runtime: OpenVINO does not read dynamic-int8 (docs/decisions/0029-what-openvino-reads.md)."""


@dataclass(frozen=True)
class Layer:
    """A layer at one size: its forms and runtimes are timed in turns. The fields are those of `TableRow`."""

    operation: Operation
    inputs: int
    outputs: int
    places: int
    batch: int = 1

    @property
    def key(self) -> tuple[Operation, int, int, int, int]:
        """Return what `TableRow.layer` is of its rows."""
        return self.operation, self.inputs, self.outputs, self.places, self.batch

    @property
    def work(self) -> int:
        """Return its multiply-adds, of products between tokens for an attention."""
        rows = self.places * self.batch
        if self.operation == "attention":
            return 2 * rows * self.places * self.inputs
        area = 9 if self.operation in ("convolution", "depthwise") else 1
        return rows * area * self.inputs * (self.outputs if self.operation in ("linear", "convolution") else 1)

    def forms(self, runtime: TableRuntime) -> tuple[Form, ...]:
        """Return the forms that it has in a runtime: layers of images have the same integers in dynamic-int8 as in static-int8,
        and attention among integers is the same in both.
        """
        if self.operation == "linear":
            return READS[runtime]
        if self.operation in OF_IMAGES:
            # OpenVINO's times decide between schemes alone, for which those of even widths suffice.
            even = not (self.inputs % GRAINS[0] or self.outputs % GRAINS[0])
            return ("float32", "static-int8") if even or runtime == "onnxruntime" else ()
        return ("float32", "static-int8") if self.operation == "attention" and runtime == "onnxruntime" else ("float32",)


def _square(operation: Operation, widths: tuple[int, ...], sizes: tuple[tuple[int, int], ...]) -> Iterator[Layer]:
    for width in widths:
        yield from (Layer(operation, width, width, *size) for size in sizes)


HEADS, HEAD_SIZES = (4, 12), (8, 12, 16, 20, 24, 28, 32, 48, 64, 128)
"""Numbers and sizes of heads: sizes that are no multiples of a register's width cost more than the next larger one."""
SQUARES = (16, 32, 64, 128, 256)
PAIRS = {
    (16, 16): ((16, 32), (16, 64), (32, 64), (64, 128), (64, 256)),
    (16, 4): ((16, 12), (16, 28), (32, 12), (32, 28), (32, 60), (64, 28), (64, 60), (128, 60), (128, 124)),
    (16, 1): ((16, 6), (16, 14), (16, 30), (32, 14), (32, 30), (64, 30), (64, 62), (128, 62), (128, 126)),
    (4, 4): ((4, 12), (12, 12), (12, 28), (20, 20), (20, 44), (28, 28), (28, 60), (60, 60), (124, 124)),
    (4, 1): ((4, 10), (12, 6), (12, 14), (12, 30), (28, 14), (28, 30), (60, 30), (60, 62), (124, 126)),
    (1, 1): ((6, 6), (6, 14), (14, 14), (14, 30), (22, 22), (22, 46), (30, 30), (62, 62), (126, 126)),
}
"""Channels on both sides of a convolution, by the grains of their numbers (`GRAINS`)."""
RECTANGLES = ((96, 768), (768, 96), (96, 1536), (1536, 96), (192, 768), (768, 192), (256, 1024), (1024, 256))
"""Linear layers as feed-forward networks of narrow models have them: each channel on both sides is rounded or rescaled."""
PAIRED_SIDES = (8, 16, 32)
STEPS = (448, 480, 496, 504, 508, 510, 511)
"""Widths below 512 that are multiples of 64, 32, 16, 8, 4, 2 and 1 and of nothing larger."""
STEP_PLACES = 128


def whole_plan() -> list[Layer]:
    """Return the layers of a table: some three minutes on one thread."""
    tokens, sides = ((32, 1), (128, 1), (128, 8)), tuple((side * side, 1) for side in (7, 14, 28, 56))
    asked = [
        Layer("call", 1, 1, 1),
        *_square("linear", (64, 128, 256, 384, 512, 768, 1024), ((1, 1), *tokens)),
        *(Layer("linear", *widths, *size) for widths in ((384, 1536), (1536, 384)) for size in tokens),
        *(Layer("linear", *widths, places) for widths in RECTANGLES for places in (32, 128)),
        *(Layer("attention", heads * size, heads, at) for heads in HEADS for size in HEAD_SIZES for at in (32, 128)),
        *(Layer("attention", heads * size, heads, 512) for heads in HEADS for size in (32, 64)),
        *_square("normalization", (128, 384, 1024), tokens),
        *_square("activation", (256, 1024, 3072), tokens),
        *_square("convolution", SQUARES, sides),
        *_square("convolution", (16, 64), ((784, 8),)),
        *(Layer("convolution", *pair, side * side) for pairs in PAIRS.values() for pair in pairs for side in PAIRED_SIDES),
        *_square("depthwise", (32, 128, 512), sides),
        *_square("addition", (16, 64, 256), sides),
        *_square("linear", STEPS, ((STEP_PLACES, 1),)),
    ]
    return [one for one in asked if one.work <= MOST_WORK]


def quick_plan() -> list[Layer]:
    """Return a few layers of each operation: some ten seconds, for a first look."""
    tokens = ((32, 1), (128, 1))
    return [
        Layer("call", 1, 1, 1),
        *_square("linear", (128, 512), tokens),
        *(Layer("attention", 384, 12, *at) for at in tokens),
        *_square("normalization", (384,), tokens),
        *_square("activation", (1024,), tokens),
        *_square("convolution", (16, 64), ((196, 1), (784, 1))),
        *_square("depthwise", (128,), ((196, 1),)),
        *_square("addition", (64,), ((196, 1),)),
    ]
