"""RunKind: how a schedule is run."""

from enum import StrEnum


class RunKind(StrEnum):
    """How a schedule is run; the values stand in the column ``execution`` of rows."""

    eager = "eager"  # tokens are dropped
    cuda_graph = "cuda-graph"  # the same, captured once and replayed
    masked = "masked"  # tokens are only masked, none leaves
    decode = "decode"  # tokens of an answer, after an eager prefill

    @property
    def priced(self) -> bool:
        """Whether the cost model prices it; pruning by masks and decoding are measured only."""
        return self in (RunKind.eager, RunKind.cuda_graph)


PREFILLS = (RunKind.eager, RunKind.cuda_graph, RunKind.masked)
"""The kinds that ``measure`` times."""
