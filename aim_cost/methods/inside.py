"""Methods that prune inside the LLM."""

from collections.abc import Sequence
from itertools import accumulate

from aim_cost.errors import ScheduleError
from aim_cost.methods.method import Setting, method, shares_from
from aim_cost.methods.parameter import Parameter
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import Schedule

_SPARSE_TOKENS = 576
_SPARSE = {
    0: (0, 0, 0),
    64: (66, 30, 17),
    96: (238, 48, 26),
    128: (303, 110, 36),
    192: (300, 200, 110),
    576: (576, 576, 576),
}
"""SparseVLM's tokens after each stage, of 576, by the names in its paper; the ends are ours."""

_FIT_TOKENS = 576
_FIT = {
    0.0: "0",
    0.5: "3 7 49 24 29 17 59 41 26 8 10 6 2 5 7 2 30 3 13 27 5 23 2 1 0 0 1 1 2 0 0 0",
    0.6: "14 33 89 36 36 20 55 21 18 4 7 5 2 5 7 4 26 5 11 24 4 18 2 1 0 0 1 0 1 0 0 0",
    0.9: "262 153 80 19 13 1 2 0 0 0 0 0 0 0 0 1 1 2 1 2 0 1 0 0 0 0 0 1 0 0 0 0",
}
"""Tokens of 576 that FitPrune removes in each layer of LLaVA-1.5-7B, by its pruning ratio.

Source: github.com/ywh187/FitPrune, LLaVA_1.5, modeling_llama.py; the first line is ours.
"""


def _dropped(default: float) -> Parameter:
    return Parameter("r", "share", "share dropped", default, scales="down")


@method(
    *("fastv", "FastV", "2403.06764", "inside"),
    Parameter("k", "layer", "layers that see all tokens; 2 or 3", 2),
    _dropped(0.5),
    Parameter("eager", "count", "1: as released, from the layer's own matrix", 0, most=1),
    note="Its code reads the last token's row from the layer's own matrix, for which flash "
    "attention goes off: eager=1 prices that. The same row next to fused attention keeps the same "
    "tokens, and is what runs.",
)
def fastv(of: Setting, k: int, r: float, eager: int) -> Schedule:
    del of
    importance = "eager-attention" if eager else "text-attention"
    return Schedule(prune=Prune(ratios=shares_from({k: 1 - r}), importance=importance))


@method(
    *("pyramiddrop", "PyramidDrop", "2410.17247", "inside"),
    Parameter("stages", "layers", "layers from which fewer tokens enter", {32: (8, 16, 24)}),
    Parameter("ratio", "share", "share kept at each stage", 0.5, scales="up"),
    note="Its code projects queries, keys and values of all tokens to rank them; here keys of all "
    "and the query of the last token, which is all that the row needs.",
)
def pyramiddrop(of: Setting, stages: tuple[int, ...], ratio: float) -> Schedule:
    del of
    shares = {layer: ratio ** (i + 1) for i, layer in enumerate(stages)}
    return Schedule(prune=Prune(ratios=shares_from(shares), importance="next-layer-query"))


@method(
    *("vtw", "VTW", "2405.05803", "inside"),
    Parameter("k", "layer", "layer from which no visual token enters", {32: 16}, scales="up"),
)
def vtw(of: Setting, k: int) -> Schedule:
    del of
    return Schedule(prune=Prune(ratios=shares_from({k: 0.0}), importance="offline"))


@method(
    *("sparsevlm", "SparseVLM", "2410.04417", "inside"),
    Parameter(
        *("tokens", "count", "its budget of 576 tokens: 192, 128, 96, 64; else in between"),
        default=192,
        scales="up",
        most=_SPARSE_TOKENS,
    ),
    Parameter("stages", "layers", "layers from which fewer tokens enter", {32: (3, 7, 16)}),
    note="Clusters of dropped tokens that it recycles come on top and depend on the image: they "
    "are neither priced nor run. Other budgets than the paper's four are straight lines between "
    "them. Rows of the text tokens are made, not the whole matrix.",
)
def sparsevlm(of: Setting, tokens: int, stages: tuple[int, ...]) -> Schedule:
    del of
    if len(stages) != 3:
        raise ScheduleError(
            "sparsevlm.stages", expected="three layers", got=list(stages), fix="E.g. 3/7/16."
        )
    below = max(known for known in _SPARSE if known <= tokens)
    above = min(known for known in _SPARSE if known >= tokens)
    part = (tokens - below) / (above - below) if above > below else 0.0
    left = [a + part * (b - a) for a, b in zip(_SPARSE[below], _SPARSE[above], strict=True)]
    shares = dict(zip(stages, (x / _SPARSE_TOKENS for x in left), strict=True))
    return Schedule(prune=Prune(ratios=shares_from(shares), importance="rater-attention"))


@method(
    *("dart", "DART", "2502.11494", "inside"),
    Parameter("k", "layer", "layers that see all tokens", 2),
    _dropped(0.778),
    note="Of each prompt int(N (1 - r)) visual tokens stay; its code rounds the part of each of 8 "
    "pivots down.",
)
def dart(of: Setting, k: int, r: float) -> Schedule:
    del of
    return Schedule(prune=Prune(ratios=shares_from({k: 1 - r}), importance="pivot-similarity"))


