"""A plain fine-tuning loop of stock parts, without a line of the engine: what a careful user would write.

Each run trains one set at one rate with one seed for so many epochs, AdamW with 10 % warm-up and linear decay, and scores
validation after each epoch. Test is answered once, by the epoch that is best on validation.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from bench.preparation.datasets import Prepared, Rows
from bench.preparation.records import Run, keep, kept
from compression.quantization.precision import has_bfloat16

RATES = (3e-5, 8e-5, 2e-4, 5e-4)
BATCH, LENGTH, WARMUP, DECAY, CLIP = 32, 128, 0.1, 0.01, 1.0
Answers = npt.NDArray[np.float64]


def run(prepared: Prepared, model: Path, place: Path, rate: float, seed: int, epochs: int) -> Run:
    """Train one cell, or read it if `place` has it already."""
    path = place / f"{prepared.name}-{rate:g}-{seed}.json"
    if (found := kept(path, prepared.digest)) is not None:
        return found
    found = _train(prepared, model, rate, seed, epochs)
    keep(found, path)
    return found


def labels_of(prepared: Prepared) -> tuple[str, ...]:
    """Return the labels of train in sorted order; none of numbers."""
    return () if prepared.task == "text-regression" else tuple(sorted({str(row["label"]) for row in prepared.rows("train")}))


def wanted_of(prepared: Prepared, rows: Rows) -> Answers:
    """Return the right answers: ids of labels in sorted order, or numbers."""
    if prepared.task == "text-regression":
        return np.array([float(row["label"]) for row in rows])
    labels = labels_of(prepared)
    return np.array([labels.index(str(row["label"])) for row in rows], np.float64)


def score(prepared: Prepared, answers: Answers, wanted: Answers) -> float:
    """Score answers by the set's metric: accuracy, the mean of accuracy and F1, or that of two correlations."""
    if prepared.task == "text-regression":
        if np.std(answers) == 0:
            return 0.0
        return float((pearsonr(answers, wanted)[0] + spearmanr(answers, wanted)[0]) / 2)
    right = float(np.mean(answers == wanted))
    return (right + float(f1_score(wanted, answers, pos_label=1))) / 2 if prepared.evaluate.metric == "accuracy_f1" else right


def _train(prepared: Prepared, folder: Path, rate: float, seed: int, epochs: int) -> Run:
    started = time.monotonic()
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = {split: prepared.rows(split) for split in ("train", "validation", "test")}
    wanted = {split: wanted_of(prepared, found) for split, found in rows.items()}
    outputs = 1 if prepared.task == "text-regression" else int(wanted["train"].max()) + 1
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=outputs)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
    steps = epochs * -(-len(rows["train"]) // BATCH)
    warm = max(1, round(WARMUP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (step + 1) / warm if step < warm else max(steps - step, 0) / max(1, steps - warm)
    )
    texts, half = _texts(rows["train"]), has_bfloat16(torch.device("cpu"))
    draw = np.random.default_rng(seed)
    curve: list[float] = []
    best: tuple[Answers, dict[str, torch.Tensor]] | None = None
    for _ in range(epochs):
        model.train()
        for batch in _batches(texts, draw):
            inputs = _inputs(tokenizer, [texts[number] for number in batch])
            target = torch.tensor(wanted["train"][batch])
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = model(**inputs).logits
            if outputs == 1:
                loss = functional.mse_loss(logits.float()[:, 0], target.float())
            else:
                loss = functional.cross_entropy(logits.float(), target.long())
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        answers = _answers(model, tokenizer, rows["validation"])
        curve.append(score(prepared, answers, wanted["validation"]))
        if best is None or curve[-1] > max(curve[:-1], default=-np.inf):
            best = answers, {name: value.clone() for name, value in model.state_dict().items()}
    assert best is not None, "there is an epoch"
    model.load_state_dict(best[1])
    test = _answers(model, tokenizer, rows["test"])
    number = int(np.argmax(curve)) + 1
    return Run(
        name=prepared.name,
        digest=prepared.digest,
        rate=rate,
        seed=seed,
        epochs=epochs,
        curve=tuple(round(value, 6) for value in curve),
        best_epoch=number,
        validation=tuple(best[0].tolist()),
        test=tuple(test.tolist()),
        seconds=round(time.monotonic() - started, 1),
        labels=labels_of(prepared),
    )


def _texts(rows: Rows) -> list[tuple[str, ...]]:
    return [tuple(row[key] for key in ("text", "text_pair") if key in row) for row in rows]


def _inputs(tokenizer: PreTrainedTokenizerBase, texts: list[tuple[str, ...]]) -> Any:
    return tokenizer(
        *map(list, zip(*texts, strict=True)), truncation=True, max_length=LENGTH, padding=True, return_tensors="pt"
    )


def _batches(texts: list[tuple[str, ...]], draw: np.random.Generator) -> list[npt.NDArray[np.int64]]:
    """Draw batches of rows of like length, in random order."""
    order = draw.permutation(len(texts))
    found = []
    for start in range(0, len(order), BATCH * 50):
        pool = sorted(order[start : start + BATCH * 50], key=lambda number: sum(map(len, texts[number])))
        found += [np.array(pool[at : at + BATCH]) for at in range(0, len(pool), BATCH)]
    return [found[number] for number in draw.permutation(len(found))]


@torch.inference_mode()
def _answers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Rows) -> Answers:
    model.eval()
    texts = _texts(rows)
    order = sorted(range(len(texts)), key=lambda number: sum(map(len, texts[number])))
    out = np.zeros(len(texts))
    for start in range(0, len(order), 64):
        numbers = order[start : start + 64]
        logits = model(**_inputs(tokenizer, [texts[number] for number in numbers])).logits
        out[numbers] = logits[:, 0].numpy() if logits.shape[1] == 1 else logits.argmax(dim=1).numpy()
    return out
