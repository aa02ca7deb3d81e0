"""Which stock class answers which task, and what its outputs are called. Torch-free."""

from dataclasses import dataclass

from compression.schema.recipe.base import Task


@dataclass(frozen=True)
class Head:
    """suffix: of the stock class's name; auto: the class of transformers that opens it; outputs: of model and ONNX file."""

    suffix: str
    auto: str
    outputs: tuple[str, ...] = ("logits",)


FEWEST_TOKENS = 32
"""With fewer a window has no room for a question and its context."""
CLASSIFIER = Head("ForSequenceClassification", "AutoModelForSequenceClassification")
TAGGER = Head("ForTokenClassification", "AutoModelForTokenClassification")
READER = Head("ForQuestionAnswering", "AutoModelForQuestionAnswering", ("start_logits", "end_logits"))
LANGUAGE = Head("ForCausalLM", "AutoModelForCausalLM")
GPT2_LANGUAGE = "LMHeadModel"
"""How GPT-2's language model is called."""
HEADS = (CLASSIFIER, TAGGER, READER)
"""Those that encoders may have."""


def of_task(task: Task) -> Head:
    """Find the head that a task needs."""
    return {"token-classification": TAGGER, "question-answering": READER, "causal-lm": LANGUAGE}.get(task, CLASSIFIER)


def of_architecture(name: str) -> Head | None:
    """Find the head of a stock class by its name; None for a bare model and for an encoder's heads of pre-training."""
    if name.endswith(GPT2_LANGUAGE):
        return LANGUAGE
    return next((head for head in (*HEADS, LANGUAGE) if name.endswith(head.suffix)), None)


def outputs(task: Task, labels: int) -> int:
    """Count the outputs of a task's head. labels: of the data; numbers have one output, questions a start and an end.

    0 of a language model, whose outputs are its vocabulary.
    """
    return {"text-regression": 1, "question-answering": 2}.get(task, labels)
