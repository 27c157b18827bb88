"""The embedded model's tokenizer: one token per integer 0 to 199, per symbol, per word.

Left out: digits as tokens. A model this small checked its own sums wrongly with digit
tokens and then never learned to try again (docs/log.md).
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

MAX_INTEGER = 199
PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
SYMBOLS = ("+", "-", "*", "/", "(", ")", "=", ",", ".")
WORDS = ("Make", "from", "not", "yes", "Wait,")

# Embedding rows; the few beyond the vocabulary are never produced by the tokenizer.
VOCABULARY_SIZE = 224

# A tag, an integer, a word with its comma ("Wait,"), or any other single character.
_PIECE = r"</?[a-z]+>|[0-9]+|[A-Za-z]+,?|[^\sA-Za-z0-9]"


def vocabulary() -> dict[str, int]:
    """Token to id: special tokens, tags, symbols, words, then the integers in order."""
    tokens = [PAD, EOS, UNK, *TAGS, *SYMBOLS, *WORDS, *(str(n) for n in range(MAX_INTEGER + 1))]
    return {token: index for index, token in enumerate(tokens)}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer; decoding joins tokens with single spaces."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNK))
    tokenizer.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(_PIECE), behavior="isolated"),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
