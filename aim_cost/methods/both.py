"""Methods that reduce before the LLM and inside it."""

from aim_cost.methods.method import Setting, method, shares_from
from aim_cost.methods.parameter import Parameter
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import Schedule
from aim_cost.schedules.select import Select


def _share(default: float, meaning: str = "share kept before the LLM") -> Parameter:
    return Parameter("retention", "share", meaning, default, scales="up")


def _then(select: Select, layer: int, keep: float, importance: str) -> Schedule:
    """``keep`` of what ``select`` leaves enters from ``layer`` on."""
    return Schedule(
        select=select, prune=Prune(ratios=shares_from({layer: keep}), importance=importance)
    )


@method(
    *("aim", "AIM", "2412.03248", "both"),
    _share(0.25, "share of each frame's tokens after merging"),
    Parameter("l1", "layer", "layer after which pruning starts", {28: 14, 32: 13}),
    Parameter("l2", "layer", "prune to nothing at this slope", {28: 22, 32: 21}),
)
def aim(of: Setting, retention: float, l1: int, l2: int) -> Schedule:
    del of
    return Schedule(Merge(retention=retention), Prune(linear=(l1, l2)))


@method(
    *("prunevid", "PruneVid", "2412.16117", "both"),
    _share(0.1),
    Parameter(
        "tokens", "count", "tokens kept of the prompt, instead", least=1, replaces="retention"
    ),
    Parameter("k", "layer", "layer from which fewer enter", 10),
    Parameter("keep", "share", "share of those that enters from k on", 0.4),
    counts="mean",
    note="Its code keeps as many tokens as its thresholds leave: here groups keep their part of "
    "the number asked for, and runs of frames of one cluster are segments. Inside, the layer's own "
    "attention of the text after the video ranks all tokens at once, where its code leaves out "
    "positions and the mask, and keeps a share of each group.",
    video=True,
)
def prunevid(
    of: Setting, retention: float | None, tokens: int | None, k: int, keep: float
) -> Schedule:
    del of
    select = Select(retention=retention, tokens=tokens, by="frame-density")
    return _then(select, k, keep, "question-attention")


@method(
    *("holitom", "HoliTom", "2505.21334", "both"),
    _share(0.25),
    Parameter("k", "layer", "layer from which fewer enter", {28: 18}),
    Parameter("r", "share", "share of those dropped there", 0.5),
    counts="mean",
    note="What its temporal segments leave is about the share asked for; here exactly. Tokens that "
    "leave inside the LLM are dropped, where its code averages them into those that stay.",
    video=True,
)
def holitom(of: Setting, retention: float, k: int, r: float) -> Schedule:
    del of
    select = Select(retention=retention, by="vision-attention-still")
    return _then(select, k, 1 - r, "text-attention")


@method(
    *("flashvid", "FlashVID", "2602.08024", "both"),
    Parameter("retention", "share", "1.25 of it is kept first", 0.25, scales="up", most=0.8),
    Parameter("k", "layer", "layer from which fewer enter", {28: 20}),
    Parameter("keep", "share", "share of those that enters from k on", 0.3),
    counts="mean",
    note="Its thresholds leave about as many tokens as asked for; here exactly. A tree becomes the "
    "mean of all its tokens.",
    video=True,
)
def flashvid(of: Setting, retention: float, k: int, keep: float) -> Schedule:
    del of
    select = Select(retention=1.25 * retention, by="vision-attention-trees")
    return _then(select, k, keep, "text-attention")
