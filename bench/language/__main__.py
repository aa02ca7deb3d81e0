"""`python -m bench language`: one job on a language model against a plain script, the same tokens, rows of test and shape.

The job is the engine's own, as a worker runs it, in a folder that it goes on from: quantize, prune, distil, ship. The plain
script (bench/language/minitron.py) then cuts the same model to the shape that the job came to and trains as many tokens as the
job's distillation did, with weights and logits in float32 and its layers' products in bfloat16, as is usual; it has no
integers. It ends with its last step where the job keeps its best epoch, so compare at one epoch where that matters. Both are
scored on the same windows of test. The job's own figures are those of its report, so of the file that is shipped; its loss
without integers is that of the float32 checkpoint that the job keeps of its last stage, opened by stock transformers.

With --recipe article the job is the account's, every part of it on, cut by the account's share of the parameters; no script is
trained beside it. Its rows stay in bench/language/records, and a job that has a record is not run again.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from bench import engine, record_file
from bench.account.job import digest_of
from bench.language import article, minitron, shaped, wikitext
from bench.language.windows import document_losses
from compression.evaluation.runtimes.runner import open_artifact
from compression.modalities.text.causal_lm import documents
from compression.modalities.text.decoding import Decoder
from compression.modalities.text.inputs import batch_of, tokenizer_of
from compression.modalities.text.scoring.perplexity import (
    LanguageScorer,
    WindowLosses,
    added_loss,
    figures,
    score_window,
    summed,
)
from compression.models import sanitized_folder
from compression.schema.job_spec import Data
from compression.schema.recipe.presets import preset
from compression.schema.recipe.recipe import Evaluate, Prepare, Recipe
from compression.schema.report.measurements import Latency, NotMeasured, Row, Score
from compression.system import durable_files

ROOT = Path(__file__).parent.parent.parent


def main(arguments: list[str] | None = None) -> None:
    """Run the job if it is missing, then print."""
    parser = argparse.ArgumentParser(prog="python -m bench language", description=__doc__)
    parser.add_argument(
        "--model", type=Path, default=ROOT / ".cache/examples/decoder", help="a Llama: folder, or one of a GGUF"
    )
    parser.add_argument("--recipe", default="language", choices=["language", "article"])
    parser.add_argument("--articles", type=int, help="of each split, the shortest, at least 2; by default all")
    parser.add_argument(
        "--shaped",
        choices=list(shaped.SHAPES),
        help="in place of --model: a small random model of that shape, which the job trains",
    )
    parser.add_argument("--text", type=Path, required=True, help="WikiText's validation file")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache/bench-language", help="where runs are kept")
    parser.add_argument("--epochs", type=int, help="of distillation; by default the recipe's")
    parser.add_argument("--scheme", help="of quantization; by default the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="of training; all cores by default")
    asked = parser.parse_args(arguments)
    folder, model = asked.folder.resolve(), asked.model.resolve()
    # Runs are found again by what they are of: another text or seed is another folder.
    few = f"-{asked.articles}" if asked.articles else ""
    place = folder / f"data-{hashlib.sha256(asked.text.read_bytes()).hexdigest()[:12]}{few}"
    counts = wikitext.write(asked.text, place, asked.articles)
    if asked.recipe == "article":
        if asked.shaped or asked.epochs or asked.scheme:
            parser.error("--recipe article takes no --shaped, --epochs or --scheme: all of it is the account's")
        by_article(asked, place, counts)
        return
    recipe = recipe_of(asked.epochs, asked.scheme, asked.seed)
    if asked.shaped:
        model = folder / f"{asked.shaped}-{asked.seed}"
        if not model.exists():
            with durable_files.folder(model) as unfinished:
                shaped.write(asked.shaped, _texts(place / "train.jsonl"), unfinished, asked.seed)
        recipe = shaped.recipe(asked.shaped, recipe)
    spec = _spec_of(model, place, recipe, asked.threads)
    name = f"{asked.shaped or 'job'}-{recipe.quantize.scheme if recipe.quantize else 'float'}-{asked.seed}"
    run = engine.run(folder / name, spec)
    print(f"articles: {counts}; job: {run.seconds / 60:.1f} min")
    print("\n".join(_rows(run.report.rows)), flush=True)
    torch.set_num_threads(asked.threads or torch.get_num_threads())
    if asked.shaped:
        lines = reopened(run, place)
    else:
        lines = compared(run, sanitized_folder.sanitized_folder(model, run.folder / "stock"), place, asked.seed)
    print("\n".join(lines), flush=True)


def by_article(asked: argparse.Namespace, place: Path, counts: dict[str, int]) -> None:
    """Run the account's own recipe if it has no record, and print its rows."""
    model = asked.model.resolve()
    about = {"model": model.name, "model_digest": digest_of(model), "data": place.name, "articles": counts, "seed": asked.seed}
    name = f"{model.name}-{asked.articles or 'all'}-article-{asked.seed}"
    if (kept := record_file.read(article.path_of(name))) is None:
        spec = _spec_of(model, place, article.recipe_of(asked.seed), asked.threads)
        article.keep(name, about, engine.run(asked.folder.resolve() / name, spec, keep=set()))
        kept = record_file.read(article.path_of(name))
    assert kept is not None, "it was just written"
    if any(kept[key] != found for key, found in about.items()):
        raise SystemExit(f"{article.path_of(name)} is of another model or text; remove it to run this one")
    print(f"articles: {counts}; job: {kept['seconds'] / 60:.1f} min")
    print("\n".join(_rows(TypeAdapter(list[Row]).validate_python(kept["rows"]))), flush=True)


