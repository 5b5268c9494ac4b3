"""How large a file and what stands in it may be."""

MOST_BYTES = 64 * 2**20
DEEPEST = 50
LARGEST_NUMBER = 1e30

TOO_DEEP = f"more than {DEEPEST} levels, one inside the other"


def whole_number(text: str) -> int:
    """The whole number that digits say. Raises: ValueError above LARGEST_NUMBER."""
    if len(text) > 40:  # Python reads no more than some thousand digits
        raise ValueError(f"{text[:40]}..., which is above {LARGEST_NUMBER:.0e}")
    return int(bounded(int(text), text))


def fraction(text: str) -> float:
    """The number that text says. Raises: ValueError above LARGEST_NUMBER and for NaN."""
    return float(bounded(float(text), text))


def bounded(number: float, text: str) -> float:
    """Return ``number``. Raises: ValueError, with its ``text``, above LARGEST_NUMBER."""
    if -LARGEST_NUMBER <= number <= LARGEST_NUMBER:  # NaN is not
        return number
    raise ValueError(f"{text[:40]}, which is no number up to {LARGEST_NUMBER:.0e}")
