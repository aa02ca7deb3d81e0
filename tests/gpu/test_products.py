"""Products of int8 matrices on a card are those of the CPU to the last integer, also where float32 may be rounded to TF32."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from compression.evaluation.validate import Validation
from compression.modalities.base import label_loss
from compression.quantization.integer_products import (
    EXACT_TERMS,
    exact_product,
    multiplies_integers,
    product_by_floats,
    product_in_shape,
)
from compression.quantization.precision import fast_float32
from compression.training.config import TrainingConfig
from tests.support.tiny_bert import encoded, sentences, tiny_config
from tests.support.trainings import run_of


@pytest.mark.parametrize("way", [exact_product, product_by_floats, product_in_shape])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (16, 8, 8), (64, 768, 768), (33, 3 * EXACT_TERMS + 5, 17)])
def test_a_product_is_that_of_whole_numbers(
    way: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, int, int], card: torch.device
) -> None:
    if way is product_in_shape and not multiplies_integers(card):
        pytest.skip(f"{torch.cuda.get_device_name(card)} does not multiply int8")
    rows, terms, columns = shape
    drawn = torch.Generator().manual_seed(terms)
    left, right = (torch.randint(-128, 128, (n, terms), generator=drawn, dtype=torch.int8) for n in (rows, columns))
    with fast_float32(card):
        found = way(left.to(card), right.to(card))
    assert found.dtype == torch.int32
    assert found.cpu().equal((left.long() @ right.long().t()).int())


@pytest.mark.parametrize("way", [exact_product, product_in_shape])
@pytest.mark.parametrize("turned", [(False, True), (True, False), (True, True)])
def test_a_transposed_weight_has_the_same_product(
    way: Callable[[Tensor, Tensor], Tensor], turned: tuple[bool, bool], card: torch.device
) -> None:
    """With multiples of 8 no matrix is filled up, which would lay its rows one after another."""
    if way is product_in_shape and not multiplies_integers(card):
        pytest.skip(f"{torch.cuda.get_device_name(card)} does not multiply int8")
    drawn = torch.Generator().manual_seed(0)
    left, right = (torch.randint(-128, 128, (n, 64), generator=drawn, dtype=torch.int8) for n in (32, 768))
    given = [each.t().contiguous().t() if is_turned else each for each, is_turned in zip((left, right), turned, strict=True)]
    found = way(*(each.to(card) for each in given))
    assert found.cpu().equal((left.long() @ right.long().t()).int())


def test_a_step_of_training_may_round_float32(card: torch.device) -> None:
    rows, seen = encoded(sentences(16, 1)), set[str]()
    model = BertForSequenceClassification(tiny_config(num_labels=2)).to(card)
    model.bert.register_forward_hook(lambda *_: seen.add(torch.get_float32_matmul_precision()))
    run = run_of(model, TrainingConfig("prepare", 1, 1e-3, 16, 0), label_loss(rows.task, model))
    run.begin(Validation(0.0, 0.0))
    assert run.gradients([rows.batch(list(range(16)))])
    assert seen == {"high"}
    assert torch.get_float32_matmul_precision() == "highest"
