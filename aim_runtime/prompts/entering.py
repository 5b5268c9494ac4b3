"""Entering: a prompt on its way from the ids to the decoder."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from aim_runtime.prompts.encoded import Encoded
from aim_runtime.prompts.prompt import Prompt


@dataclass(frozen=True)
class Entering:
    """A prompt on its way from the ids to the decoder.

    Args:
        encoded: of each modality, what has been reduced for it so far.
        positions: the table of the caller's positions, where tokens keep theirs.
        made: of each modality that was encoded before the prompt could be cut, the output of its
            encoder, reduced; the model takes it out.
    """

    prompt: Prompt
    encoded: dict[str, Encoded]
    positions: Tensor | None
    made: dict[str, Any] = field(default_factory=dict)
