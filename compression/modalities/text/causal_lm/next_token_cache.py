"""What is kept of a teacher's next tokens on disk: the likeliest of them in 16 bits, written once, read row by row."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression.modalities import losses
from compression.modalities.text.causal_lm import chunked_head, hidden_states
from compression.modalities.text.causal_lm.losses import TopKTargets
from compression.modalities.text.causal_lm.packing import Packed
from compression.system.row_file import RowFile

HALF = 2
"""Bytes of a number of 16 bits."""
SMALL_VOCABULARY = 1 << 16
"""Up to this many ids, two bytes hold one."""


class TopKTargetFile:
    """A teacher's `kept` likeliest next tokens of each place that is asked for, and the share of all others, softened at τ.

    With 64 kept, a place takes 258 bytes of a vocabulary of up to 65,536, and 386 of a larger one. The file goes with the
    store.
    """

    def __init__(self, path: Path, asked: Sequence[int], vocabulary: int, kept: int, temperature: float) -> None:
        """asked: of each row, 1 or more; kept: less than the vocabulary, or ValueError is raised."""
        if not 1 <= kept < vocabulary:
            raise ValueError(f"of {vocabulary} tokens, {kept} cannot be kept with others beside them")
        self.kept, self.temperature = kept, temperature
        self._asked = list(asked)
        self._ids = torch.uint16 if vocabulary <= SMALL_VOCABULARY else torch.int32
        self._written = bytearray(len(self._asked))
        self._file = RowFile(path, [count * self.of_each(vocabulary, kept) for count in self._asked])

    @staticmethod
    def of_each(vocabulary: int, kept: int) -> int:
        """Say how many bytes a place takes."""
        return (kept + 1) * HALF + kept * (2 if vocabulary <= SMALL_VOCABULARY else 4)

    @property
    def bytes(self) -> int:
        """Return the size of the file once all is written."""
        return self._file.bytes

    def put(self, row: int, known: Tensor, ids: Tensor) -> None:
        """Write a row. known: (asked, kept + 1), float16; ids: (asked, kept). Raises ValueError at the second time.

        Raises OSError where the disk is full.
        """
        if self._written[row]:
            raise ValueError(f"row {row} is there already")
        known, ids = known.cpu().contiguous(), ids.cpu().to(self._ids).contiguous()
        # Ids first: where they take four bytes, they must begin at a multiple of four.
        self._file.write(row, b"".join(one.view(torch.uint8).numpy().tobytes() for one in (ids, known)))
        self._written[row] = 1

    def get(self, rows: Sequence[int], device: torch.device) -> TopKTargets:
        """Read some rows, one after the other. Raises ValueError where one was not written."""
        # Wide before they are put together: under autocast, on a CPU, torch puts no float16 tensors together.
        found = [(known.float(), ids) for known, ids in map(self._read, rows)]
        known, ids = (torch.cat(column) for column in zip(*found, strict=True))
        return TopKTargets(known.to(device), ids.to(device), self.temperature)

    def _read(self, row: int) -> tuple[Tensor, Tensor]:
        if not self._written[row]:
            raise ValueError(f"nothing is known of row {row}")
        count = self._asked[row]
        raw = torch.frombuffer(self._file.read(row), dtype=torch.uint8)
        split = count * self.kept * self._ids.itemsize
        # By 32 bits: torch has few operators for unsigned numbers of 16.
        ids = raw[:split].view(self._ids).to(torch.int32).long()
        return raw[split:].view(torch.float16).view(count, -1), ids.view(count, -1)

    def close(self) -> None:
        """Close and remove the file."""
        self._file.close()


@torch.no_grad()
def keeping(model: PreTrainedModel, rows: Packed, store: TopKTargetFile, *, batch: int, size: int) -> Iterator[int]:
    """Ask a teacher of every row and keep what it says; yield how many rows each batch had.

    batch: rows together; size: tokens through the head together.
    """
    device = next(model.parameters()).device
    head = hidden_states.output_layer(model)
    for sequences in rows.in_order(batch):
        here = sequences.to(device)
        states = torch.split(hidden_states.scored_states(model, here), size)
        found = [losses.top_k_targets(chunked_head.widen(head(some)), store.temperature, store.kept) for some in states]
        known, ids = (torch.cat(column) for column in zip(*found, strict=True))
        counts = here.asked.sum(dim=1).tolist()
        for row, *one in zip(sequences.rows.tolist(), torch.split(known, counts), torch.split(ids, counts), strict=True):
            store.put(row, *one)
        yield len(sequences.rows)
