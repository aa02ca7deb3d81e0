"""Checkpoints in stock transformers, torchao's integers included, on the CPU."""

from pathlib import Path

import torch
import transformers
from torch import nn

from compression import heads
from compression.runtimes.runner import Batch, Logits, config_of


class TransformersRunner:
    """A stock model, opened as its user would."""

    def __init__(self, folder: Path, *, threads: int) -> None:
        torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        head = heads.of_architecture(config_of(folder)["architectures"][0]) or heads.CLASSIFIER
        self.model: nn.Module = getattr(transformers, head.auto).from_pretrained(folder, local_files_only=True)
        self.model.eval()
        self.outputs = head.outputs
        self.types = getattr(self.model.config, "type_vocab_size", 0) > 1
        self.name = f"transformers {transformers.__version__}, torch {torch.__version__} CPU"

    def logits(self, batch: Batch) -> Logits:
        """Answer one batch; starts and ends, where the model has both, side by side."""
        given = {name: torch.from_numpy(value) for name, value in vars(batch).items()}
        if not self.types:
            del given["token_type_ids"]
        with torch.no_grad():  # in inference mode torchao's tensors cannot be indexed, as those of experts are
            out = self.model(**given)
        found = [out[name].float() for name in self.outputs]
        answer: Logits = (found[0] if len(found) == 1 else torch.stack(found, dim=-1)).numpy()
        return answer


def open_folder(folder: Path, *, threads: int) -> TransformersRunner:
    """Open the checkpoint in `folder`. Raises transformers' own errors where it cannot."""
    return TransformersRunner(folder, threads=threads)