@method(
    *("v2drop", "V2Drop", "2509.01552", "inside"),
    Parameter("stages", "layers", "layers from which fewer tokens enter", {32: (3, 17, 22)}),
    Parameter("ratio", "share", "share kept at each stage but the last", 0.5, scales="up"),
    note="At the last stage all visual tokens go; its code keeps one.",
)
def v2drop(of: Setting, stages: tuple[int, ...], ratio: float) -> Schedule:
    del of
    shares = {layer: ratio ** (i + 1) for i, layer in enumerate(stages[:-1])} | {stages[-1]: 0.0}
    return Schedule(prune=Prune(ratios=shares_from(shares), importance="layer-change"))


@method(
    *("pact", "PACT", "2504.08966", "inside"),
    Parameter("k", "layer", "layers that see all tokens", 4),
    Parameter("keep", "share", "share kept before clustering", 0.55, scales="up"),
    Parameter("clustered", "share", "measured share of those left by clustering", 1.0),
    counts="mean",
    note="How many tokens clustering leaves depends on the image: give the mean of yours as "
    "clustered. By default none merge, an upper bound.",
)
def pact(of: Setting, k: int, keep: float, clustered: float) -> Schedule:
    del of
    shares = shares_from({k: keep * clustered})
    return Schedule(prune=Prune(ratios=shares, importance="key-distances"))


@method(
    *("framefusion", "FrameFusion", "2501.01986", "inside"),
    Parameter("c", "share", "mean over the layers of the share of tokens", 0.3, scales="up"),
    Parameter("k", "layer", "layers over which tokens merge before the prune", 3),
    counts="mean",
    note="How fast tokens merge depends on the video: here in equal steps, so that the mean is c. "
    "Its one explicit attention pass is not priced.",
    video=True,
)
def framefusion(of: Setting, c: float, k: int) -> Schedule:
    # N_i / N is 1 - (1 - left) i / k up to layer k, then left; its mean over the layers is c
    left = 1 - of.layers * (1 - c) / (of.layers - (k + 1) / 2)
    if left < 0:
        least = (k + 1) / 2 / of.layers
        raise ScheduleError(
            "framefusion.c",
            expected=f"at least {least:.4f}, all tokens gone from layer {k} on",
            got=c,
            fix="Keep more, or merge over fewer layers.",
        )
    shares = {layer: 1 - (1 - left) * layer / k for layer in range(1, k + 1)}
    return Schedule(prune=Prune(ratios=shares_from(shares), importance="neighbour-cosine"))


@method(
    *("fitprune", "FitPrune", "2409.10197", "inside"),
    Parameter(
        *("r", "share", "its pruning ratio: 0.5, 0.6, 0.9; else in between", 0.6),
        scales="down",
        most=max(_FIT),
    ),
    note="Its lists of removals are fitted to LLaVA-1.5-7B. Other ratios than these three are "
    "straight lines between them, other models take the same shares by depth. Rows are made next "
    "to fused attention, not the layer's own matrix.",
)
def fitprune(of: Setting, r: float) -> Schedule:
    below = max(known for known in _FIT if known <= r)
    above = min(known for known in _FIT if known >= r)
    part = (r - below) / (above - below) if above > below else 0.0
    lists = (_left_by_depth(_FIT[known].split(), of.layers) for known in (below, above))
    shares = tuple(a + part * (b - a) for a, b in zip(*lists, strict=True))
    prune = Prune(ratios=shares, importance="attention-columns", drop_point="after_attention")
    return Schedule(prune=prune)


def _left_by_depth(removed: Sequence[str], layers: int) -> tuple[float, ...]:
    """The share left after each of ``layers`` layers, on straight lines between those listed."""
    left = [(_FIT_TOKENS - gone) / _FIT_TOKENS for gone in accumulate(map(int, removed), initial=0)]
    shares = []
    for layer in range(1, layers + 1):
        before, part = divmod(layer * len(removed), layers)
        after = min(before + 1, len(removed))
        shares.append(left[before] + part / layers * (left[after] - left[before]))
    return tuple(shares)


@method(
    *("hidrop", "HiDrop", "2602.23699", "inside"),
    Parameter("start", "layer", "layer at which visual tokens enter", {32: 8}),
    Parameter("end", "layer", "layer from which none is left", {32: 24}, scales="up"),
    counts="assumed",
    verified="paper",
    note="Its layers and counts are trained; here a square falls from 1 to 0 between start and "
    "end, each assumed.",
)
def hidrop(of: Setting, start: int, end: int) -> Schedule:
    if not start < end or start >= of.layers:
        raise ScheduleError(
            "hidrop.end",
            expected=f"above start = {start}",
            got=end,
            fix="Inject earlier or end later.",
        )
    shares = {layer: ((end - layer) / (end - start)) ** 2 for layer in range(start, end + 1)}
    prune = Prune(ratios=shares_from(shares), importance="offline", inject_at=start)
    return Schedule(prune=prune)
