"""A tiny BERT with a tokenizer of its own, and sentences whose label hangs on one word: real parts, made in seconds."""

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from compression.distillation.objective import DistillationObjective, FeatureAlignment
from compression.distillation.teacher import Teacher
from compression.engine.context import StageContext
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
    settings = {
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.1,
    }
    return BertConfig(**{**settings, **changes})


def write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(WordPiece(WORDS, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    ends = [(name, WORDS[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)


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
    names = {
        "baseline": ("tune", "tune 2"),
        "quantized": ("quantization-aware training",),
        "pruned": (
            "cut",
            *(f"{name}{step}" for step in ("", ", step 1 of 2", ", step 2 of 2") for name in ("ask the teacher", "recover")),
        ),
        "distilled": ("ask of unlabelled text", "general", "ask the teacher", "distill"),
    }
    return ProgressTracker([Phase(stage, name, 1.0) for stage, phases in names.items() for name in phases])


def lesson_of(state: StageContext, settings: Distill, rows: TokenizedDataset) -> DistillationObjective:
    """Ask the state's teacher of the rows, and make of it what a student is held against."""
    assert state.teacher is not None
    comparison = FeatureAlignment.of(
        state.model, state.teacher, settings, settings.weights(), apart=settings.embedding is not None
    )
    return DistillationObjective(
        state.model, Teacher(state.teacher, rows, comparison.teacher).asked(), comparison, settings, rows
    )


def state_of(model: BertForSequenceClassification, recipe: Recipe) -> StageContext:
    rows = {"train": encoded(sentences(320, 1)), "validation": encoded(sentences(64, 3)), "test": encoded(sentences(64, 2))}
    return StageContext(recipe, rows, model, all_phases(), alone(model, rows))
