"""Text classification: a sentence goes in, one of the data's labels comes out."""

from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig

METRIC = "accuracy"


def name_labels(config: PretrainedConfig, labels: tuple[str, ...]) -> None:
    """Write the labels into a stock config, so that whoever opens the model reads names and not numbers."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    config.problem_type = "single_label_classification"


def head_labels(config: PretrainedConfig) -> tuple[str, ...]:
    """Read the labels of a model's head in the order of its outputs."""
    return tuple(config.id2label[number] for number in sorted(config.id2label))


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy. logits: (rows, labels), labels: (rows,) of ids -> scalar."""
    return functional.cross_entropy(logits, labels)


def score(logits: Tensor, labels: Tensor) -> float:
    """Accuracy: share of rows whose largest logit is the right one. logits: (rows, labels), labels: (rows,)."""
    return (logits.argmax(dim=-1) == labels).float().mean().item()


def initialise_head(head: nn.Linear, deviation: float) -> None:
    """Draw a new head as BERT's authors do: normal weights, no bias."""
    nn.init.normal_(head.weight, std=deviation)
    nn.init.zeros_(head.bias)
