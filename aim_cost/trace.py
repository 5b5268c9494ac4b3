"""TokenTrace: the integers of one prefill, what is predicted and what a run records."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenTrace:
    """Token counts of one prompt of a batch, everywhere they can change.

    Args:
        batch: prompts, all with these counts.
        groups: frames or crops, merged one by one.
        merge_tokens: tokens of one group before merging and after each pass; one entry if unmerged.
        newline_tokens: visual tokens appended after merging.
        text_tokens: protected tokens.
        attention_tokens: per layer, tokens entering it: rows of q, k, v and of the KV cache.
        mlp_tokens: per layer, tokens its MLP computes.
        scored_layers: layers (0-based) at which an importance score is computed over all the
            tokens entering them; the tokens that lose leave before the next layer.
    """

    batch: int
    groups: int
    merge_tokens: tuple[int, ...]
    newline_tokens: int
    text_tokens: int
    attention_tokens: tuple[int, ...]
    mlp_tokens: tuple[int, ...]
    scored_layers: tuple[int, ...]

    @property
    def visual_tokens(self) -> int:
        """Visual tokens entering the LLM, newline included."""
        return self.groups * self.merge_tokens[-1] + self.newline_tokens

    @property
    def prompt_tokens(self) -> int:
        """All tokens entering the LLM."""
        return self.visual_tokens + self.text_tokens

    @property
    def reduces(self) -> bool:
        """Whether any token is merged or dropped."""
        return len(self.merge_tokens) > 1 or len(set(self.attention_tokens)) > 1
