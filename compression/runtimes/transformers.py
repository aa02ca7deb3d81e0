"""Checkpoints in stock transformers, torchao's integers included, on the CPU."""

from pathlib import Path

import torch
import transformers
from torch import nn

from compression.runtimes.runner import Batch, Logits


class TransformersRunner:
    """A stock model, opened as its user would."""

    def __init__(self, folder: Path, *, threads: int) -> None:
        torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        self.model: nn.Module = transformers.AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
        self.model.eval()
        self.types = getattr(self.model.config, "type_vocab_size", 0) > 1
        self.name = f"transformers {transformers.__version__}, torch {torch.__version__} CPU"

    def logits(self, batch: Batch) -> Logits:
        """Answer one batch: (batch, labels)."""
        given = {name: torch.from_numpy(value) for name, value in vars(batch).items()}
        if not self.types:
            del given["token_type_ids"]
        with torch.inference_mode():
            out = self.model(**given)
        answer: Logits = out.logits.float().numpy()
        return answer


def open_folder(folder: Path, *, threads: int) -> TransformersRunner:
    """Open the checkpoint in `folder`. Raises transformers' own errors where it cannot."""
    return TransformersRunner(folder, threads=threads)
