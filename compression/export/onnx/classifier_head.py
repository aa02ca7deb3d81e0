"""Writes the graph of a decoder classifier: the language model's layers in one pass, without a cache."""

from io import BufferedWriter

import numpy as np
import onnx
from onnx import TensorProto, helper
from transformers import PreTrainedModel

from compression.export.onnx.decoder_graph import BATCH, SEQUENCE, Body, Read
from compression.models.adapters.registry import adapter_of
from compression.quantization.fake_quantize import Simulation


class Classifier(Body):
    """The graph of a stock …ForSequenceClassification of a decoder: input_ids and attention_mask, (b, s) int64 -> logits (b,
    labels).

    As in stock code, positions count from a row's first token, padding or not, and its logits are those of its last real token.
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

    def logits(self, states: str) -> None:
        """Write the head over the states (b × s, channels), and output the logits of each row's last token."""
        head = adapter_of(self.model).head(self.model).out
        assert head is not None, "a classifier has a head"  # noqa: S101
        rows = self.project(states, head)
        none = -1  # no token has this id: without padding, a row's last token is the last of the sequence
        padding = none if self.config.pad_token_id is None else int(self.config.pad_token_id)
        is_text = self.node("Not", self.node("Equal", "input_ids", self.constant("padding", np.array(padding, np.int64))))
        counted = self.node("Mul", self._counted, self.node("Cast", is_text, to=TensorProto.INT64))
        last = self.node("ArgMax", counted, axis=1, keepdims=0)
        row = self.node("Range", "zero", self.node("Squeeze", self._size(0)), "one")
        places = self.node("Add", self.node("Mul", row, self._size(1)), last)
        self.node("Gather", rows, places, output="logits")

    def interface(self) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
        """Return the graph's inputs and outputs."""
        whole, real = TensorProto.INT64, TensorProto.FLOAT
        inputs = [helper.make_tensor_value_info(name, whole, [BATCH, SEQUENCE]) for name in ("input_ids", "attention_mask")]
        return inputs, [helper.make_tensor_value_info("logits", real, [BATCH, self.config.num_labels])]
