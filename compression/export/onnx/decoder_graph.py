"""Builds the parts of decoder graphs: inputs, masks, quantized projections, attention with its cache."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from io import BufferedWriter
from operator import attrgetter

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compression.export.onnx.external_data import stored_tensor
from compression.export.onnx.graph_builder import BLOCKS, Array, Nodes
from compression.export.onnx.quantized_linear import MICROSOFT
from compression.export.onnx.softmax import divided, exponentials
from compression.quantization.dynamic_int8 import integer_rows
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization
from compression.quantization.static_int8 import StaticLinear
from compression.schema.schemes import SCHEMES

OPSET, IR = 20, 9
BATCH, SEQUENCE, PAST = "batch_size", "sequence_length", "past_sequence_length"
TOTAL = f"{PAST} + {SEQUENCE}"
PIECE = 16 << 20  #: bytes of a table that are rounded at a time
MASKED = float(np.finfo(np.float32).min)  #: the value that stock code adds to masked scores
Read = Callable[[str], Tensor]  #: returns a parameter or a buffer by name, for models whose weights are not in memory


class Body(Nodes):
    """The graph of one decoder, from whose parts `decoder_layers` builds layers. Hidden states are always rows, (b × s,
    channels): ONNX Runtime's kernels for linear layers take matrices.
    """

    def __init__(self, model: PreTrainedModel, data: BufferedWriter, simulation: Simulation | None, read: Read | None) -> None:
        super().__init__()
        self.model, self.config, self.simulation = model, model.config, simulation
        self.scheme = None if simulation is None else SCHEMES[simulation.scheme]
        self._data = data
        self._read: Read = read or (lambda name: attrgetter(name)(model))
        self._names = {id(module): name for name, module in model.named_modules()}
        self.within_expert = False
        self.is_portable = simulation is not None and simulation.portable
        self.left = {name for name, _ in model.named_parameters()}
        self._tables: dict[str, tuple[str, str]] = {}
        self._shapes: dict[tuple[object, ...], str] = {}
        self._caches: list[tuple[int, int, int]] = []
        self.ids = self.node("Reshape", "input_ids", self.numbers(-1))
        self._sizes = self.node("Shape", "input_ids")
        self._total = self.node("Shape", "attention_mask", start=1, end=2)
        self.places = "position_ids"

    def constant(self, name: str, value: Array) -> str:
        """Make `value` an initializer, once per name; large values go to the external data file."""
        if name not in self.initializers:
            self.initializers[name] = stored_tensor(self._data, name, value)
        return name

    def zero_points(self, scales: str) -> str:
        """Write zero points, (rows, 1) uint8: shared, for all tensors but those of experts have the same rows."""
        if self.within_expert:
            return super().zero_points(scales)
        return self.once(("zero points",), lambda: super(Body, self).zero_points(scales))

    def numbers(self, *values: int) -> str:
        """Return a constant vector of these integers, int64."""
        return self.constant(f"numbers_{'_'.join(map(str, values))}", np.array(values, np.int64))

    def number(self, value: float) -> str:
        """Return a float32 scalar constant."""
        return self.constant(f"number_{value!r}", np.array(value, np.float32))

    def split(self, x: str, sizes: tuple[int, ...], axis: int) -> list[str]:
        """Split a tensor along an axis into parts of these sizes."""
        label = f"Split_{len(self.nodes)}"
        found = [f"{label}_{number}" for number in range(len(sizes))]
        self.nodes.append(helper.make_node("Split", [x, self.numbers(*sizes)], found, name=label, axis=axis))
        return found

    def top(self, x: str, count: int) -> tuple[str, str]:
        """Find the `count` largest elements of the last axis. -> values, indices."""
        label = f"TopK_{len(self.nodes)}"
        found = (f"{label}_values", f"{label}_places")
        self.nodes.append(helper.make_node("TopK", [x, self.numbers(count)], list(found), name=label, axis=-1))
        return found

    def once(self, key: tuple[object, ...], make: Callable[[], str]) -> str:
        """Return the output that `make` writes; it runs once per key."""
        if key not in self._shapes:
            self._shapes[key] = make()
        return self._shapes[key]

    def parameter(self, module: nn.Module, name: str = "weight") -> tuple[str, Tensor]:
        """Read a parameter of a module, or a buffer. -> its full name; its values, float32 on the CPU."""
        full = f"{self._names[id(module)]}.{name}"
        self.left.discard(full)
        return full, self._read(full).detach().to("cpu", torch.float32)

    def vector(self, module: nn.Module, name: str) -> str:
        """Write a vector of a module in float32."""
        full, value = self.parameter(module, name)
        return self.constant(full, value.numpy())

    # The layers that hold weights.

    def project(self, x: str, module: nn.Module) -> str:
        """Write a linear layer of the model in the requested scheme: x (rows, in) -> (rows, out)."""
        full, weight = self.parameter(module)
        weight = weight.T if isinstance(module, Conv1D) else weight
        bias = None if module.bias is None else self.parameter(module, "bias")[1]
        return self.product(x, full.removesuffix(".weight"), weight, bias)

    def project_together(self, x: str, modules: Mapping[str, nn.Module], stem: str) -> str:
        """Write linear layers with the same input, by name, as one layer: x (rows, in) -> (rows, sum of outs). Results do not
        change, for each channel has its own scale. Static layers, whose ranges may differ, stay separate.
        """
        if self.scheme is not None and self.scheme.calibrated:
            return self.node("Concat", *(self.project(x, module) for module in modules.values()), axis=1)
        weights = {name: self.parameter(module)[1] for name, module in modules.items()}
        first = self._names[id(next(iter(modules.values())))]
        biases = {name: self.parameter(module, "bias")[1] for name, module in modules.items() if module.bias is not None}
        bias = torch.cat([biases.get(name, torch.zeros(len(weight))) for name, weight in weights.items()]) if biases else None
        return self.product(x, f"{stem}.{'_'.join(modules)}", torch.cat([*weights.values()]), bias, first)

    def product(self, x: str, name: str, weight: Tensor, bias: Tensor | None = None, like: str | None = None) -> str:
        """Write x·Wᵀ + b in the requested scheme. x (rows, in), weight (out, in), bias (out,) -> (rows, out). like: name of a
        layer of the model whose bits it has, if it is none itself.
        """
        layer, added = self._layer(name, weight, bias, like or name), None
        if bias is not None and not isinstance(layer, StaticLinear):  # a static layer writes its bias itself, in integers
            added = self.constant(f"{name}.bias", bias.numpy())
        if self.simulation is not None:
            return self.linear(x, name, layer, added)
        return self.plain_product(x, name, weight, added)

    def plain_product(self, x: str, name: str, weight: Tensor, bias: str | None = None) -> str:
        """Write x·Wᵀ + b in float32. x (rows, in), weight (out, in), bias (out,) -> (rows, out)."""
        more = [] if bias is None else [bias]
        return self.node("Gemm", x, self.constant(f"{name}.weight", weight.numpy()), *more, transB=1)

    def _layer(self, name: str, weight: Tensor, bias: Tensor | None, like: str) -> nn.Module:
        """Return an nn.Linear, or its simulated form, that the writers of schemes accept."""
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            layer.bias = nn.Parameter(bias, requires_grad=False)
        if self.simulation is not None:
            own = self.simulation.of_experts if self.within_expert else self.simulation.at(like)
            ranges = {"it": own.ranges[name]} if name in own.ranges else {}
            insert_fake_quantization(nn.ModuleDict({"it": layer}), simulation=own.model_copy(update={"ranges": ranges}))
        return layer

    def look_up(self, ids: str, module: nn.Module) -> str:
        """Write an embedding: ids (rows,) -> (rows, channels)."""
        full, weight = self.parameter(module)
        name = full.removesuffix(".weight")
        if self.simulation is None:
            return self.node("Gather", self.constant(full, weight.numpy()), ids)
        stored, scale = self._table(name, weight, turned=self._turned(module))
        scales = self.node("Unsqueeze", self.node("Gather", scale, ids), self.numbers(-1))
        if self._turned(module):
            rows = self.node("Transpose", self.node("Gather", stored, ids, axis=1), perm=[1, 0])
        else:
            rows = self.node("Gather", stored, ids)
        return self.node("Mul", self.node("Cast", rows, to=TensorProto.FLOAT), scales)

    def _turned(self, table: nn.Module) -> bool:
        """Return whether a table is stored as (channels, rows). MatMulInteger can read a shared table in no other layout."""
        shares = self.scheme is not None and self.scheme.shares_table
        return shares and self.tied() and table is self.model.get_input_embeddings()

    def tied(self) -> bool:
        """Return whether the head shares the token table."""
        head = self.model.get_output_embeddings()
        return head.weight is self.model.get_input_embeddings().weight

    def _table(self, name: str, weight: Tensor, *, turned: bool) -> tuple[str, str]:
        """Store a table in int8, once, rounded piece by piece. -> integers, (rows, channels) or transposed; scales (rows,)."""
        if name not in self._tables:
            assert self.simulation is not None, "float32 has no integers"  # noqa: S101
            levels = self.simulation.table_levels(tied=turned)
            rows = max(1, PIECE // (4 * weight.shape[1]))
            pieces = [integer_rows(piece, levels) for piece in torch.split(weight, rows)]
            whole = torch.cat([integers for integers, _ in pieces]).numpy()
            scales = torch.cat([scale[:, 0] for _, scale in pieces]).numpy()
            stored = self.constant(f"{name}.weight_int8", whole.T if turned else whole)
            self._tables[name] = stored, self.constant(f"{name}.weight_scale", scales)
        return self._tables[name]

    def logits(self, states: str) -> None:
        """Write the head over states (b × s, channels), and the graph's output `logits`."""
        head = self.model.get_output_embeddings()
        if not self.tied():
            rows = self.project(states, head)
        else:
            full, weight = self.parameter(self.model.get_input_embeddings())
            name = full.removesuffix(".weight")
            if self.scheme is None:
                rows = self.node("Gemm", states, full, transB=1)
            elif self.scheme.shares_table:
                rows = self.integer_product(states, *self._table(name, weight, turned=True))
            elif not self.scheme.rounds_activations and not self.scheme.grouped:
                stored, scale = self._table(name, weight, turned=False)
                column = self.node("Unsqueeze", scale, self.numbers(-1))
                real = self.node("Mul", self.node("Cast", stored, to=TensorProto.FLOAT), column)
                rows = self.node("Gemm", states, real, transB=1)
            else:
                rows = self.product(states, self._names[id(head)], weight)
        shape = self.node("Concat", self._sizes, self.numbers(-1), axis=0)
        self.node("Reshape", rows, shape, output="logits")

    # Attention.

    def heads(self, x: str, count: int, size: int) -> str:
        """Split rows into heads: (b × s, count × size) -> (b, count, s, size)."""
        shape = self.once(("heads", count, size), lambda: self._joined(self._sizes, self.numbers(count, size)))
        return self.node("Transpose", self.node("Reshape", x, shape), perm=[0, 2, 1, 3])

    def _joined(self, *parts: str) -> str:
        return self.node("Concat", *parts, axis=0)

    def attend(
        self, query: str, key: str, value: str, *, scale: float, window: int | None, sizes: tuple[int, int, int, int]
    ) -> str:
        """Write attention over cached and new keys, and the cache's outputs -> rows (b × s, heads × value size).

        query (b, heads, s, size), key (b, groups, s, size), value (b, groups, s, value size); sizes: heads, groups, size, value
        size. window: how many tokens a token sees, itself included; None for all tokens before it.
        """
        heads, groups, size, value_size = sizes
        keys, values = self.remembered(key, value, (groups, size, value_size))
        # Query heads of a group are adjacent, so keys and values need no copy for each head.
        each = heads // groups
        together = self.node("Reshape", query, self.numbers(0, groups, -1, size)) if each > 1 else query
        product = self.node("MatMul", together, self.node("Transpose", keys, perm=[0, 1, 3, 2]))
        scores = self.node("Mul", product, self.number(scale))  # right after the product, so that its kernel scales
        if each > 1:
            batch, sequence = (self._size(at) for at in (0, 1))
            apart = ("scores", groups, each)
            shape = self.once(apart, lambda: self._joined(batch, self.numbers(groups, each), sequence, self._total))
            scores = self.node("Reshape", scores, shape)
        seen = self.node("Add", scores, self._bias(window, grouped=each > 1))
        chances = exponentials(self, seen) if self.is_portable else self.node("Softmax", seen, axis=-1)
        if each > 1:
            back = self.once(("chances", groups), lambda: self._joined(self.numbers(0, groups, -1), self._total))
            chances = self.node("Reshape", chances, back)
        found = self.node("MatMul", chances, values)
        if self.is_portable:
            found = divided(self, found, chances)
        if each > 1:
            sequence = self._size(1)
            shape = self.once(
                ("found", heads, value_size), lambda: self._joined(self.numbers(0, heads), sequence, self.numbers(value_size))
            )
            found = self.node("Reshape", found, shape)
        return self.node("Reshape", self.node("Transpose", found, perm=[0, 2, 1, 3]), self.numbers(-1, heads * value_size))

    def remembered(self, key: str, value: str, sizes: tuple[int, int, int]) -> tuple[str, str]:
        """Append a layer's new keys and values to the cached ones; output both. sizes: groups, size, value size."""
        past, number = f"past_key_values.{len(self._caches)}", len(self._caches)
        self._caches.append(sizes)
        keys = self.node("Concat", f"{past}.key", key, axis=2, output=f"present.{number}.key")
        return keys, self.node("Concat", f"{past}.value", value, axis=2, output=f"present.{number}.value")

    def _size(self, at: int) -> str:
        return self.once(("size", at), lambda: self.node("Gather", self._sizes, self.numbers(at)))

    def _bias(self, window: int | None, *, grouped: bool) -> str:
        """Return the mask that is added to scores, (b, 1, s, p + s) or grouped (b, 1, 1, s, p + s): 0 or MASKED."""

        def made() -> str:
            past = self.once(("past",), lambda: self.node("Squeeze", self.node("Sub", self._total, self._size(1))))
            total = self.once(("total",), lambda: self.node("Squeeze", self._total))
            zero, one = self.constant("zero", np.array(0, np.int64)), self.constant("one", np.array(1, np.int64))
            keys = self.once(("keys",), lambda: self.node("Range", zero, total, one))
            queries = self.node("Unsqueeze", self.node("Range", past, total, one), self.numbers(1))
            seen = self.node("LessOrEqual", keys, queries)
            if window is not None:
                near = self.node("Less", self.node("Sub", queries, keys), self.constant(f"window_{window}", np.array(window)))
                seen = self.node("And", seen, near)
            real = self.node("Unsqueeze", self.node("Cast", "attention_mask", to=TensorProto.BOOL), self.numbers(1, 2))
            return self.node("Where", self.node("And", seen, real), self.number(0.0), self.number(MASKED))

        bias = self.once(("bias", window), made)
        return self.once(("grouped", window), lambda: self.node("Unsqueeze", bias, self.numbers(1))) if grouped else bias

    def turns(self, frequencies: Tensor, factor: float) -> tuple[str, str]:
        """Write factor × cosines and sines of positions × frequencies (radians), (b, 1, s, frequencies) each."""

        def angles() -> str:
            places = self.node("Cast", self.node("Unsqueeze", self.places, self.numbers(1, 3)), to=TensorProto.FLOAT)
            return self.node("Mul", places, self.constant("rotary.frequencies", frequencies.float().numpy()))

        angle = self.once(("angles",), angles)
        cosines, sines = (self.once((op,), partial(self.node, op, angle)) for op in ("Cos", "Sin"))
        if math.isclose(factor, 1.0):
            return cosines, sines
        by = self.number(factor)
        cosines, sines = (self.once((x, "scaled"), partial(self.node, "Mul", x, by)) for x in (cosines, sines))
        return cosines, sines

    # The whole graph.

    def interface(self) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
        """Return the graph's inputs and outputs."""
        whole, real = TensorProto.INT64, TensorProto.FLOAT
        inputs = [
            helper.make_tensor_value_info("input_ids", whole, [BATCH, SEQUENCE]),
            helper.make_tensor_value_info("attention_mask", whole, [BATCH, TOTAL]),
            helper.make_tensor_value_info("position_ids", whole, [BATCH, SEQUENCE]),
        ]
        outputs = [helper.make_tensor_value_info("logits", real, [BATCH, SEQUENCE, self.config.vocab_size])]
        for number, (groups, size, value_size) in enumerate(self._caches):
            for part, width in (("key", size), ("value", value_size)):
                name = f"{number}.{part}"
                inputs.append(helper.make_tensor_value_info(f"past_key_values.{name}", real, [BATCH, groups, PAST, width]))
                outputs.append(helper.make_tensor_value_info(f"present.{name}", real, [BATCH, groups, TOTAL, width]))
        return inputs, outputs

    def proto(self) -> onnx.ModelProto:
        """Return the finished model."""
        inputs, outputs = self.interface()
        graph = helper.make_graph(self.nodes, "decoder", inputs, outputs, list(self.initializers.values()))
        opset, ir = BLOCKS if self.has_blocks else (OPSET, IR)
        opsets = [helper.make_opsetid("", opset)]
        if any(node.domain == MICROSOFT for node in self.nodes):
            opsets.append(helper.make_opsetid(MICROSOFT, 1))
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir)


ACTIVATIONS = ("silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
"""Config names of the supported activation functions."""


def activation(to: Nodes, x: str, name: str) -> str:
    """Write one of ACTIVATIONS."""
    if name in ("silu", "swish"):
        return to.node("Mul", x, to.node("Sigmoid", x))
    if name in ("gelu_new", "gelu_pytorch_tanh"):
        return to.node("Gelu", x, approximate="tanh")
    return to.node(name.capitalize(), x)
