"""The multiply-adds of texts, counted by shapes, are those that torch counts as stock models run."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from compression.engine.stages.prune import model_sizes
from compression.models.adapters.registry import adapter_of
from tests.support import decoder_models, encoder_models

TOKENS = 16
SEQUENCES, READER, TAGGER = "ForSequenceClassification", "ForQuestionAnswering", "ForTokenClassification"
LEFT_OUT = 0.01  #: rotations, and what routers compare, of models as small as these

EXPERTS = {"experts_implementation": "eager"}  #: one product for each expert: torch counts no grouped ones


def counted_by_torch(model: PreTrainedModel) -> int:
    ids = torch.full((1, TOKENS), 7)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return counter.get_total_flops() // 2


def counted(model: PreTrainedModel) -> int:
    operations = model_sizes(model, None, TOKENS).operations
    assert operations is not None
    return operations(adapter_of(model).shape_of(model.config))


@pytest.mark.parametrize("head", [SEQUENCES, READER, TAGGER])
@pytest.mark.parametrize("kind", list(encoder_models.STEMS))
def test_of_encoders(kind: str, head: str) -> None:
    model = encoder_models.tiny(kind, head, attn_implementation="eager")
    assert counted(model) == counted_by_torch(model)


@pytest.mark.parametrize("head", ["ForCausalLM", SEQUENCES])
@pytest.mark.parametrize("kind", list(decoder_models.STEMS))
def test_of_decoders(kind: str, head: str) -> None:
    model = decoder_models.tiny(kind, head, attn_implementation="eager", pad_token_id=1, **EXPERTS)
    assert counted(model) == pytest.approx(counted_by_torch(model), rel=LEFT_OUT)
