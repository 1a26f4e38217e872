"""The chat format of the embedded model: special tokens, template, tokenizer.

A conversation is `<|system|>…<|end|><|user|>…<|end|><|assistant|>…<|end|>`. The template marks the assistant's tokens
(`{% generation %}`), `<|end|>` included, so that trainers can put the loss on them alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, END = "<|pad|>", "<|end|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
SPECIAL = [PAD, END, *ROLES.values()]
"""Token ids 0 to 4, in this order."""

TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}<|assistant|>{% generation %}{{ m['content'] | trim }}<|end|>{% endgeneration %}"
    "{% elif m['role'] == 'system' %}<|system|>{{ m['content'] | trim }}<|end|>"
    "{% else %}<|user|>{{ m['content'] | trim }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `vocab` tokens; every digit stands alone. Any text can be encoded, none is lost."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _with_template(PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END))


def tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that lies beside an exported checkpoint (`tokenizer.json`)."""
    from transformers import PreTrainedTokenizerFast

    return _with_template(PreTrainedTokenizerFast(tokenizer_file=str(file), pad_token=PAD, eos_token=END))


def _with_template(fast: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    fast.chat_template = TEMPLATE
    return fast
