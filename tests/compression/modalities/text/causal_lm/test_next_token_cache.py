"""What is kept of a teacher on disk says what the teacher says."""

from pathlib import Path

import pytest
import torch

from compression.modalities import losses
from compression.modalities.text.causal_lm import hidden_states
from compression.modalities.text.causal_lm.losses import FullTargets, next_token_terms
from compression.modalities.text.causal_lm.next_token_cache import TopKTargetFile, keeping
from compression.modalities.text.causal_lm.packing import Packed
from tests.support.tiny_language import VOCABULARY, documents, model

HERE = torch.device("cpu")


def test_a_student_learns_of_the_file_what_it_learns_of_the_teacher(tmp_path: Path) -> None:
    rows, teacher, student = Packed(documents(), 24), model(initializer_range=0.1), model()
    store = TopKTargetFile(tmp_path / "spill" / "kept", rows.asked, VOCABULARY, VOCABULARY - 1, 2.0)
    assert sum(keeping([(teacher, 1.0)], rows, store, batch=2, size=7)) == len(rows)
    size = sum(rows.asked) * TopKTargetFile.of_each(VOCABULARY, VOCABULARY - 1)
    assert store.bytes == (tmp_path / "spill" / "kept").stat().st_size == size
    for batch in rows.shuffled(2, seed=1):  # in another order than was written
        with torch.no_grad():
            theirs = hidden_states.scored_states(teacher, batch)
        states, head = hidden_states.scored_states(student, batch), hidden_states.output_layer(student)
        both = (store.get(batch.rows.tolist(), HERE), FullTargets((theirs,), (hidden_states.output_layer(teacher),), 2.0))
        kept, whole = (next_token_terms(states, head, batch.wanted, each, ("soft",), size=5)["soft"] for each in both)
        assert kept.item() == pytest.approx(whole.item(), rel=5e-3)
        assert whole.item() > 0.1
    store.close()
    assert not list((tmp_path / "spill").iterdir())


def test_what_is_kept_in_bfloat16_is_nearly_what_float32_says(tmp_path: Path) -> None:
    rows, teacher = Packed(documents(), 24), model(initializer_range=0.1)
    kept = []
    for half in (False, True):
        store = TopKTargetFile(tmp_path / f"kept-{half}", rows.asked, VOCABULARY, VOCABULARY - 1, 1.0)
        assert sum(keeping([(teacher, 1.0)], rows, store, batch=2, size=7, half=half)) == len(rows)
        found = store.get([0], HERE)
        kept.append(torch.zeros(len(found.ids), VOCABULARY).scatter(1, found.ids, found.known[:, :-1].exp()))
        store.close()
    assert 0 < (kept[0] - kept[1]).abs().max() < 0.1 * kept[0].max()


@pytest.mark.parametrize(("vocabulary", "each"), [(60_000, 2), (130_000, 4)])
def test_rows_are_read_as_they_were_written_in_as_few_bytes_as_ids_need(tmp_path: Path, vocabulary: int, each: int) -> None:
    asked, kept = [3, 1, 2], 8
    store = TopKTargetFile(tmp_path / "kept", asked, vocabulary, kept, 3.0)
    torch.manual_seed(0)
    logits = torch.randn(6, vocabulary)
    logits[:, vocabulary - 1] = 40.0  # the highest id is among the likeliest
    known, ids = losses.top_k_targets(logits, 3.0, kept)
    places = ([0, 1, 2], [3], [4, 5])
    for row in (2, 0, 1):
        store.put(row, known[places[row]], ids[places[row]])
    found = store.get([1, 0], HERE)
    assert torch.equal(found.known, known[[3, 0, 1, 2]])
    assert torch.equal(found.ids, ids[[3, 0, 1, 2]])
    assert (found.ids[:, 0] == vocabulary - 1).all()
    assert (tmp_path / "kept").stat().st_size == 6 * ((kept + 1) * 2 + kept * each)
    with pytest.raises(ValueError, match="there already"):
        store.put(1, known[[3]], ids[[3]])
    store.close()


def test_a_row_of_another_size_or_one_that_nobody_wrote_is_refused(tmp_path: Path) -> None:
    store = TopKTargetFile(tmp_path / "kept", [3, 1], 100, 8, 3.0)
    known, ids = losses.top_k_targets(torch.randn(2, 100), 3.0, 8)
    with pytest.raises(ValueError, match="bytes, not"):
        store.put(0, known, ids)
    with pytest.raises(ValueError, match="nothing is known of row 0"):
        store.get([0], HERE)
    with pytest.raises(ValueError, match="cannot be kept"):
        TopKTargetFile(tmp_path / "more", [1], 8, 8, 3.0)
    store.close()


def test_shares_add_up_to_one_though_they_were_rounded() -> None:
    known, _ = losses.top_k_targets(3 * torch.randn(40, 5000), 3.0, 64)
    assert known.dtype == torch.float16
    torch.testing.assert_close(known.float().exp().sum(dim=-1), torch.ones(40), atol=5e-3, rtol=0)
