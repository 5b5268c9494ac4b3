"""Texts of schedules: right ones, and right ones with something changed."""

from hypothesis import strategies as st

from tests.fuzz.asked import numbers, odd_numbers, texts

ratios = st.one_of(
    st.sampled_from(("1", "0.5", "0.25", "0.125", "0", "0.01", "1e-9", "0.999999", "1.0001", "2")),
    st.floats(0, 1).map(repr),
    odd_numbers,
)
_small = st.integers(0, 40)


def _listed(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(values, min_size=1, max_size=6).map(",".join)


_falling = st.lists(st.floats(0, 1), min_size=1, max_size=30).map(
    lambda found: ",".join(map(repr, sorted(found, reverse=True)))
)
_amounts = {
    "merge": st.one_of(
        ratios, numbers.map("frame:{}".format), _listed(numbers.map(str)).map("passes:{}".format)
    ),
    "prune": st.one_of(
        st.tuples(_small, _small).map(lambda pair: f"linear:{pair[0]}:{sum(pair)}"),
        st.tuples(numbers, numbers).map(lambda pair: f"linear:{pair[0]}:{pair[1]}"),
        _falling.map("ratios:{}".format),
        _listed(numbers.map(str)).map("layers:{}".format),
    ),
    "select": st.one_of(ratios, numbers.map("frame:{}".format), numbers.map("prompt:{}".format)),
    "sample": numbers.map(str),
    "vision-merge": st.one_of(numbers.map(str), _listed(numbers.map(str)).map("layers:{}".format)),
}
_words = st.sampled_from(
    ("by=random", "by=uniform", "positions=kept", "score=random", "score=pagerank",
     "score=text-attention", "drop=after-attention", "inject=8", "layers=4-20", "attention=plain",
     "score=nobody", "by=", "=", "layers=20-4")
)  # fmt: skip


def part(name: str) -> st.SearchStrategy[str]:
    """What follows the name of a part."""
    words = st.lists(_words, max_size=2).map(" ".join)
    return st.tuples(_amounts[name], words).map(" ".join).map(str.strip)


right = st.lists(st.sampled_from(sorted(_amounts)), max_size=3, unique=True).flatmap(
    lambda names: st.tuples(*(part(name).map(f"{name} {{}}".format) for name in names)).map(
        lambda parts: ", ".join(parts) or "none"
    )
)
"""One text of the language, though its numbers and words may not fit."""


@st.composite
def _changed(draw: st.DrawFn) -> str:
    text = draw(right)
    place, end = (draw(st.integers(0, len(text))) for _ in range(2))
    return text[:place] + draw(texts) + text[end:]


schedules = st.one_of(right, right, _changed(), texts)
