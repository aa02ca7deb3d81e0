"""Each operator of an ONNX file becomes nodes that compute what ONNX Runtime computes, for one row and for several."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from compression.models.networks.onnx_reader import read_onnx
from tests.support.onnx_files import Arrays, answers, proto, runtime_answers, save

DRAW = np.random.default_rng(7)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return DRAW.standard_normal(shape).astype(np.float32)


def whole(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, np.int64)


def op(kind: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """Return a node. inputs, outputs: names with blanks between; "-" for one that is left out."""
    names = [[name.replace("-", "") for name in text.split()] for text in (inputs, outputs)]
    return helper.make_node(kind, *names, **attributes)


def case(
    name: str,
    *nodes: onnx.NodeProto,
    weights: Arrays | None = None,
    opset: int = 18,
    shape: Sequence[int] = (3, 8, 8),
    gives: str = "",
) -> Any:
    return pytest.param(nodes, weights or {}, opset, shape, gives.split(), id=name)


MATRIX = {"w": floats(192, 5), "t": floats(5, 192), "b": floats(5), "one": floats(1)}
FLAT = op("Flatten", "image", "f")
TOKENS = (op("Reshape", "image tokens", "t"),)
SHAPES = {"tokens": whole(0, 16, 12), "back": whole(0, -1)}
CASES = [
    case("gemm", FLAT, op("Gemm", "f w b"), weights=MATRIX, gives="linear"),
    case(
        "gemm transposed and scaled", FLAT, op("Gemm", "f t b", transB=1, alpha=0.5, beta=2.0), weights=MATRIX, gives="linear"
    ),
    case("gemm with one number for a bias", FLAT, op("Gemm", "f w one"), weights=MATRIX, gives="linear"),
    case("a bias behind matmul", FLAT, op("MatMul", "f w", "m"), op("Add", "b m"), weights=MATRIX, gives="linear"),
    case("a transposed weight", FLAT, op("Transpose", "t", "w2"), op("MatMul", "f w2"), weights=MATRIX, gives="linear"),
    case(
        "a constant matrix on the left",
        *TOKENS,
        op("MatMul", "m t"),
        weights={**SHAPES, "m": floats(7, 16)},
        gives="constant matmul",
    ),
    case(
        "conv",
        op("Conv", "image w b", pads=[1, 0, 0, 2], strides=[2, 1]),
        weights={"w": floats(4, 3, 3, 3), "b": floats(4)},
        gives="conv",
    ),
    *(
        case(f"conv {way}", op("Conv", "image w", auto_pad=way, strides=[2, 3]), weights={"w": floats(4, 3, 2, 5)})
        for way in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    case("conv in groups", op("Conv", "image w", group=3), weights={"w": floats(6, 1, 3, 3)}, gives="conv"),
    case(
        "conv over one axis",
        op("Reshape", "image lines", "l"),
        op("Conv", "l w b", pads=[1, 1]),
        weights={"lines": whole(0, 3, 64), "w": floats(2, 3, 3), "b": floats(2)},
    ),
    case(
        "conv behind its padding",
        op("Pad", "image p", "q"),
        op("Conv", "q w"),
        weights={"p": whole(0, 0, 1, 2, 0, 0, 0, 1), "w": floats(2, 3, 3, 3)},
        gives="conv",
    ),
    case(
        "batch norm",
        op("BatchNormalization", "image s b m v", epsilon=1e-3),
        weights={"s": floats(3), "b": floats(3), "m": floats(3), "v": floats(3) ** 2},
        gives="batch_norm",
    ),
    case("layer norm", op("LayerNormalization", "image s b"), weights={"s": floats(8), "b": floats(8)}, gives="layer_norm"),
    case("layer norm over all", op("LayerNormalization", "image s", axis=1), weights={"s": floats(3, 8, 8)}),
    case("instance norm", op("InstanceNormalization", "image s b"), weights={"s": floats(3), "b": floats(3)}),
    case(
        "group norm",
        op("Conv", "image w", "c"),
        op("GroupNormalization", "c s b", num_groups=2),
        weights={"w": floats(4, 3, 1, 1), "s": floats(4), "b": floats(4)},
        opset=21,
    ),
    *(
        case(
            f"max pool, ceil {ceil}",
            op("MaxPool", "image", kernel_shape=[3, 2], strides=[3, 3], pads=[1, 0, 1, 1], ceil_mode=ceil),
        )
        for ceil in (0, 1)
    ),
    *(
        case(
            f"max pool behind its padding, windows of {size}",
            op("Pad", "image p least", "q"),
            op("MaxPool", "q", "m", kernel_shape=[size, size], strides=[2, 2], ceil_mode=ceil),
            op("Relu", "m"),
            weights={"p": whole(0, 0, 0, 2, 0, 0, 1, 1), "least": np.array(-np.inf, np.float32)},
            gives=gives,
        )
        for size, ceil, gives in ((3, 0, "max_pool"), (3, 1, "pad"), (2, 0, "pad"))
    ),
    case("max pool, dilated", op("MaxPool", "image", kernel_shape=[2, 2], dilations=[2, 3])),
    *(
        case(
            f"average pool, ceil {ceil}, counts {counts}",
            op(
                "AveragePool",
                "image",
                kernel_shape=[3, 3],
                strides=[2, 2],
                pads=[1, 1, 0, 1],
                ceil_mode=ceil,
                count_include_pad=counts,
            ),
            opset=19,
        )
        for ceil in (0, 1)
        for counts in (0, 1)
    ),
    case("global average", op("GlobalAveragePool", "image"), gives="reduce_mean"),
    case("global maximum", op("GlobalMaxPool", "image"), gives="reduce_max"),
    case("mean by attribute", op("ReduceMean", "image", axes=[-1, 1], keepdims=0), opset=13, gives="reduce_mean"),
    case("mean by input", op("ReduceMean", "image axes"), weights={"axes": whole(2)}, gives="reduce_mean"),
    case("sum, maximum", op("ReduceSum", "image a", "s"), op("ReduceMax", "s a"), weights={"a": whole(3)}),
    case("minimum", op("ReduceMin", "image a", keepdims=0), weights={"a": whole(1, 3)}),
    case("length", op("ReduceL2", "image a", keepdims=0), weights={"a": whole(1)}),
    *(
        case(kind, op(kind, "image"), gives=node)
        for kind, node in (
            ("Relu", "relu"),
            ("Sigmoid", "sigmoid"),
            ("Tanh", "tanh"),
            ("Softplus", "softplus"),
            ("Softsign", "softsign"),
            ("HardSwish", "hard_swish"),
            ("Mish", "mish"),
            ("Erf", "erf"),
            ("Exp", "exp"),
            ("Neg", "neg"),
            ("Abs", "abs"),
            ("LeakyRelu", "leaky_relu"),
            ("Elu", "elu"),
            ("HardSigmoid", "hard_sigmoid"),
            ("Identity", "reshape"),
        )
    ),
    case("gelu", op("Gelu", "image", approximate="tanh"), opset=20, gives="gelu"),
    case("square root, logarithm", op("Abs", "image", "a"), op("Sqrt", "a", "s"), op("Log", "s", "l"), op("Reciprocal", "l")),
    case("prelu", op("PRelu", "image s"), weights={"s": floats(3, 1, 1)}, gives="prelu"),
    case("clip by attributes", op("Clip", "image", min=-0.5, max=1.0), opset=9, gives="clip"),
    case("clip below", op("Clip", "image low"), weights={"low": np.float32(0)}, gives="relu"),
    case("clip above", op("Clip", "image - high"), weights={"high": np.float32(0.25)}, gives="clip"),
    case("maximum with 0", op("Max", "image z"), weights={"z": np.float32(0)}, gives="relu"),
    case("softmax", op("Softmax", "image", axis=1)),
    case("sum and mean of three", op("Neg", "image", "n"), op("Sum", "image n image", "s"), op("Mean", "s image n")),
    case(
        "arithmetic",
        op("Sub", "c image", "d"),
        op("Div", "d c", "q"),
        op("Mul", "q image", "p"),
        op("Pow", "p two"),
        weights={"c": floats(1, 3, 1, 8) + 3, "two": np.float32(2)},
    ),
    case("lower rank beside a map", op("GlobalAveragePool", "image", "g"), op("Mul", "image g")),
    case(
        "slice",
        op("Slice", "image s e a st"),
        weights={"s": whole(1, -3), "e": whole(7, 2**62), "a": whole(2, 3), "st": whole(2, 1)},
        gives="slice",
    ),
    case("slice by attributes", op("Slice", "image", starts=[1], ends=[100], axes=[2]), opset=9, gives="slice"),
    case("split", op("Split", "image", "a b c", axis=1, num_outputs=3), op("Sub", "a c", "d"), op("Mul", "d b")),
    case(
        "split unequally",
        op("Split", "image parts", "a b", axis=3),
        op("Concat", "b a", axis=-1),
        weights={"parts": whole(3, 5)},
    ),
    case("gather one", op("Gather", "image i", axis=2), weights={"i": np.array(-2, np.int64)}, gives="slice"),
    case("gather some", op("Gather", "image i", axis=3), weights={"i": whole(6, 7, 0, 1, 2)}, gives="slice concat"),
    case("gather every other", op("Gather", "image i", axis=3), weights={"i": whole(1, 3, 5)}, gives="slice"),
    case(
        "squeeze, unsqueeze",
        op("GlobalAveragePool", "image", "g"),
        op("Squeeze", "g a", "s"),
        op("Unsqueeze", "s b", "u"),
        op("Relu", "u"),
        weights={"a": whole(2, 3), "b": whole(1, -1)},
    ),
    case("pad", op("Pad", "image p v"), weights={"p": whole(0, 1, 0, 2, 0, 0, 1, 0), "v": np.float32(1.5)}, gives="pad"),
    case(
        "expand",
        op("ReduceMean", "image a", "m"),
        op("Expand", "m s"),
        weights={"a": whole(1), "s": whole(4, 1, 1)},
        gives="reduce_mean expand",
    ),
    case(
        "resize by linear scales",
        op("Resize", "image - s", mode="linear", coordinate_transformation_mode="align_corners"),
        weights={"s": np.float32([1, 1, 2, 1.5])},
    ),
    case("resize by half pixels", op("Resize", "image - s", mode="linear"), weights={"s": np.float32([1, 1, 0.5, 2])}),
    case("repeat pixels", op("Resize", "image - s"), weights={"s": np.float32([1, 1, 2, 3])}, gives="resize"),
    case(
        "nearest as torch has it",
        op("Resize", "image - s", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        weights={"s": np.float32([1, 1, 1.5, 1.25])},
    ),
    case("upsample", op("Upsample", "image s"), weights={"s": np.float32([1, 1, 2, 2])}, opset=9),
    *(
        case(
            f"depth to space {mode}",
            op("Conv", "image w", "c"),
            op("DepthToSpace", "c", blocksize=2, mode=mode),
            weights={"w": floats(8, 3, 1, 1)},
        )
        for mode in ("DCR", "CRD")
    ),
    case("space to depth", op("SpaceToDepth", "image", blocksize=4)),
    case(
        "einsum", *TOKENS, op("Mul", "t t", "u"), op("Einsum", "t u", equation="bik,bjk->bji"), weights=SHAPES, gives="matmul"
    ),
    case(
        "einsum with weights",
        *TOKENS,
        op("Einsum", "t w", equation="b t c, d c -> b t d"),
        weights={**SHAPES, "w": floats(5, 12)},
        gives="linear",
    ),
    case(
        "attention with a mask",
        op("Reshape", "image heads", "t"),
        op("Neg", "t", "k"),
        op("Attention", "t k t m"),
        weights={"heads": whole(0, 3, 16, 4), "m": floats(1, 1, 16, 16)},
        opset=23,
        gives="softmax matmul",
    ),
    case("dropout and casts", op("Dropout", "image", "d mask"), op("Cast", "d", to=1)),
    case(
        "channel shuffle",
        op("Conv", "image w", "c"),
        op("Reshape", "c apart", "r"),
        op("Transpose", "r", "t", perm=[0, 2, 1, 3, 4]),
        op("Reshape", "t merged"),
        weights={"w": floats(6, 3, 1, 1), "apart": whole(0, 2, 3, 8, 8), "merged": whole(-1, 6, 8, 8)},
        gives="conv reshape transpose reshape",
    ),
    case(
        "a reshape by the input's shape",
        op("Shape", "image", "s"),
        op("Gather", "s first", "r", axis=0),
        op("Unsqueeze", "r zero", "r1"),
        op("Concat", "r1 rest", "n", axis=0),
        op("Reshape", "image n"),
        weights={"first": np.array(0, np.int64), "zero": whole(0), "rest": whole(4, -1)},
    ),
    case(
        "a class token",
        *TOKENS,
        op("Shape", "t", "s", start=0, end=1),
        op("Concat", "s ones", "n", axis=0),
        op("Expand", "token n", "e"),
        op("Concat", "e t", "all", axis=1),
        op("Add", "all places"),
        weights={**SHAPES, "ones": whole(1, 12), "token": floats(1, 1, 12), "places": floats(1, 17, 12)},
        gives="constant expand concat constant add",
    ),
    case(
        "zeros for each row",
        op("Shape", "image", "s"),
        op("ConstantOfShape", "s", "z"),
        op("Concat", "image z", axis=1),
        gives="constant expand concat",
    ),
    case(
        "heads with the batch in the second place",
        *TOKENS,
        op("MatMul", "t w", "q"),
        op("Reshape", "q five", "r"),
        op("Transpose", "r", "p", perm=[2, 0, 3, 1, 4]),
        op("Split", "p", "a b c", axis=0, num_outputs=3),
        op("Squeeze", "a zero", "a1"),
        op("Squeeze", "b zero", "b1"),
        op("Gather", "p two", "c1", axis=0),
        op("Transpose", "b1", "b2", perm=[0, 1, 3, 2]),
        op("MatMul", "a1 b2", "s"),
        op("Softmax", "s", "m"),
        op("MatMul", "m c1", "v"),
        op("Transpose", "v", "h", perm=[0, 2, 1, 3]),
        op("Reshape", "h same"),
        weights={
            **SHAPES,
            "w": floats(12, 36),
            "five": whole(0, 16, 3, 4, 3),
            "zero": whole(0),
            "two": np.array(2, np.int64),
            "same": whole(0, 16, 12),
        },
    ),
    case(
        "rows behind tokens",  # as torch.nn.MultiheadAttention has them
        *TOKENS,
        op("Transpose", "t", "l", perm=[1, 0, 2]),
        op("MatMul", "l w", "m"),
        op("Add", "m b", "o"),
        op("Relu", "o", "e"),
        op("Shape", "e", "s"),
        op("Reshape", "e flat", "x"),
        op("Gemm", "x u c", "g"),
        op("Reshape", "g s", "k"),
        op("Transpose", "k", "y", perm=[1, 0, 2]),
        weights={**SHAPES, "w": floats(12, 12), "b": floats(12), "flat": whole(-1, 12), "u": floats(12, 12), "c": floats(12)},
    ),
]


@pytest.mark.parametrize(("nodes", "weights", "opset", "shape", "gives"), CASES)
def test_an_operator_computes_what_onnx_runtime_computes(
    nodes: Sequence[onnx.NodeProto], weights: Arrays, opset: int, shape: Sequence[int], gives: Sequence[str], tmp_path: Path
) -> None:
    model = proto([*nodes, op("Flatten", "y", "logits")], weights, ("rows", *shape), opset)
    path = save(model, tmp_path)
    graph, tensors = read_onnx(path)
    assert {name: array.shape for name, array in tensors.items()} == graph.tensors()
    assert set(gives) <= {node.op for node in graph.nodes}
    for rows in (1, 3):
        images = DRAW.standard_normal((rows, *shape)).astype(np.float32)
        np.testing.assert_allclose(answers(graph, tensors, images), runtime_answers(path, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["GroupNormalization", "InstanceNormalization"])
def test_norms_of_groups_have_no_more_numbers_than_the_file(kind: str, tmp_path: Path) -> None:
    more = {"num_groups": 2} if kind == "GroupNormalization" else {}
    nodes = [op("Conv", "image w", "c"), op(kind, "c s b", **more), op("GlobalAveragePool", "y", "p")]
    weights = {"w": floats(4, 3, 1, 1), "s": floats(4), "b": floats(4)}
    _, tensors = read_onnx(save(proto([*nodes, op("Flatten", "p", "logits")], weights, opset=21), tmp_path))
    several = [array.size for array in tensors.values() if array.size > 1]  # a single number is a part of a formula
    assert sum(several) == sum(array.size for array in weights.values())


def test_a_max_pool_pads_by_itself(tmp_path: Path) -> None:
    nodes = [op("Pad", "image p least", "q"), op("MaxPool", "q", kernel_shape=[3, 3], strides=[2, 2])]
    weights = {"p": whole(0, 0, 0, 2, 0, 0, 1, 1), "least": np.array(-np.inf, np.float32)}
    graph, _ = read_onnx(save(proto([*nodes, op("Flatten", "y", "logits")], weights), tmp_path))
    (pool,) = (node for node in graph.nodes if node.op == "max_pool")
    assert pool.attributes["padding"] == (0, 2, 1, 1)
    assert "pad" not in {node.op for node in graph.nodes}
