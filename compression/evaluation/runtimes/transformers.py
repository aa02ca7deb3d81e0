"""Checkpoints in stock transformers, on the CPU or to be scored on a GPU, including torchao's quantized weights."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torchao.utils import TorchAOBaseTensor

from compression.evaluation.runtimes.runner import config_of
from compression.modalities.scoring.base import Floats as Logits, Inputs
from compression.modalities.text.inputs import Batch, Ids
from compression.models.adapters.registry import adapter_named
from compression.models.architectures import heads
from compression.quantization.integer_products import integers_are_faster, product_by_floats
from compression.quantization.precision import full_float32
from compression.system.device import CARD, CPU

UNFOLDED_BYTES = 1 << 30  #: largest size of dequantized embedding tables in float32, if only logits are needed


class _Opened:
    """A stock model, opened as a user opens it."""

    def __init__(self, folder: Path, head: heads.Head, *, threads: int, device: torch.device = CPU) -> None:
        torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        self.device = device
        opened: nn.Module = getattr(transformers, head.auto).from_pretrained(folder, local_files_only=True).eval()
        self.model = opened.to(device)
        self.name = f"transformers {transformers.__version__}, torch {torch.__version__} {device.type.upper()}"

    def hasten(self) -> None:
        """Answer faster from here on, to score: logits stay bit for bit the same, memory and latency do not.

        torchao multiplies by torch._int_mm, which loops over single numbers where the processor has no VNNI. There float32
        matrices make the same integers (`integer_products`), for all of this process.
        """
        self.unfold_tables()
        if self.device.type == "cpu" and not integers_are_faster():
            torch._int_mm = _by_floats  # type: ignore[assignment]  # torchao gives no out

    def unfold_tables(self) -> None:
        """Dequantize embedding tables to float32.

        torchao dequantizes the whole table in each pass and then takes rows: two thirds of MiniLM's pass with a row of 50
        tokens.
        """
        tables = [module for module in self.model.modules() if isinstance(module, nn.Embedding)]
        folded = [table for table in tables if isinstance(table.weight, TorchAOBaseTensor)]
        if sum(4 * table.weight.numel() for table in folded) <= UNFOLDED_BYTES:
            for table in folded:
                table.weight = nn.Parameter(table.weight.dequantize(), requires_grad=False)


def _by_floats(left: Tensor, right: Tensor) -> Tensor:
    """Multiply as torch._int_mm. (m, k), (k, n) -> (m, n)"""
    return product_by_floats(left, right.t())


class TransformersRunner(_Opened):
    """A stock model with a classification head, or another head that reads the texts of one row."""

    def __init__(self, folder: Path, *, threads: int, device: torch.device = CPU) -> None:
        head = heads.of_architecture(config_of(folder)["architectures"][0]) or heads.CLASSIFIER
        super().__init__(folder, head, threads=threads, device=device)
        self.outputs = head.outputs
        self.types = getattr(self.model.config, "type_vocab_size", 0) > 1

    def logits(self, batch: Inputs) -> Logits:
        """Return the logits of a batch; start and end logits are stacked if the model has both."""
        arrays = ((name, torch.from_numpy(value)) for name, value in batch.arrays.items())
        dtype: torch.dtype = self.model.dtype  # type: ignore[assignment]  # of every PreTrainedModel
        given = {name: value.to(self.device, dtype if value.is_floating_point() else value.dtype) for name, value in arrays}
        if not self.types:
            given.pop("token_type_ids", None)
        # In inference mode torchao's tensors cannot be indexed, as experts need.
        with torch.no_grad(), full_float32(self.device):
            out = self.model(**given)
        found = [out[name].float().cpu() for name in self.outputs]
        answer: Logits = (found[0] if len(found) == 1 else torch.stack(found, dim=-1)).numpy()
        return answer


@dataclass(frozen=True)
class TorchCache:
    """KV cache of the tokens so far and their attention mask, (rows, tokens). A step extends it in place."""

    values: transformers.Cache
    mask: Ids


class TransformersDecoder(_Opened):
    """A stock language model."""

    def __init__(self, folder: Path, *, threads: int, device: torch.device = CPU) -> None:
        super().__init__(folder, heads.LANGUAGE, threads=threads, device=device)

    def step(self, ids: Ids, cache: TorchCache | None = None, mask: Ids | None = None) -> tuple[Logits, TorchCache]:
        """Process more tokens; see `modalities.text.decoding.Decoder`."""
        new = np.ones(ids.shape, np.int64) if mask is None else mask
        seen = new if cache is None else np.concatenate([cache.mask, new], axis=1)
        places = np.maximum(seen.cumsum(axis=1) - 1, 0)[:, -ids.shape[1] :]
        given = (torch.from_numpy(value).to(self.device) for value in (ids, seen, places))
        with torch.no_grad(), full_float32(self.device):  # as above
            out = self.model(
                **dict(zip(("input_ids", "attention_mask", "position_ids"), given, strict=True)),
                cache=None if cache is None else cache.values,
                use_cache=True,
            )
        return out.logits.float().cpu().numpy(), TorchCache(out.cache, seen)

    def logits(self, batch: Batch) -> Logits:
        """Return the logits of a batch, padded on any side."""
        return self.step(batch.input_ids, None, batch.attention_mask)[0]


def open_on_card(
    folder: Path,
    example: Inputs,  # noqa: ARG001 (all of its operators run there)
    *,
    threads: int,
) -> TransformersRunner | TransformersDecoder:
    """Open the checkpoint in `folder` on the GPU. Raises transformers' and torch's own errors."""
    return open_folder(folder, threads=threads, device=CARD)


def open_folder(folder: Path, *, threads: int, device: torch.device = CPU) -> TransformersRunner | TransformersDecoder:
    """Open the checkpoint in `folder`. Raises transformers' own errors."""
    config = config_of(folder)
    adapter_named(str(config["model_type"]))  # an installed package's module makes its class known to transformers
    head = heads.of_architecture(config["architectures"][0])
    return (TransformersDecoder if head is heads.LANGUAGE else TransformersRunner)(folder, threads=threads, device=device)
