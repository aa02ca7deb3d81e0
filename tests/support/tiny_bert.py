"""A tiny BERT with a tokenizer of its own, and sentences whose label hangs on one word: real parts, made in seconds."""

import json
import random
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from torch.nn import functional
from transformers import BertConfig, BertModel, PreTrainedModel, PreTrainedTokenizerFast

from compression.distillation.objective import DistillationObjective, FeatureAlignment
from compression.distillation.teacher import Teacher
from compression.engine.context import StageContext
from compression.evaluation.validate import logits
from compression.modalities.registry import task_of
from compression.modalities.text.batches import TokenizedDataset
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.recipe import Recipe
from compression.system.progress import Phase, ProgressTracker
from tests.support.job_models import alone

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
GOOD, BAD = ["good", "fine", "great", "happy"], ["bad", "poor", "awful", "sad"]
FILLER = [f"word{i}" for i in range(30)]
WORDS = {word: number for number, word in enumerate([*SPECIAL, *GOOD, *BAD, *FILLER])}


def tiny_config(**changes: object) -> BertConfig:
    widths = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 64}
    tables = {"vocab_size": len(WORDS), "max_position_embeddings": 64}
    return BertConfig(**{"initializer_range": 0.1, **widths, **tables, **changes})


def write_tokenizer(folder: Path, words: Iterable[str] = WORDS, second: str = "$B:1 [SEP]:1") -> None:
    """Write a tokenizer of word pieces. second: how the second text of a pair stands behind the first."""
    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    ends = [(name, numbers[name]) for name in ("[CLS]", "[SEP]")]
    forms = {"single": "[CLS] $A [SEP]", "pair": f"[CLS] $A [SEP] {second}"}
    tokenizer.post_processor = TemplateProcessing(**forms, special_tokens=ends)
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "pad", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def write_encoder(folder: Path, **changes: object) -> Path:
    """Write a bare, random encoder with its tokenizer; return its folder."""
    torch.manual_seed(0)
    BertModel(tiny_config(**changes)).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label = draw.choice(["negative", "positive"])
        words = draw.choices(FILLER, k=draw.randint(2, 9))
        words.insert(draw.randrange(len(words)), draw.choice(GOOD if label == "positive" else BAD))
        rows.append((" ".join(words), label))
    return rows


def write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))


def encoded(rows: list[tuple[str, str]]) -> TokenizedDataset:
    tokens = [[WORDS["[CLS]"], *(WORDS[word] for word in text.split()), WORDS["[SEP]"]] for text, _ in rows]
    return TokenizedDataset(
        tokens, torch.tensor([int(label == "positive") for _, label in rows]), 0, task_of("text-classification")
    )


def all_phases() -> ProgressTracker:
    steps = ("", ", step 1 of 2", ", step 2 of 2")
    names = {
        "baseline": ("tune", "tune 2"),
        "quantized": ("quantization-aware training",),
        "pruned": ("cut", *(f"{name}{step}" for step in steps for name in ("ask the teacher", "recover"))),
        "distilled": ("ask of unlabelled text", "general", "ask the teacher", "distill"),
    }
    return ProgressTracker([Phase(stage, name, 1.0) for stage, phases in names.items() for name in phases])


def lesson_of(state: StageContext, settings: Distill, rows: TokenizedDataset) -> DistillationObjective:
    """Ask the state's teacher of the rows, and make of it what a student is held against."""
    apart = settings.embedding is not None
    comparison = FeatureAlignment.of(state.model, state.teacher, settings, settings.weights(), apart=apart)
    asked = Teacher(state.teacher, rows, comparison.teacher).asked()
    return DistillationObjective(state.model, asked, comparison, settings, rows)


def apart(state: StageContext) -> float:
    """Return by how much a state's model answers otherwise than its teacher on train: the divergence of their probabilities."""
    given, wanted = (logits(model, state.rows["train"]).log_softmax(-1) for model in (state.model, state.teacher))
    return functional.kl_div(given, wanted, log_target=True, reduction="batchmean").item()


def state_of(model: PreTrainedModel, recipe: Recipe) -> StageContext:
    rows = {"train": encoded(sentences(320, 1)), "validation": encoded(sentences(64, 3)), "test": encoded(sentences(64, 2))}
    return StageContext(recipe, rows, model, all_phases(), alone(model, rows))
