"""`python -m bench decoding MODEL`: prefill and decode of one decoder in the forms that ONNX Runtime has kernels for.

Each form is the whole model, written by the engine's own exporter; forms take turns, step by step, so that other load on the
machine affects all. Beside the shipped forms:

- `int8 in blocks`: MatMulNBits with 8 bits and one scale for 32 inputs, at accuracy level 4, which rounds activations to 8 bits
  with a scale for 32 of them too. It is what dynamic-int8 is held against: one scale a token and a channel.
- `int4, rounded`: weight-only-int4's own integers at accuracy level 4. Not what was trained.

MODEL: a folder that stock transformers opens as a language model. Needs a calm machine.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from compression.evaluation.runtimes.runner import open_artifact
from compression.export.onnx import decoder, decoder_layers
from compression.export.onnx.decoder_graph import Body
from compression.export.onnx.quantized_linear import MICROSOFT
from compression.modalities.text.decoding import Decoder
from compression.quantization.dynamic_int8 import integer_rows
from compression.quantization.fake_quantize import Simulation

BLOCK = 32
BYTES, MIDDLE = 8, 128
ROUNDED = 4
"""MatMulNBits' accuracy_level for activations of 8 bits."""


class BlockBody(Body):
    """Linear layers in int8 by blocks: MatMulNBits."""

    def product(
        self,
        x: str,
        name: str,
        weight: Tensor,
        bias: Tensor | None = None,
        like: str | None = None,  # noqa: ARG002
    ) -> str:
        """Write x·Wᵀ + b. x (rows, in), weight (out, in), bias (out,) -> (rows, out)."""
        outputs, inputs = weight.shape
        pieces = -(-inputs // BLOCK)
        filled = torch.nn.functional.pad(weight, (0, pieces * BLOCK - inputs)).view(-1, BLOCK)
        whole, scale = integer_rows(filled)
        packed = (whole.to(torch.int16) + MIDDLE).to(torch.uint8).view(outputs, pieces, BLOCK)
        given = [
            self.constant(f"{name}.weight_int8", packed.numpy()),
            self.constant(f"{name}.weight_scale", scale.view(outputs, pieces).numpy()),
        ]
        found = self.node(
            "MatMulNBits",
            x,
            *given,
            domain=MICROSOFT,
            K=inputs,
            N=outputs,
            bits=BYTES,
            block_size=BLOCK,
            accuracy_level=ROUNDED,
        )
        return found if bias is None else self.node("Add", found, self.constant(f"{name}.bias", bias.numpy()))

    def tied(self) -> bool:
        """Return False: embedding and head are rounded differently."""
        return False


def write_blocks(model: PreTrainedModel, folder: Path) -> None:
    """Write the form in blocks."""
    with (folder / decoder.DATA).open("xb") as data:
        body = BlockBody(model, data, Simulation(), None)
        body.logits(decoder_layers.writer_of(model.config)(body))
        (folder / decoder.FILE).write_bytes(body.proto().SerializeToString())


def write_rounded(model: PreTrainedModel, folder: Path) -> None:
    """Write weight-only-int4 with rounded activations."""
    decoder.write(model, folder, simulation=Simulation(scheme="weight-only-int4", group_size=BLOCK))
    proto = onnx.load(folder / decoder.FILE, load_external_data=False)
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = ROUNDED
    (folder / decoder.FILE).write_bytes(proto.SerializeToString())


FORMS: dict[str, Callable[[PreTrainedModel, Path], object]] = {
    "float32": lambda model, folder: decoder.write(model, folder),
    "dynamic-int8": lambda model, folder: decoder.write(model, folder, simulation=Simulation()),
    "int8 in blocks": write_blocks,
    "weight-only-int4": lambda model, folder: decoder.write(
        model, folder, simulation=Simulation(scheme="weight-only-int4", group_size=BLOCK)
    ),
    "int4, rounded": write_rounded,
}


def measured(sides: list[Decoder], prompt: int, steps: int, rounds: int, batch: int) -> list[tuple[float, float]]:
    """Time all forms in turn. -> for each: seconds of a prefill, seconds of a decoding step, both medians."""
    ids = np.random.default_rng(0).integers(0, 1000, (batch, prompt + steps), dtype=np.int64)
    for side in sides:
        _, cache = side.step(ids[:, :prompt])
        side.step(np.ascontiguousarray(ids[:, :1]), cache)
    prefill: list[list[float]] = [[] for _ in sides]
    decode: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        caches = []
        for side, times in zip(sides, prefill, strict=True):
            start = time.perf_counter()
            caches.append(side.step(np.ascontiguousarray(ids[:, :prompt]))[1])
            times.append(time.perf_counter() - start)
        for step in range(prompt, prompt + steps):
            token = np.ascontiguousarray(ids[:, step : step + 1])
            for number, (side, times) in enumerate(zip(sides, decode, strict=True)):
                start = time.perf_counter()
                caches[number] = side.step(token, caches[number])[1]
                times.append(time.perf_counter() - start)
    return [(statistics.median(one), statistics.median(other)) for one, other in zip(prefill, decode, strict=True)]


def main(arguments: list[str]) -> None:
    """Write all forms, time them and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench decoding", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(arguments)
    model = AutoModelForCausalLM.from_pretrained(asked.model, local_files_only=True).eval()
    with tempfile.TemporaryDirectory(prefix="lathe-decoding-") as place:
        sizes: list[int] = []
        sides: list[Decoder] = []
        for number, form in enumerate(asked.forms):
            folder = Path(place) / str(number)
            folder.mkdir()
            FORMS[form](model, folder)
            sizes.append(sum(path.stat().st_size for path in folder.iterdir()))
            opened = open_artifact("onnx", folder, threads=asked.threads)
            assert isinstance(opened, Decoder)
            sides.append(opened)
        found = measured(sides, asked.prompt, asked.steps, asked.rounds, asked.batch)
    print(f"{sides[0].name}, {asked.threads} thread(s), batch {asked.batch}, prompt {asked.prompt}, {asked.steps} steps\n")
    print("| form | MB | prefill, tokens/s | decode, tokens/s | prefill, × first | decode, × first |")
    print("| --- | --- | --- | --- | --- | --- |")
    for form, size, (prefill, step) in zip(asked.forms, sizes, found, strict=True):
        rates = f"{asked.batch * asked.prompt / prefill:,.0f} | {asked.batch / step:,.1f}"
        print(f"| {form} | {size / 1e6:.1f} | {rates} | {found[0][0] / prefill:.2f} | {found[0][1] / step:.2f} |")
