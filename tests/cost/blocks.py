"""What a causal matrix costs that is made in blocks of rows, added up block by block."""


def block_causal_entries(tokens: int, rows: int = 256) -> int:
    """Entries of all blocks of ``rows`` rows, the first one shorter, each as wide as its end."""
    return sum((end - max(0, end - rows)) * end for end in range(tokens, 0, -rows))
