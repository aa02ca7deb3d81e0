"""Text classification: a sentence goes in, one of the data's labels comes out."""

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig

from compression import losses
from compression.recipe import Task as Name

if TYPE_CHECKING:
    from compression.batches import Batch, Encoded


class TextClassification:
    """One label a row. Labels: (rows,) of ids; logits: (rows, labels)."""

    name: Name = "text-classification"
    metric = "accuracy"

    def logits(self, output: Any) -> Tensor:
        """(rows, labels)."""
        found: Tensor = output.logits
        return found

    def loss(self, logits: Tensor, batch: "Batch") -> Tensor:
        """Cross-entropy."""
        return functional.cross_entropy(logits, batch.labels)

    def soft_loss(self, student: Tensor, teacher: Tensor, batch: "Batch", temperature: float) -> Tensor:  # noqa: ARG002
        """KL divergence of the softened distributions over the labels."""
        return losses.soft_targets(student, teacher, temperature)

    def score(self, logits: Tensor, rows: "Encoded") -> float:
        """Accuracy: share of rows whose largest logit is the right one."""
        return (logits.argmax(dim=-1) == rows.labels).float().mean().item()


def name_labels(config: PretrainedConfig, labels: tuple[str, ...]) -> None:
    """Write the labels into a stock config, so that whoever opens the model reads names and not numbers."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    config.problem_type = "single_label_classification"


def head_labels(config: PretrainedConfig) -> tuple[str, ...]:
    """Read the labels of a model's head in the order of its outputs."""
    return tuple(config.id2label[number] for number in sorted(config.id2label))


def initialise_head(head: nn.Linear, deviation: float) -> None:
    """Draw a new head as BERT's authors do: normal weights, no bias."""
    nn.init.normal_(head.weight, std=deviation)
    nn.init.zeros_(head.bias)