def _spec_of(model: Path, place: Path, recipe: Recipe, threads: int | None) -> dict[str, Any]:
    """Return what the engine is asked for."""
    splits = {name: (str(place / f"{name}.jsonl"),) for name in ("train", "validation", "test")}
    data = Data(format="jsonl", splits=splits)
    evaluate = Evaluate(tokens=10**9)
    return {"task": "causal-lm", "model": str(model), "data": data, "recipe": recipe, "evaluate": evaluate, "threads": threads}


def recipe_of(epochs: int | None, scheme: str | None, seed: int) -> Recipe:
    """Return the preset for language models, without tuning the original first: the plain script does not either."""
    recipe = preset("language", "causal-lm")
    assert recipe.distill is not None
    assert recipe.quantize is not None
    distill = recipe.distill.model_copy(update={"epochs": epochs or recipe.distill.epochs})
    quantize = type(recipe.quantize).model_validate({**recipe.quantize.model_dump(), **({"scheme": scheme} if scheme else {})})
    train = recipe.train.model_copy(update={"seed": seed})
    return recipe.model_copy(update={"prepare": Prepare(epochs=0), "distill": distill, "quantize": quantize, "train": train})


def _rows(rows: Sequence[Row]) -> list[str]:
    head = ["row", "parameters", "bytes", "of the file sent", "decode", "prefill", "loss, nats a token", "perplexity"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + [_row(row) for row in rows]


def _row(row: Row) -> str:
    if not isinstance(row.score, Score):
        raise SystemExit(f"{row.stage}: {row.score.not_measured}")
    faster = [row.latency.not_measured] * 2 if isinstance(row.latency, NotMeasured) else _speeds(row.latency)
    loss, error = row.score.metrics["loss"], row.score.standard_errors["loss"]
    cells = [
        row.stage,
        f"{row.parameters.total / 1e6:.2f} M ({-row.ratios.parameter_reduction:+.1%})",
        f"{row.size.bytes / 1e6:.1f} MB ({-row.ratios.size_reduction:+.1%})",
        "–" if row.ratios.size_reduction_from_file is None else f"{-row.ratios.size_reduction_from_file:+.1%}",
        *faster,
        f"{loss:.4f} ± {error:.4f}",
        f"{row.score.value:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _speeds(latency: Latency) -> list[str]:
    told = latency.generation
    assert told is not None
    decode, prefill = told.decode_per_second, told.prefill_per_second
    return [
        f"{decode:.1f} tokens/s ({decode / told.baseline_decode_per_second:.2f}×)",
        f"{prefill:.0f} tokens/s ({prefill / told.baseline_prefill_per_second:.2f}×)",
    ]


def reopened(run: engine.Run, data: Path) -> list[str]:
    """Return each checkpoint's loss on test, by stock transformers."""
    lines = []
    for one in run.report.artifacts:
        if one.kind == "transformers":
            found = _told(run.artifact(one.name), run.artifact(one.name), data, run.report.recipe.train.max_length)
            lines.append(f"{one.name}, by stock transformers: {_figure(found)}")
    return lines


def _told(place: Path | PreTrainedModel, tokenizer: Path, data: Path, length: int) -> WindowLosses:
    """Score the texts of test by a model, or by the checkpoint in a folder, in float32."""
    texts = documents.read(_texts(data / "test.jsonl"), AutoTokenizer.from_pretrained(tokenizer))
    if isinstance(place, Path):
        place = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
    return document_losses(place, texts, length=length, stride=length // 2)


def as_shipped(artifact: Path, data: Path, length: int) -> WindowLosses:
    """Score the texts of test by an ONNX artifact, in the windows of `_told`."""
    runner = open_artifact("onnx", artifact, threads=torch.get_num_threads())
    assert isinstance(runner, Decoder)
    scorer = LanguageScorer(length, length // 2)
    windows = scorer.windows(tokenizer_of(artifact), [{"text": text} for text in _texts(data / "test.jsonl")])
    return summed(windows, [score_window(one, runner.logits(batch_of([one.ids]))[0]) for one in windows])


def compared(run: engine.Run, stock: Path, data: Path, seed: int) -> list[str]:
    """Train the plain script's model to the job's shape with as many tokens; return both losses on test."""
    report, recipe = run.report, run.report.recipe
    tokenizer = AutoTokenizer.from_pretrained(stock)
    length = recipe.train.max_length

    def loss_of(model: Path | PreTrainedModel) -> WindowLosses:
        return _told(model, stock, data, length)

    distill, tokens = recipe.distill, report.splits["train"].tokens
    assert distill is not None
    assert tokens is not None
    rows = minitron.rows_of(tokenizer(_texts(data / "train.jsonl"))["input_ids"], tokenizer.eos_token_id, length)
    steps = round(distill.epochs * tokens / (recipe.train.batch * length))
    started = time.monotonic()
    teacher = AutoModelForCausalLM.from_pretrained(stock, dtype=torch.float32).eval()
    shape = report.rows[-1].shape
    assert shape.groups is not None
    assert recipe.prune is not None
    calibration = rows[
        torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[: recipe.prune.calibration_rows]
    ]
    scores = minitron.importance(teacher, calibration)
    student = minitron.cut(teacher, scores, minitron.Widths(hidden=shape.hidden, groups=shape.groups, ffn=shape.ffn))
    cut = loss_of(student)
    for step, loss in minitron.distil(student, teacher, rows, steps=steps, batch=recipe.train.batch, seed=seed):
        if step % 25 == 0 or step == steps - 1:
            print(f"plain: step {step} of {steps}, KL {loss:.3f}, {time.monotonic() - started:.0f} s", flush=True)
    theirs = loss_of(student)
    ours = loss_of(run.kept(report.rows[-1].stage))
    whole = loss_of(teacher)
    shipped = as_shipped(run.artifact(report.rows[-1].artifact), data, length)
    return [
        f"original, stock float32: {_figure(whole)}",
        f"plain script: cut {_figure(cut)}; after {steps * recipe.train.batch * length:,} tokens {_figure(theirs)} "
        f"({(time.monotonic() - started) / 60:.1f} min)",
        f"job: {distill.epochs * tokens:,} tokens; without integers {_figure(ours)}; as shipped {_figure(shipped)}",
        f"job without integers against the plain script: {_difference(theirs, ours)} nats a token",
        f"integers add {_difference(ours, shipped)} nats a token",
    ]


def _texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]


def _figure(told: WindowLosses) -> str:
    loss = figures(told).loss
    return f"{loss.value:.4f} ± {loss.standard_error or 0:.4f}"


def _difference(before: WindowLosses, after: WindowLosses) -> str:
    added = added_loss(before, after)
    return f"{added.value:+.4f} ± {added.standard_error or 0:.4f}"


if __name__ == "__main__":
    main()
