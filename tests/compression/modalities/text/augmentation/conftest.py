"""Tiny helpers: a tokenizer of byte pairs, and two translation models with a SentencePiece of their own."""

import io
import json
from pathlib import Path

import pytest
import sentencepiece
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import MarianConfig, MarianMTModel, MarianTokenizer, PreTrainedTokenizerFast

from tests.support.tiny_bert import sentences

TEXTS = [text for text, _ in sentences(60, seed=5)]


def byte_pairs(texts: list[str]) -> PreTrainedTokenizerFast:
    """Train a tokenizer of RoBERTa's kind, which marks the space before a word."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>", "<pad>", "<mask>"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", mask_token="<mask>")


@pytest.fixture(scope="module")
def helpers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two Marian models, random but for the seed, as save_pretrained leaves them."""
    folder = tmp_path_factory.mktemp("helpers")
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=written, vocab_size=60, minloglevel=2, hard_vocab_limit=False
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    names = ["</s>", "<unk>", *(name for i in range(len(pieces)) if (name := pieces.id_to_piece(i))[0] != "<"), "<pad>"]
    spm, vocabulary = folder / "spm", folder / "vocabulary"
    spm.write_bytes(written.getvalue())
    vocabulary.write_text(json.dumps({name: number for number, name in enumerate(names)}))
    for seed, name in enumerate(("there", "back")):
        MarianTokenizer(str(spm), str(spm), str(vocabulary), model_max_length=48).save_pretrained(folder / name)
        torch.manual_seed(seed)
        padding = len(names) - 1
        config = MarianConfig(
            vocab_size=len(names), d_model=16, encoder_layers=1, decoder_layers=1,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
            max_position_embeddings=48, pad_token_id=padding, eos_token_id=0, decoder_start_token_id=padding,
            forced_eos_token_id=0, bos_token_id=None, init_std=0.5,
        )  # fmt: skip
        MarianMTModel(config).save_pretrained(folder / name)
    return folder
