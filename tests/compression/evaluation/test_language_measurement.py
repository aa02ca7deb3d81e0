"""Windows whose logits are larger than what they may take are asked in pieces, one behind the other, with the same answers."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from compression.evaluation import measure
from compression.evaluation.runtimes.runner import open_artifact
from compression.export.onnx import decoder
from compression.modalities.scoring.base import Floats as Logits
from compression.modalities.scoring.row_sample import ScoringLimit, sampling_order
from compression.modalities.text.inputs import Batch, Ids
from compression.modalities.text.scoring import perplexity
from compression.modalities.text.scoring.perplexity import LanguageScorer
from tests.support.shipments import Wrapped
from tests.support.tiny_language import TEXTS, VOCABULARY, model, tokenizer

ROOM = 20
"""Places whose logits are allowed."""


class Watched(Wrapped):
    """A decoder, and the most places that it answered at once."""

    most = 0

    def step(self, ids: Ids, cache: Any = None, mask: Ids | None = None) -> tuple[Logits, Any]:
        found, cache = super().step(ids, cache, mask)
        self.most = max(self.most, found.shape[0] * found.shape[1])
        return found, cache

    def logits(self, batch: Batch) -> Logits:
        return self.step(batch.input_ids, None, batch.attention_mask)[0]


def opened(kind: str, network: PreTrainedModel, folder: Path) -> Watched:
    tokenizer(bos=True).save_pretrained(folder)
    network.save_pretrained(folder)
    if kind == "onnx":
        decoder.write(network, folder)
    return Watched(open_artifact(kind, folder, threads=1))


@pytest.mark.parametrize(("kind", "family"), [("onnx", "llama"), ("transformers", "mistral")])
def test_pieces_score_the_same_within_limits(kind: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, scorer = opened(kind, model(family), tmp_path), LanguageScorer(48, 24)
    rows = tmp_path / "test.jsonl"
    rows.write_text("".join(json.dumps({"text": text * times}) + "\n" for times in (1, 3) for text in TEXTS))
    given, reader = measure.read_rows(rows), scorer.reader(tmp_path)
    whole = scorer.open_split(runner, reader, given).answer(lambda _: None).score
    assert runner.most > 8 * ROOM  # all windows together
    runner.most = 0
    monkeypatch.setattr(perplexity, "LOGITS_BYTES", 4 * VOCABULARY * ROOM)
    found = scorer.open_split(runner, reader, given).answer(lambda _: None).score
    assert 0 < runner.most <= ROOM
    assert found.metrics == pytest.approx(whole.metrics, rel=1e-5)
    assert found.standard_errors == pytest.approx(whole.standard_errors, rel=1e-4)
    assert found.value_at_batch_32 == pytest.approx(whole.value_at_batch_32, rel=1e-5)
    assert (found.rows, found.chance, found.rows_changed_by_batching) == (whole.rows, whole.chance, 0)


def test_where_time_is_over_whole_texts_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, scorer = opened("onnx", model("llama"), tmp_path), LanguageScorer(48, 24)
    rows, reader = [{"text": text * times} for times in (1, 3) for text in TEXTS], scorer.reader(tmp_path)
    monkeypatch.setattr(perplexity, "FEWEST_WINDOWS", 5)
    told = list[int]()
    asked = scorer.open_split(runner, reader, rows, 3, ScoringLimit(seconds=0.0))
    found = asked.answer(told.append)
    score = found.score
    assert sum(told) == asked.windows
    assert 0 < score.rows < score.split_rows == scorer.open_split(runner, reader, rows).answer(lambda _: None).score.rows
    texts = sorted(sampling_order([None] * score.split_rows, 3)[: score.rows])
    assert sum(one.text in texts for one in scorer.windows(reader.tokenizer, rows)) >= 5
    alone = scorer.open_split(runner, reader, [rows[text] for text in texts], 3).answer(lambda _: None)
    assert (score.metrics, found.draws) == (alone.score.metrics, alone.draws)
    again = scorer.open_split(runner, reader, rows, 3, ScoringLimit(rows=score.rows)).answer(lambda _: None)
    assert again == found
