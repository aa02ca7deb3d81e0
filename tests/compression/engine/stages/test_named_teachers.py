"""Named teachers are asked in their own way: of the rows as their own preprocessor reads and pads them."""

from pathlib import Path

import pytest
import torch

from compression.engine.dataset_run import DatasetRun
from compression.engine.stages.teacher_ensemble import ensemble_outputs, rows_of
from compression.evaluation.validate import logits
from compression.schema.recipe.distill import Distill, Teachers
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from compression.system.progress import run_silently
from tests.compression.engine.test_decoder_job import WORDS, send
from tests.support.decoder_models import UNKNOWN, tiny, write_tokenizer
from tests.support.engine_jobs import spec_of


@pytest.mark.parametrize("padding", [{}, {"pad_token": UNKNOWN}], ids=["the student's", "another"])
def test_a_decoder_answers_from_the_last_token_of_each_row_whatever_pads_it(
    padding: dict[str, str], tmp_path: Path, reviews: Path
) -> None:
    send(tmp_path / "model", "llama")
    labels = {"id2label": {0: "negative", 1: "positive"}, "num_labels": 2}
    own = {"vocab_size": len(WORDS), "initializer_range": 0.1, "eos_token_id": 0, **labels}
    tiny("llama", "ForSequenceClassification", **own).save_pretrained(tmp_path / "teacher")
    write_tokenizer(tmp_path / "teacher", WORDS, **padding)
    settings = Distill(teachers=Teachers(seeds=0), hidden=0.0)
    train = Train(batch=16, max_length=16)
    recipe = Recipe(prepare=Prepare(epochs=0), quantize=None, prune=None, distill=settings, train=train)
    spec = spec_of("model", reviews, recipe=recipe, teachers=["teacher"])
    state = DatasetRun.open(spec, tmp_path, spec.asked[0]).state
    state.teacher, (teacher,) = state.model, state.models.teachers
    assert teacher.aligned, "the tokens are the same"
    rows = state.rows["train"]
    outputs = run_silently(ensemble_outputs(state, settings, rows, ()))
    assert len(set(rows.lengths)) > 1
    with torch.no_grad():
        alone = torch.cat([outputs.guide(input_ids=torch.tensor([tokens])).logits for tokens in rows.tokens])
    assert torch.allclose(logits(outputs.guide.eval(), outputs.rows), alone, atol=1e-5)
    assert (rows_of(state, teacher, rows, ())[0] is rows) == (not padding), "what reads alike is read once"
