"""TokenTrace: the token counts of one prefill, as predicted and as a run records them."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Ranked:
    """What is ranked before the LLM, of one image or video.

    Args:
        sets: parts that are ranked apart: the frames that keep equally many each, or all together.
        tokens, kept: of a set, before and after.
        frames: of a set; 1 where crops differ in size.
    """

    sets: int
    tokens: int
    kept: int
    frames: int = 1

    @property
    def chooses(self) -> bool:
        """Whether some tokens stay and some go; else nothing is scored."""
        return 0 < self.kept < self.tokens


@dataclass(frozen=True)
class TokenTrace:
    """Token counts of one prompt of a batch, everywhere they can change.

    Args:
        batch: prompts, all with these counts.
        groups: frames or crops, merged one by one.
        merge_tokens: tokens of one group before merging and after each pass; one entry if unmerged.
        newline_tokens: visual tokens appended after merging, or between rows of an image.
        text_tokens: protected tokens.
        attention_tokens: per layer, tokens entering it: rows of q, k, v and of the KV cache.
        mlp_tokens: per layer, tokens its MLP computes.
        scored_layers: layers (0-based) that rank the tokens entering them; the lowest ones leave
            before the next layer.
        selected: what select ranks of each image and video in order; () without it.
        last_queries: tokens of which the last layer computes queries and all that follows them,
            where they are fewer than enter it; None where it computes all.
        merged_by, selected_by, importance: how tokens were matched and ranked, as in a Schedule.
        others: further, smaller groups, such as the tiles of an image, the largest first: (groups,
            their merge_tokens).
        tower_tokens: tokens of one group entering each layer of the vision tower, and after the
            last; () where none are merged there.
        tower_attention: as in VisionMerge.
    """

    batch: int
    groups: int
    merge_tokens: tuple[int, ...]
    newline_tokens: int
    text_tokens: int
    attention_tokens: tuple[int, ...]
    mlp_tokens: tuple[int, ...]
    scored_layers: tuple[int, ...]
    selected: tuple[Ranked, ...] = ()
    merged_by: str = "similarity"
    selected_by: str = "uniform"
    importance: str = "pagerank"
    last_queries: int | None = None
    others: tuple[tuple[int, tuple[int, ...]], ...] = ()
    tower_tokens: tuple[int, ...] = ()
    tower_attention: str = "proportional"

    @property
    def merges(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """All groups of a prompt: (groups, tokens of one before merging and after each pass)."""
        return ((self.groups, self.merge_tokens), *self.others)

    @property
    def merged_tokens(self) -> int:
        """Visual tokens after merging and before selection, without newline."""
        return sum(groups * counts[-1] for groups, counts in self.merges)

    @property
    def selected_tokens(self) -> int | None:
        """Visual tokens, without newline, that select keeps; None without it."""
        return sum(part.sets * part.kept for part in self.selected) if self.selected else None

    @property
    def visual_tokens(self) -> int:
        """Visual tokens entering the LLM, newline included."""
        chosen = self.selected_tokens
        return (self.merged_tokens if chosen is None else chosen) + self.newline_tokens

    @property
    def prompt_tokens(self) -> int:
        """All tokens entering the LLM."""
        return self.visual_tokens + self.text_tokens

    @property
    def reduces(self) -> bool:
        """Whether any token is merged or dropped."""
        mlp_tokens = self.mlp_tokens if self.last_queries is None else self.mlp_tokens[:-1]
        counts = {self.prompt_tokens, *self.attention_tokens, *mlp_tokens}
        selects = self.selected_tokens not in (None, self.merged_tokens)
        merges = any(len(c) > 1 for _, c in self.merges) or len(self.tower_tokens) > 1
        return selects or merges or len(counts) > 1

    def last_needed(self) -> "TokenTrace":
        """The same prefill, whose last layer computes what the logits of the last token need.

        Keys and values of all tokens still enter the cache. Nothing is ranked there: whatever the
        schedule drops inside that layer is not computed anyway.
        """
        if self.attention_tokens[-1] == 1:
            return self
        last = len(self.attention_tokens) - 1
        return replace(
            self,
            mlp_tokens=(*self.mlp_tokens[:-1], 1),
            scored_layers=tuple(layer for layer in self.scored_layers if layer < last),
            last_queries=1,
        )
