"""Each family at widths, vocabularies and positions that are published for it (two layers of them): cut, saved, reopened."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from compression.modalities.registry import task_of
from compression.modalities.text.batches import TokenizedDataset
from compression.models.adapters.registry import adapter_of, encoder_of
from compression.models.adapters.structure import PruningPlan
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import planned_shape
from compression.pruning.scores import score_units
from compression.schema.recipe.prune import Prune
from tests.support.decoder_models import reopened

BASE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 512}
ROBERTA = {"max_position_embeddings": 514, "pad_token_id": 1}
SMALL = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024, "max_position_embeddings": 512}
DISTIL = {"dim": 768, "n_heads": 12, "hidden_dim": 3072, "n_layers": 2, "max_position_embeddings": 512}
PUBLISHED: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "bert": ({**BASE, "vocab_size": 30522}, (512, 8, 2176)),
    "distilbert": ({**DISTIL, "vocab_size": 30522}, (512, 8, 2176)),
    "roberta": ({**BASE, **ROBERTA, "vocab_size": 50265, "type_vocab_size": 1}, (512, 8, 2176)),
    "xlm-roberta": (
        {**BASE, **ROBERTA, "vocab_size": 250002, "type_vocab_size": 1, "hidden_size": 384, "intermediate_size": 1536},
        (256, 8, 1088),
    ),
    "electra": ({**SMALL, "vocab_size": 30522, "embedding_size": 128}, (192, 3, 704)),
    "mpnet": ({**BASE, **ROBERTA, "vocab_size": 30527}, (512, 8, 2176)),
}
"""Settings of google-bert/bert-base-uncased, distilbert/distilbert-base-uncased, FacebookAI/roberta-base,
microsoft/Multilingual-MiniLM-L12-H384, google/electra-small-discriminator and microsoft/mpnet-base; hidden, heads and
feed-forward units of what 30 % leaves."""


def opened(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    layers = {} if kind == "distilbert" else {"num_hidden_layers": 2}
    return AutoModelForSequenceClassification.from_config(CONFIG_MAPPING[kind](**PUBLISHED[kind][0], **layers)).eval()


@pytest.mark.parametrize("kind", PUBLISHED)
def test_a_family_at_its_published_widths_is_cut_saved_and_reopened(kind: str, tmp_path: Path) -> None:
    model = opened(kind)
    family, before = adapter_of(model), adapter_of(model).shape_of(model.config)
    ids = torch.randint(5, before.vocabulary, (8, 24), generator=torch.Generator().manual_seed(0))
    # As many tokens as the model takes, the last of its vocabulary among them.
    longest = torch.randint(5, before.vocabulary, (1, family.max_positions(model.config)))
    longest[0, 7] = before.vocabulary - 1
    rows = TokenizedDataset(ids.tolist(), torch.arange(8) % 2, int(model.config.pad_token_id), task_of("text-classification"))
    settings = Prune(ratio=0.3, calibration_rows=8)
    scores = score_units(model, settings, rows, seed=0)
    shape = planned_shape(ARCHITECTURE_SPECS[kind], before, settings)
    assert (shape.hidden, shape.heads, shape.ffn) == PUBLISHED[kind][1]
    small = family.narrowed(model, scores.choose(family, shape))
    again = reopened(small, tmp_path, AutoModelForSequenceClassification)
    assert all(one.equal(other) for one, other in zip(again.parameters(), small.parameters(), strict=True))
    with torch.inference_mode():
        for given in (ids, longest):  # how weights lie in memory may move the last bit of so wide a product
            assert torch.allclose(again(given).logits, small(given).logits, atol=1e-6)

    # What can be exact is: without some units, as with their outputs silenced.
    encoder, plan = encoder_of(model), scores.choose(family, before.model_copy(update={"ffn": shape.ffn}))
    units = [plan.kept[f"ffn.{number}"] for number in range(before.layers)]
    fewer = family.narrowed(model, PruningPlan({f"ffn.{number}": some for number, some in enumerate(units)}))
    with torch.inference_mode():
        for layer, those in zip(encoder.layers(model), units, strict=True):
            gone = torch.ones(before.ffn, dtype=torch.bool)
            gone[those] = False
            layer.down.weight[:, gone] = 0
        assert torch.allclose(fewer(ids).logits, model(ids).logits, atol=1e-5)
