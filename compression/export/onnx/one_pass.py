"""Writes decoders that read a row in one pass, classifiers and readers: the language model's layers without a cache."""

from io import BufferedWriter

import numpy as np
import onnx
from onnx import TensorProto, helper
from transformers import PreTrainedModel

from compression.export.onnx.decoder_graph import BATCH, SEQUENCE, Body, Read
from compression.models.adapters.registry import adapter_of
from compression.models.architectures import heads
from compression.quantization.fake_quantize import Simulation


class OnePass(Body):
    """The graph of a decoder that reads input_ids and attention_mask, (b, s) int64.

    As in stock code, positions count from a row's first token, padding or not.
    """

    def __init__(self, model: PreTrainedModel, data: BufferedWriter, simulation: Simulation | None, read: Read | None) -> None:
        super().__init__(model, data, simulation, read)
        zero, one = self.constant("zero", np.array(0, np.int64)), self.constant("one", np.array(1, np.int64))
        length = self.node("Squeeze", self._size(1))
        self._counted = self.node("Unsqueeze", self.node("Range", zero, length, one), self.numbers(0))
        self.places = self.node("Expand", self._counted, self._sizes)

    def remembered(self, key: str, value: str, sizes: tuple[int, int, int]) -> tuple[str, str]:
        """Return the new keys and values alone: there is no cache."""
        del sizes
        return key, value

    def tied(self) -> bool:
        """Return False: no layer shares the token table."""
        return False

    def answered(self, states: str) -> str:
        """Write the output layer over the states: (b × s, channels) -> (b × s, outputs)."""
        head = adapter_of(self.model).head(self.model).out
        assert head is not None, "what reads rows has a head"  # noqa: S101
        return self.project(states, head)

    def interface(self) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
        """Return the graph's inputs and outputs."""
        names, whole = ("input_ids", "attention_mask"), TensorProto.INT64
        inputs = [helper.make_tensor_value_info(name, whole, [BATCH, SEQUENCE]) for name in names]
        return inputs, [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in self.outputs().items()]

    def outputs(self) -> dict[str, list[str | int]]:
        """Return the sizes of each output."""
        raise NotImplementedError


class Classifier(OnePass):
    """The graph of a stock …ForSequenceClassification of a decoder -> logits (b, labels): of each row's last real token."""

    def logits(self, states: str) -> None:
        """Write the head over the states (b × s, channels), and output the logits of each row's last token."""
        rows = self.answered(states)
        none = -1  # no token has this id: without padding, a row's last token is the last of the sequence
        padding = none if self.config.pad_token_id is None else int(self.config.pad_token_id)
        is_text = self.node("Not", self.node("Equal", "input_ids", self.constant("padding", np.array(padding, np.int64))))
        counted = self.node("Mul", self._counted, self.node("Cast", is_text, to=TensorProto.INT64))
        last = self.node("ArgMax", counted, axis=1, keepdims=0)
        row = self.node("Range", "zero", self.node("Squeeze", self._size(0)), "one")
        places = self.node("Add", self.node("Mul", row, self._size(1)), last)
        self.node("Gather", rows, places, output="logits")

    def outputs(self) -> dict[str, list[str | int]]:
        """Return the sizes of the logits."""
        return {"logits": [BATCH, self.config.num_labels]}


class Reader(OnePass):
    """The graph of a stock …ForQuestionAnswering of a decoder -> start_logits and end_logits (b, s)."""

    def logits(self, states: str) -> None:
        """Write the head over the states (b × s, channels), and output each token's logits as an answer's start and end."""
        shape = self.node("Concat", self._sizes, self.numbers(-1), axis=0)
        both = self.node("Reshape", self.answered(states), shape)
        for name, one in zip(heads.READER.outputs, self.split(both, (1, 1), axis=2), strict=True):
            self.node("Squeeze", one, self.numbers(2), output=name)

    def outputs(self) -> dict[str, list[str | int]]:
        """Return the sizes of both ends' logits."""
        return {name: [BATCH, SEQUENCE] for name in heads.READER.outputs}
