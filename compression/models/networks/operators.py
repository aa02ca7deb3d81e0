"""The operators of a network's graph: those that classifiers of images are made of, each with its attributes and tensors.

Every other part of Lathe that treats operators one by one (shapes, channels, torch, ONNX) has a table with these names; a test
compares them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

Attribute = int | float | str | tuple[int, ...]


@dataclass(frozen=True)
class Operator:
    """What a node of an operator must have. inputs: their number; None is any from one.

    attributes: name → a value of its kind, to compare with (a tuple may have any length). roles: of its tensors; those in
    `optional` may be missing.
    """

    inputs: int | None
    attributes: Mapping[str, Attribute]
    roles: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    def disagrees(self, inputs: int, attributes: Mapping[str, object], tensors: Collection[str]) -> str | None:
        """Return why a node is not one of this operator; None if it is."""
        if inputs != self.inputs if self.inputs is not None else inputs == 0:
            return f"it has {inputs} inputs, not {self.inputs or 'one or more'}"
        if set(attributes) != set(self.attributes):
            return f"its attributes are {sorted(attributes)}, not {sorted(self.attributes)}"
        for name, example in self.attributes.items():
            if not _is_like(attributes[name], example):
                return f"its attribute {name} is {attributes[name]!r:.100}"
        missing, surplus = set(self.roles) - set(self.optional) - set(tensors), set(tensors) - set(self.roles)
        if missing or surplus:
            return f"its tensors are {sorted(tensors)}, not {sorted(self.roles)}"
        return None


def _is_like(value: object, example: Attribute) -> bool:
    if isinstance(example, tuple):
        return isinstance(value, tuple) and all(type(one) is int for one in value)
    if isinstance(example, float):
        return type(value) in (int, float)
    return type(value) is type(example)


_ELEMENTWISE: tuple[str, ...] = ("relu", "sigmoid", "hard_swish", "tanh", "softplus", "softsign", "mish", "silu", "erf", "exp")
_ELEMENTWISE += ("log", "sqrt", "reciprocal", "neg", "abs")
_WINDOW: dict[str, Attribute] = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 0, 0, 0), "ceil": 0}
OPERATORS: dict[str, Operator] = {
    # weight: (outputs, inputs / groups, height, width); padding: top, left, bottom, right.
    "conv": Operator(
        1, {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}, ("weight", "bias"), ("bias",)
    ),
    # Over the last axis. weight: (outputs, inputs).
    "linear": Operator(1, {}, ("weight", "bias"), ("bias",)),
    # Over axis 1; all tensors (channels,).
    "batch_norm": Operator(1, {"epsilon": 1e-5}, ("weight", "bias", "running_mean", "running_var")),
    # Over the last axis; (channels,).
    "layer_norm": Operator(1, {"epsilon": 1e-5}, ("weight", "bias"), ("bias",)),
    # A tensor as a value, without a batch axis: position embeddings, a class token, layer scales.
    "constant": Operator(0, {}, ("value",)),
    # Of two values that broadcast as in numpy.
    **dict.fromkeys(("add", "sub", "mul", "div", "pow", "minimum", "maximum"), Operator(2, {})),
    **dict.fromkeys(_ELEMENTWISE, Operator(1, {})),
    "clip": Operator(1, {"low": 0.0, "high": 6.0}),
    "leaky_relu": Operator(1, {"slope": 0.01}),
    "elu": Operator(1, {"alpha": 1.0}),
    "hard_sigmoid": Operator(1, {"alpha": 1 / 6, "beta": 0.5}),
    # approximate: "none" or "tanh".
    "gelu": Operator(1, {"approximate": "none"}),
    # slope: broadcasts to the value without its batch axis.
    "prelu": Operator(1, {}, ("slope",)),
    "softmax": Operator(1, {"axis": -1}),
    "max_pool": Operator(1, {**_WINDOW, "dilation": (1, 1)}),
    # count_padding: whether zeros of the padding count in the mean.
    "average_pool": Operator(1, {**_WINDOW, "count_padding": 0}),
    # keep: whether the axes stay, with size 1. Axis 0 is never reduced.
    **dict.fromkeys(("reduce_mean", "reduce_sum", "reduce_max"), Operator(1, {"axes": (2, 3), "keep": 1})),
    "concat": Operator(None, {"axis": 1}),
    "slice": Operator(1, {"axis": 1, "start": 0, "end": 1, "step": 1}),
    # pads: before and after each axis but the batch, as (before, after, before, after, …).
    "pad": Operator(1, {"pads": (0, 0), "value": 0.0}),
    # shape: whole, the batch's factor first.
    "reshape": Operator(1, {"shape": (1, 1)}),
    "transpose": Operator(1, {"order": (0, 1)}),
    # A value of size 1 in some axes, repeated to this shape; a constant of no batch axis gets one.
    "expand": Operator(1, {"shape": (1, 1)}),
    # mode: "nearest" or "linear", size: height and width. coordinates: ONNX's coordinate_transformation_mode.
    "resize": Operator(1, {"size": (1, 1), "mode": "nearest", "coordinates": "half_pixel"}),
    # Of two values, as numpy.matmul.
    "matmul": Operator(2, {}),
}
