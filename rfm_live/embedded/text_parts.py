"""The small T5 encoder and its tokenizer for the embedded checkpoint. Used by the recipe only.

The tokenizer is a unigram model learned on captions; every printable ASCII character is in its alphabet, so any prompt
is encodable, word pieces where the captions know the word and letters elsewhere.
"""

from __future__ import annotations

import json
import string
from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import T5Config, T5Tokenizer

MAX_TOKENS = 64
SPECIALS = ("<pad>", "</s>", "<unk>")


def build_tokenizer(captions: Sequence[str], size: int = 400) -> T5Tokenizer:
    """A unigram tokenizer with T5's special tokens (pad 0, end 1, unknown 2), for captions in lower case or
    capitalised.
    """
    learner = Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    alphabet = [character for character in string.printable if not character.isspace()]
    trainer = trainers.UnigramTrainer(
        vocab_size=size,
        special_tokens=list(SPECIALS),
        unk_token=SPECIALS[2],
        initial_alphabet=["\u2581", *alphabet],
        show_progress=False,
    )
    learner.train_from_iterator([*captions, *(text.capitalize() for text in captions), *alphabet], trainer)
    learned = json.loads(learner.to_str())["model"]["vocab"]
    vocabulary = [(piece, float(score)) for piece, score in learned]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=MAX_TOKENS)


def text_config(vocabulary: int) -> T5Config:
    """Shape of the text encoder: 2 blocks of width 128."""
    return T5Config(
        vocab_size=vocabulary,
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="relu",
        is_encoder_decoder=False,
        use_cache=False,
        pad_token_id=0,
        eos_token_id=1,
    )
