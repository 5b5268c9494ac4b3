"""How methods split the number of tokens that stay between two ways to choose them."""

from collections.abc import Iterator


def contextual_tokens(kept: int) -> int:
    """Contextual ones of the tokens that VisionZip keeps, rounded up: 10 of 64, as in the paper."""
    return -(-10 * kept // 64)


def outlier_tokens(kept: int) -> int:
    """Most attended ones of the tokens that PruMerge+ keeps: a fourth, without the one of the rest.

    Its code samples three times as many at equal steps.
    """
    return (kept - 1) // 4


def important_tokens(kept: int) -> int:
    """Most attended ones of the tokens that VisPruner keeps: half, rounded down."""
    return kept // 2


def duplicate_rounds(tokens: int, kept: int) -> Iterator[int]:
    """How many of ``tokens`` leave in each of VisPruner's rounds: 8, as long as they can."""
    while tokens > kept:
        leave = min(8, tokens - kept, -(-tokens // 2))
        yield leave
        tokens -= leave
