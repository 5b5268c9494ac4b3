"""Files with something changed: characters, lines, or values inside."""

import copy
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.asked import FAR, odd_numbers, texts

WRONG = st.one_of(
    st.sampled_from([0, -1, 1, 2, 0.5, 1e-300, 1e29, 1e308, 5e-324, *FAR]),
    st.sampled_from([None, True, False, "", "x", [], {}, [[]], [1, 2], {"a": 1}, [None]]),
    texts,
    st.integers(-5, 5000),
    st.floats(allow_nan=True),
)

_inserted = st.one_of(
    odd_numbers,
    texts,
    st.sampled_from(
        ("\n", ":", ": ", "- ", "'", '"', "{", "}", "[", "]", ",", ";", "\t", "#", "&a ", "*a",
         "!!int ", "? ", "| \n", "\x00", "\ufeff", "\ud7ff", "yes", "14:22", ".inf", "NaN", "null",
         "[" * 200, "0", "e", "-", "%")
    ),
)  # fmt: skip


@st.composite
def text_changed(draw: st.DrawFn, text: str) -> str:
    """Up to three changes of characters or lines."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(text)))
        match draw(st.integers(0, 4)):
            case 0:
                text = text[:place] + draw(_inserted) + text[place:]
            case 1:
                text = text[:place] + text[place + draw(st.integers(1, 40)) :]
            case 2:
                text = text[:place] + draw(_inserted) + text[place + draw(st.integers(1, 10)) :]
            case 3:  # a line twice
                lines = text.split("\n")
                number = draw(st.integers(0, len(lines) - 1))
                text = "\n".join([*lines[: number + 1], *lines[number:]])
            case 4:
                text = text[:place]
    return text


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside a tree; of long lists those at their start."""
    found = [path] if path else []
    if isinstance(tree, dict):
        pairs: Any = tree.items()
    else:
        pairs = enumerate(tree[:3]) if isinstance(tree, list) else ()
    for key, inner in pairs:
        found += places(inner, (*path, key))
    return found


@st.composite
def tree_changed(draw: st.DrawFn, tree: Any) -> Any:
    """One or two values replaced, removed or added."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 2))):
        *parents, last = draw(st.sampled_from(places(tree)))
        inner = tree
        for key in parents:
            inner = inner[key]
        match draw(st.integers(0, 5)):
            case 0:
                del inner[last]
            case 1 if isinstance(inner, dict):
                inner[draw(texts)] = draw(WRONG)
            case _:
                inner[last] = draw(WRONG)
        if not places(tree):
            break
    return tree
