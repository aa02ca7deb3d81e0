"""A card whose memory does not suffice: training tries its longest rows, and goes on in smaller micro-batches."""

from dataclasses import replace

import pytest
import torch
from transformers import BertForSequenceClassification

from compression.modalities.base import label_loss
from compression.system.progress import Returning
from compression.training import trainer
from compression.training.config import TrainingConfig
from tests.support.tiny_bert import encoded, sentences, tiny_config

ROWS, JUDGED = encoded(sentences(2048, 1)), encoded(sentences(64, 3))
PLAN = TrainingConfig("prepare", 1, 1e-3, 1024, 0, precision="float32")


def test_a_batch_that_does_not_fit_is_computed_in_parts_with_the_same_weights(card: torch.device) -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_config(num_labels=2, intermediate_size=16384)).to(card)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    found, remarks = [], []
    before = torch.cuda.mem_get_info()[1]
    for room in (None, 900 << 20):
        torch.cuda.empty_cache()
        if room is not None:
            torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + room) / before)
        model.load_state_dict(start)
        try:
            list(each := Returning(trainer.train(model, PLAN, ROWS, JUDGED, label_loss(ROWS.task, model))))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        found.append([value.detach().clone() for value in model.parameters()])
        remarks.append(each.result.remarks)
    assert remarks[1], "the bound is above what the whole batch takes: nothing was tried"
    assert "micro-batches" in remarks[1][0]
    assert all(torch.allclose(one, other, atol=5e-3) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("optimizer", ["adamw", "adamw-8bit"])
def test_both_optimizers_train_on_a_card(optimizer: str, card: torch.device) -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_config(num_labels=2)).to(card)
    plan = replace(PLAN, epochs=3, rate=3e-3, batch=32, optimizer=optimizer)  # type: ignore[arg-type]
    list(each := Returning(trainer.train(model, plan, ROWS, JUDGED, label_loss(ROWS.task, model))))
    assert each.result.best.score > 0.9
