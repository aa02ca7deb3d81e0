"""Jobs that make classifiers of Qwen2 and of DeepSeek-V2, with their scores: a cut that is taught, and stock tools' answers."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from compression.schema.report.measurements import NotMeasured
from tests.compression.engine.test_decoder_job import opened, run, send
from tests.support.decoder_models import END
from tests.support.tiny_bert import BAD, FILLER, GOOD


def byte_pairs(folder: Path) -> None:
    """Write the kind of tokenizer that stock transformers has for Qwen2, with a token for each word."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=390, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    words = [*GOOD, *BAD, *FILLER]
    tokenizer.train_from_iterator([text for word in words for text in (word, f" {word}")] * 3, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END).save_pretrained(folder)


@pytest.mark.parametrize(
    ("kind", "axes"), [("qwen2", {"heads": 0.5, "ffn": 0.5}), ("deepseek_v2", {"expert_ffn": 0.5, "kv_rank": 0.5})]
)
def test_a_cut_classifier_is_taught_to_score_again(kind: str, axes: dict[str, float], tmp_path: Path, reviews: Path) -> None:
    # One layer of experts, since tracing takes longer than all the rest; rows that no token has, as Qwen's tables have them.
    one = {"n_group": 1, "topk_group": 1, "num_hidden_layers": 1, "first_k_dense_replace": 0}
    send(tmp_path / "model", kind, **(one if kind == "deepseek_v2" else {"vocab_size": 400}))
    if kind == "qwen2":
        byte_pairs(tmp_path / "model")
    prune = {"ratio": axes, "axes": list(axes), "multiple": 8, "calibration_rows": 64}
    report = run(tmp_path, reviews, prune=prune, distill={"epochs": 3, "rate": 1e-2, "hidden": 0.5})
    for row in report.rows:
        assert not isinstance(row.score, NotMeasured), row.score.not_measured
        assert row.stage == "pruned" or row.score.value > 0.9, row.stage
        assert row.score.rows_changed_by_batching == 0
    assert report.rows[-1].parameters.total < report.rows[0].parameters.total
    assert report.rows[-1].size.bytes < 0.6 * report.rows[0].size.bytes
    (shipped,) = [one for one in report.artifacts if one.kind == "transformers"]
    assert opened(tmp_path / "out" / "artifacts" / shipped.name) == ["positive", "negative"]
