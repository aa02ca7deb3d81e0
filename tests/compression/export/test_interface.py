"""What an artifact reads is described as its file declares it, and tried before it is written into the manifest."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compression.evaluation.runtimes.onnx import open_folder
from compression.export.interface import interface_of
from compression.export.onnx import decoder
from compression.modalities.made_inputs import made_inputs
from compression.modalities.scoring.base import Floats
from compression.modalities.text.inputs import Batch, batch_of
from compression.schema.errors import ExportMismatch
from tests.support.shipments import Wrapped
from tests.support.tiny_language import model
from tests.support.tiny_shipment import Shipment

ASKED = [batch_of([[1, 2, 3], [4, 5, 6]])]


class Bent(Wrapped):
    """A runner that answers rows of one length alone otherwise."""

    def __init__(self, inner: Any, length: int, answer: Any) -> None:
        super().__init__(inner)
        self.declared, self.length, self.answer = inner.declared, length, answer

    def logits(self, batch: Batch) -> Floats:
        found = super().logits(batch)
        return self.answer(found) if batch.shape[1] == self.length else found


def refuses(_: Floats) -> Floats:
    raise RuntimeError("no such shape")


@pytest.mark.parametrize("length", [1, "largest"])
@pytest.mark.parametrize("answer", [refuses, lambda found: found * np.nan, lambda found: found[:0]])
def test_a_file_that_fails_at_its_smallest_or_largest_size_is_no_artifact(
    length: int | str, answer: Any, tiny_shipment: Shipment
) -> None:
    folder = tiny_shipment.folder(tiny_shipment.baseline)
    whole = open_folder(folder, threads=1)
    largest = interface_of(whole, tiny_shipment.model, folder, ASKED).tested[-1]["sequence"]
    bent = Bent(whole, length if length == 1 else largest, answer)
    with pytest.raises(ExportMismatch, match="'sequence': "):
        interface_of(bent, tiny_shipment.model, folder, ASKED)


def test_a_language_models_cache_is_named_and_left_to_the_runtime(tmp_path: Path) -> None:
    network = model("llama")
    decoder.write(network, tmp_path)
    found = interface_of(open_folder(tmp_path, threads=1), network, tmp_path, ASKED)
    named = {one.name: one for one in found.inputs}
    assert named["input_ids"].axes == ("batch", "sequence")
    assert named["attention_mask"].axes[0] == "batch"
    assert named["attention_mask"].axes[1] != "sequence"  # it is over what is cached too
    assert named["past_key_values.0.key"].axes[0] == "batch"
    assert found.outputs[0].name == "logits"
    assert set(made_inputs(found, {"batch": 2, "sequence": 5}).arrays) == {"input_ids", "position_ids"}


def test_made_rows_are_of_the_inputs_types_and_ranges(tiny_shipment: Shipment) -> None:
    folder = tiny_shipment.folder(tiny_shipment.baseline)
    described = interface_of(open_folder(folder, threads=1), tiny_shipment.model, folder, ASKED)
    made = made_inputs(described, {"batch": 3, "sequence": 40})
    ids = made.arrays["input_ids"]
    assert (ids.shape, ids.dtype, made.shape) == ((3, 40), np.int64, (3, 40))
    assert 0 <= ids.min() < ids.max() < tiny_shipment.model.config.vocab_size
    assert set(made.arrays["attention_mask"].flat) == {1}
    assert set(made.arrays["token_type_ids"].flat) == {0}
