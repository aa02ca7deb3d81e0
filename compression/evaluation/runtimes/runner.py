"""What every runtime offers once it has opened an artifact, and how texts become its inputs. Torch-free."""

import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

Kind = Literal["onnx", "transformers"]
Ids = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """One padded batch, each (batch, sequence)."""

    input_ids: Ids
    attention_mask: Ids
    token_type_ids: Ids


class Runner(Protocol):
    """An artifact opened by its own runtime."""

    name: str
    """Runtime, version and device, as the report names them."""

    def logits(self, batch: Batch) -> Logits:
        """Answer one batch: (batch, labels), (batch, tokens, labels), or (batch, tokens, 2) for starts and ends.

        Of a language model the labels are its vocabulary, and those of a token are what comes next.
        """
        ...


def open_artifact(kind: Kind, folder: Path, *, threads: int) -> Runner:
    """Open an artifact's folder in the stock runtime of its kind, with a fixed number of threads."""
    # By name and late, because the module of one kind may need what the other's process must not load.
    runner: Runner = importlib.import_module(f"compression.evaluation.runtimes.{kind}").open_folder(folder, threads=threads)
    return runner


def tokenizer_of(folder: Path) -> Tokenizer:
    """Open the artifact's tokenizer.json, which truncates to the artifact's own length, without padding."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    return tokenizer


def config_of(folder: Path) -> dict[str, Any]:
    """Read the artifact's config.json."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return config


def answered(
    runner: Runner,
    encodings: Sequence[Encoding],
    size: int,
    *,
    pad_id: int = 0,
    tell: Callable[[int], None] = lambda _: None,
) -> list[Logits]:
    """Answer every row, `size` of them at a time. -> (labels,) or (tokens, …) of each, what answers padding cut off.

    tell: called with how many rows a batch had that is answered.
    """
    found: list[Logits] = []
    for batch in batches(encodings, size, pad_id=pad_id):
        found.extend(runner.logits(batch))
        tell(len(batch.input_ids))
    return [row[: len(one.ids)] if row.ndim > 1 else row for row, one in zip(found, encodings, strict=True)]


def batches(encodings: Iterable[Encoding], size: int, *, pad_id: int = 0) -> Iterator[Batch]:
    """Pad every `size` rows to the longest among them, in order."""
    rows: list[Encoding] = []
    for encoding in encodings:
        rows.append(encoding)
        if len(rows) == size:
            yield _padded(rows, pad_id)
            rows = []
    if rows:
        yield _padded(rows, pad_id)


def _padded(rows: list[Encoding], pad_id: int) -> Batch:
    longest = max(len(row.ids) for row in rows)

    def table(parts: Iterable[list[int]], fill: int) -> Ids:
        return np.array([part + [fill] * (longest - len(part)) for part in parts], np.int64)

    return Batch(
        input_ids=table((row.ids for row in rows), pad_id),
        attention_mask=table((row.attention_mask for row in rows), 0),
        token_type_ids=table((row.type_ids for row in rows), 0),
    )


def batch_of(rows: Sequence[list[int]], pad_id: int = 0) -> Batch:
    """Lay rows of token ids side by side, padded to the right; all are one text's."""
    longest = max(map(len, rows))
    ids = np.full((len(rows), longest), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for line, row in enumerate(rows):
        ids[line, : len(row)], mask[line, : len(row)] = row, 1
    return Batch(input_ids=ids, attention_mask=mask, token_type_ids=np.zeros_like(ids))


def full_batch(batch: int, length: int, vocabulary: int, *, seed: int = 0) -> Batch:
    """Make a batch without padding, of tokens drawn from the whole vocabulary: what latency is measured on."""
    ids = np.random.default_rng(seed).integers(0, vocabulary, (batch, length), dtype=np.int64)
    return Batch(input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids))
