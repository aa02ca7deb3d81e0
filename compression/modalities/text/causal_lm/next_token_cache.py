"""Stores a teacher's most likely next tokens on disk in 16 bits: written once, read row by row."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression.modalities import losses
from compression.modalities.text.causal_lm import hidden_states
from compression.modalities.text.causal_lm.losses import TopKTargets, fused_logits
from compression.modalities.text.causal_lm.packing import Packed
from compression.system.row_file import RowFile

HALF = 2  #: bytes of a 16-bit number
SMALL_VOCABULARY = 1 << 16  #: up to this many ids, two bytes hold one


class TopKTargetFile:
    """A file of a teacher's softened top-k next-token distributions at each scored position; `close` removes it.

    With 64 kept, a position takes 258 bytes for a vocabulary of up to 65,536, and 386 for a larger one.
    """

    def __init__(self, path: Path, asked: Sequence[int], vocabulary: int, kept: int, temperature: float) -> None:
        """Create the file for the scored positions of each row, 1 or more. Raises ValueError unless kept < vocabulary."""
        if not 1 <= kept < vocabulary:
            raise ValueError(f"of {vocabulary} tokens, {kept} cannot be kept with others beside them")
        self.kept, self.temperature = kept, temperature
        self._asked = list(asked)
        self._ids = torch.uint16 if vocabulary <= SMALL_VOCABULARY else torch.int32
        self._written = bytearray(len(self._asked))
        self._file = RowFile(path, [count * self.of_each(vocabulary, kept) for count in self._asked])

    @staticmethod
    def of_each(vocabulary: int, kept: int) -> int:
        """Return how many bytes a position takes."""
        return (kept + 1) * HALF + kept * (2 if vocabulary <= SMALL_VOCABULARY else 4)

    @property
    def bytes(self) -> int:
        """Return the size of the complete file."""
        return self._file.bytes

    def put(self, row: int, known: Tensor, ids: Tensor) -> None:
        """Write a row of `top_k_targets`. Raises ValueError if it is written, and OSError if the disk is full."""
        if self._written[row]:
            raise ValueError(f"row {row} is there already")
        known, ids = known.cpu().contiguous(), ids.cpu().to(self._ids).contiguous()
        # Ids first: if they take four bytes, they must begin at a multiple of four.
        self._file.write(row, b"".join(one.view(torch.uint8).numpy().tobytes() for one in (ids, known)))
        self._written[row] = 1

    def get(self, rows: Sequence[int], device: torch.device) -> TopKTargets:
        """Read some rows, concatenated. Raises ValueError if one was not written."""
        # float32 before torch.cat: under autocast on a CPU, torch cannot concatenate float16 tensors.
        found = [(known.float(), ids) for known, ids in map(self._read, rows)]
        known, ids = (torch.cat(column) for column in zip(*found, strict=True))
        return TopKTargets(known.to(device), ids.to(device), self.temperature)

    def _read(self, row: int) -> tuple[Tensor, Tensor]:
        if not self._written[row]:
            raise ValueError(f"nothing is known of row {row}")
        count = self._asked[row]
        raw = torch.frombuffer(self._file.read(row), dtype=torch.uint8)
        split = count * self.kept * self._ids.itemsize
        # Through 32 bits: torch has few operators for unsigned 16-bit numbers.
        ids = raw[:split].view(self._ids).to(torch.int32).long()
        return raw[split:].view(torch.float16).view(count, -1), ids.view(count, -1)

    def close(self) -> None:
        """Close and remove the file."""
        self._file.close()


@torch.no_grad()
def keeping(
    teachers: Sequence[tuple[PreTrainedModel, float]],
    rows: Packed,
    store: TopKTargetFile,
    *,
    batch: int,
    size: int,
    half: bool = False,
) -> Iterator[int]:
    """Store the targets of teachers, each with its weight, on every row, `size` tokens at a time; yield the number of rows of
    each batch. half: multiply in bfloat16.
    """
    device = next(teachers[0][0].parameters()).device
    heads = [hidden_states.output_layer(model) for model, _ in teachers]
    weights = torch.tensor([weight for _, weight in teachers], device=device)
    for sequences in rows.in_order(batch):
        here = sequences.to(device)
        with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
            states = [torch.split(hidden_states.scored_states(model, here), size) for model, _ in teachers]
            found = [
                losses.top_k_targets(fused_logits(heads, some, weights, store.temperature), store.temperature, store.kept)
                for some in zip(*states, strict=True)
            ]
        known, ids = (torch.cat(column) for column in zip(*found, strict=True))
        counts = here.asked.sum(dim=1).tolist()
        for row, *one in zip(sequences.rows.tolist(), torch.split(known, counts), torch.split(ids, counts), strict=True):
            store.put(row, *one)
        yield len(sequences.rows)
