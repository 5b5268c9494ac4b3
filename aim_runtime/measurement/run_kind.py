"""RunKind: how a schedule is run."""

from enum import StrEnum


class RunKind(StrEnum):
    """How a schedule is run; the values stand in the column ``execution`` of rows."""

    EAGER = "eager"  # tokens are dropped
    CUDA_GRAPH = "cuda-graph"  # the same, captured once and replayed
    MASKED = "masked"  # tokens are only masked, none leaves
    DECODE = "decode"  # tokens of an answer, after an eager prefill

    @property
    def priced(self) -> bool:
        """Whether the cost model prices it; pruning by masks and decoding are measured only."""
        return self in (RunKind.EAGER, RunKind.CUDA_GRAPH)


PREFILLS = (RunKind.EAGER, RunKind.CUDA_GRAPH, RunKind.MASKED)
"""The kinds that ``measure`` times."""
