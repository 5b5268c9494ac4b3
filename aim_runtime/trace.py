"""RunTrace: the tokens of the last prefill of a patched model, as it ran."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from aim_cost.errors import AimError
from aim_cost.schedules.trace import TokenTrace
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
            LLM sees it, after merging. Rows that keep fewer than others begin with repeated zeros.
        cache_tokens: tokens each layer of the KV cache held after the prefill; () without a cache.
        rows: the counts of each prompt, from the shapes that ran, without padding between rows.
        tower: the last run of a vision tower that merges; None before, and where none does.
    """

    kept: Sequence[Tensor] = ()
    cache_tokens: tuple[int, ...] = ()
    rows: Sequence[TokenTrace] = field(default=(), repr=False)
    tower: TowerRecord | None = None
    _missed: AimError | None = field(default=None, repr=False)

    @property
    def tokens(self) -> TokenTrace:
        """The counts of a batch whose prompts have equal counts.

        Raises: PatchError before the first prefill, and where prompts differ.
        """
        if not self.rows:
            got = "none" if self._missed is None else f"one that could not be seen: {self._missed}"
            raise PatchError(
                "trace", expected="a finished prefill", got=got, fix="Run the model first."
            )
        if len(set(self.rows)) > 1:
            raise PatchError(
                "trace.tokens",
                expected="prompts with equal counts",
                got=f"{len(self.rows)} that differ",
                fix="Read trace.rows.",
            )
        return replace(self.rows[0], batch=len(self.rows))

    def record(
        self, rows: Sequence[TokenTrace], kept: Sequence[Tensor], cache_tokens: tuple[int, ...]
    ) -> None:
        """Replace what is recorded by a prefill that has just finished."""
        if self.tower is not None:
            tokens, attention = self.tower.tokens, self.tower.attention
            rows = [
                replace(row, tower_tokens=tokens, tower_attention=attention) if row.groups else row
                for row in rows
            ]
        self.rows, self.kept, self.cache_tokens = rows, kept, cache_tokens
        self._missed = None

    def miss(self, reason: AimError) -> None:
        """Forget what is recorded: a prefill has run whose prompt nobody could describe."""
        self.rows, self.kept, self.cache_tokens, self._missed = (), (), (), reason
