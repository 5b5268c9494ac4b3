"""A checkpoint folder of a tiny model, with a tokenizer and preprocessing of its own."""

import json
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from tests.runtime.support import tiny_llava

WORDS = ("[UNK]", "user", "assistant", "what", "moves", "here?", "<|im_start|>", "<|im_end|>")
MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]


def save_checkpoint(folder: Path) -> Path:
    """Write it as ``save_pretrained`` does, and return ``folder``."""
    tiny_llava().save_pretrained(folder)
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = WhitespaceSplit()
    special = {"additional_special_tokens": list(WORDS[-2:])}
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", **special).save_pretrained(
        folder
    )
    preprocessing = {"image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return folder
