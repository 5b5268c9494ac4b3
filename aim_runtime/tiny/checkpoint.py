"""The checkpoint folder that training writes, with a card; from_pretrained loads it."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import LlavaOnevisionForConditionalGeneration

from aim_cost.files import make_folder, write_atomically
from aim_cost.files.json_text import json_tree
from aim_cost.files.text import text_of
from aim_runtime.errors import LoadError
from aim_runtime.tiny.packed import packed_accuracy, packed_questions
from aim_runtime.tiny.questions import VOCABULARY

SHIPPED = {name: Path(__file__).parent / "weights" / name for name in ("tiny", "tiny-36")}
"""Folders of the checkpoints that come with the project, by name."""

_CARD, _WORDS = "card.json", "vocabulary.json"
_VALIDATION_SEED, _VALIDATION_CLIPS = 2, 1000


def save_checkpoint(
    model: LlavaOnevisionForConditionalGeneration, folder: Path, command: str, told: dict[str, Any]
) -> dict[str, float]:
    """Write config, fp16 weights, vocabulary and card; return the validation accuracy by kind.

    Args: command, that trains it; told, what training reports about itself; for the card.
    """
    make_folder(folder)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        model.half().save_pretrained(scratch)
        for name in ("config.json", "model.safetensors"):
            (Path(scratch) / name).replace(folder / name)
    write_atomically(folder / _WORDS, json.dumps(VOCABULARY, indent=1).encode())
    accuracy = validation_accuracy(load_tiny(folder))
    card = {
        "command": command,
        "validation": accuracy,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        **told,
    }
    write_atomically(folder / _CARD, (json.dumps(card, indent=1) + "\n").encode())
    return accuracy


def validation_accuracy(model: LlavaOnevisionForConditionalGeneration) -> dict[str, float]:
    """Accuracy by kind on fresh validation clips, those that choose what is shipped."""
    rng = np.random.default_rng(_VALIDATION_SEED)
    return packed_accuracy(model, *packed_questions(model, "validation", _VALIDATION_CLIPS, rng))


def load_tiny(folder: Path = SHIPPED["tiny"]) -> LlavaOnevisionForConditionalGeneration:
    """A checkpoint of this package in float32, in eval mode. Raises: LoadError."""
    try:
        words = json_tree(text_of(folder / _WORDS))
        model = LlavaOnevisionForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise LoadError(
            str(folder),
            expected="a folder that aim-runtime tiny train wrote",
            got=" ".join(str(error).split())[:200],
            fix=f"Give its path, or the name of a shipped one: {', '.join(SHIPPED)}.",
        ) from error
    if words != list(VOCABULARY):
        raise LoadError(
            f"{folder}/{_WORDS}",
            expected="the words of this version",
            got="other words",
            fix="Train the checkpoint again.",
        )
    model.eval()
    return model
