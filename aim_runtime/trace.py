"""RunTrace: what the last prefill of a patched model really did."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from aim_cost.trace import TokenTrace
from aim_runtime.errors import PatchError


@dataclass(frozen=True)
class TowerRecord:
    """One run of a vision tower, as it occurred; see TokenTrace.

    Args: tokens of a frame entering each layer, and after the last; attention, as in VisionMerge.
    """

    tokens: tuple[int, ...]
    attention: str


@dataclass
class RunTrace:
    """Filled while the model runs; always about the last prefill that finished.

    Args:
        kept: per layer, int64 [B, tokens], the prompt positions that entered it, ascending; one
            more entry for what is left after the last layer. Positions count in the prompt as the
            LLM sees it, after merging.
        cache_tokens: tokens each layer of the KV cache held after the prefill; () without a cache.
        tower: the last run of a vision tower that merges; None before, and where none does.
    """

    kept: Sequence[Tensor] = ()
    cache_tokens: tuple[int, ...] = ()
    tower: TowerRecord | None = None
    _tokens: TokenTrace | None = field(default=None, repr=False)

    @property
    def tokens(self) -> TokenTrace:
        """The counts, from the shapes that ran. Raises: PatchError before the first prefill."""
        if self._tokens is None:
            raise PatchError(
                "trace", expected="a finished prefill", got="none", fix="Run the model first."
            )
        return self._tokens

    def record(
        self, tokens: TokenTrace, kept: Sequence[Tensor], cache_tokens: tuple[int, ...]
    ) -> None:
        """Replace what is recorded by a prefill that has just finished."""
        if self.tower is not None and tokens.groups:
            tokens = replace(
                tokens, tower_tokens=self.tower.tokens, tower_attention=self.tower.attention
            )
        self._tokens, self.kept, self.cache_tokens = tokens, kept, cache_tokens
