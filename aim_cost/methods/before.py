"""Methods that reduce before the LLM."""

from aim_cost.errors import ScheduleError
from aim_cost.methods.method import Setting, method
from aim_cost.methods.parameter import Parameter
from aim_cost.schedules.schedule import Schedule
from aim_cost.schedules.select import Select
from aim_cost.schedules.vision_merge import VisionMerge


def _share(default: float, meaning: str = "share of the tokens kept") -> Parameter:
    return Parameter("retention", "share", meaning, default, scales="up")


_TOKENS = Parameter(
    "tokens", "count", "tokens kept of the prompt, instead", least=1, replaces="retention"
)
_NO_DEFAULT = "The paper uses several budgets; 25 % is a usual one."


def _of_all(retention: float | None, tokens: int | None, by: str) -> Schedule:
    return Schedule(select=Select(retention=retention, tokens=tokens, by=by))


def _of_each(of: Setting, retention: float | None, tokens: int | None, by: str) -> Schedule:
    """Keep the same whole number of tokens of each frame or crop."""
    if retention is None:
        return _of_all(None, tokens, by)
    return _per_frame(of, retention, by)


def _per_frame(of: Setting, retention: float, by: str) -> Schedule:
    kept = int(of.group_tokens * retention)
    if kept < 1:
        raise ScheduleError(
            "retention",
            expected=f"at least one of the {of.group_tokens} tokens of a frame",
            got=retention,
            fix="Keep more.",
        )
    return Schedule(select=Select(tokens_per_frame=kept, by=by))


_PRUMERGE_NOTE = (
    "The number of outliers differs from image to image: give the mean of yours as tokens, the "
    "one token of the rest included. Attention and keys are those of the layer whose output is "
    "read, each head's softmax; the released code reads the last layer, its heads as one."
)


@method(
    *("prumerge", "LLaVA-PruMerge", "2403.15388", "before"),
    _share(0.07, "share kept; 40 of 576 is the paper's mean"),
    _TOKENS,
    counts="mean",
    note=_PRUMERGE_NOTE,
)
def prumerge(of: Setting, retention: float | None, tokens: int | None) -> Schedule:
    return _of_each(of, retention, tokens, "vision-attention-pairs")


@method(
    *("prumerge-plus", "LLaVA-PruMerge+", "2403.15388", "before"),
    _share(0.25, "share kept; 144 of 576 is the paper's mean"),
    _TOKENS,
    counts="mean",
    note=f"{_PRUMERGE_NOTE} A fourth are outliers, the others stand at equal steps.",
)
def prumerge_plus(of: Setting, retention: float | None, tokens: int | None) -> Schedule:
    return _of_each(of, retention, tokens, "vision-attention-spread")


@method(
    *("tome", "ToMe", "2210.09461", "tower"),
    Parameter("r", "count", "tokens merged in each tower layer, at most half", 16, scales="down"),
    note="Every layer of the tower merges, the last of LLaVA-1.5's included, whose output is not "
    "read. Where features are pooled on a grid, each place gets the token it went into, and the "
    "LLM sees as many as ever; elsewhere those left enter the LLM, from a projector priced for "
    "all places. The tower's saving and its matching are in the total and in the times, not in "
    "the FLOPs of the LLM.",
)
def tome(of: Setting, r: int) -> Schedule:
    if r == 0:
        return Schedule()
    merge = VisionMerge(remove=r)
    if of.group_tokens != of.patches:
        return Schedule(vision_merge=merge)
    left = merge.token_counts(of.group_tokens, of.tower_layers)[-1]
    return Schedule(select=Select(tokens_per_frame=left, by="uniform"), vision_merge=merge)


@method(
    *("visionzip", "VisionZip", "2412.04467", "before"),
    _share(0.25, "share kept, dominant and contextual together"),
    _TOKENS,
    note="10 of 64 are contextual, rounded up, and the class token is not kept. Features are "
    f"merged as they enter the LLM; the released code merges before the projector. {_NO_DEFAULT}",
)
def visionzip(of: Setting, retention: float | None, tokens: int | None) -> Schedule:
    return _of_each(of, retention, tokens, "vision-attention-joined")


@method(
    *("fastervlm", "FasterVLM", "2412.01818", "before"),
    _share(0.25),
    _TOKENS,
    note=f"The paper's first version; its second is VisPruner. {_NO_DEFAULT}",
)
def fastervlm(of: Setting, retention: float | None, tokens: int | None) -> Schedule:
    return _of_each(of, retention, tokens, "vision-attention")


@method(
    *("vispruner", "VisPruner", "2412.01818", "before"),
    _share(0.25, "share kept, half of it important, half diverse"),
    _TOKENS,
    note="The paper's second version. Features are compared as they enter the LLM; the released "
    f"code compares the tower's. {_NO_DEFAULT}",
)
def vispruner(of: Setting, retention: float | None, tokens: int | None) -> Schedule:
    return _of_each(of, retention, tokens, "vision-attention-varied")


@method(
    *("divprune", "DivPrune", "2503.02175", "before"),
    _share(0.25),
    _TOKENS,
    note=f"A token is chosen once; the code may choose one of several equal tokens again. "
    f"{_NO_DEFAULT}",
)
def divprune(of: Setting, retention: float | None, tokens: int | None) -> Schedule:
    del of
    return _of_all(retention, tokens, "pairwise-cosine")


@method(
    *("cdpruner", "CDPruner", "2506.10967", "before"),
    _share(0.25),
    _TOKENS,
    note="A token's relevance is its mean cosine to the text's embeddings in the LLM, as the "
    "released port for models without CLIP's text tower has it; for LLaVA the code takes that "
    f"tower. {_NO_DEFAULT}",
)
def cdpruner(of: Setting, retention: float | None, tokens: int | None) -> Schedule:
    del of
    return _of_all(retention, tokens, "determinantal")


@method(
    *("dycoke", "DyCoke", "2411.15024", "before"),
    Parameter("p", "share", "share dropped of a frame that is like another", 0.7, scales="down"),
    Parameter("loop", "count", "1: what its code keeps; 0: 1 - 0.75 p, as stated", 1, most=1),
    note="The code spares more frames than stated, and takes each second frame's cosines from "
    "the pair before; here they are its own. What it drops from the KV cache in decoding is not "
    "in a prefill.",
    video=True,
)
def dycoke(of: Setting, p: float, loop: int) -> Schedule:
    if not loop:
        return _of_all(1 - 0.75 * p, None, "groups-of-four")
    if of.groups < 5:
        raise ScheduleError(
            "frames", expected="at least 5", got=of.groups, fix="Give more, or take loop=0."
        )
    # every second frame is compared with the one before it (an odd last frame goes), then every
    # fourth from 2 on with that two before it, but for the last four frames
    pairs, fours = of.groups // 2, len(range(0, of.groups - 4, 4))
    whole = pairs - fours
    rest = (pairs + fours) * int((1 - p) * of.group_tokens)
    return Schedule(select=Select(tokens=whole * of.group_tokens + rest, by="groups-of-four-loop"))


@method(
    *("fastvid", "FastVID", "2503.11187", "before"),
    _share(0.25, "share of each frame kept, whole tokens"),
    note="Every frame has its anchors, where its code gives those of four frames to the last. "
    "Attention is that of the tower's layer whose output is read, and frames are compared by "
    "their mean features: its code loads SigLIP's pooling head for both.",
    video=True,
)
def fastvid(of: Setting, retention: float) -> Schedule:
    return _per_frame(of, retention, "vision-attention-dense")


@method(
    *("vidcom2", "VidCom2", "2505.14454", "before"),
    _share(0.25, "mean share of a frame kept"),
    note="Frames share the budget unevenly, by their content; their sum is fixed here, while the "
    "code rounds frame by frame.",
    video=True,
)
def vidcom2(of: Setting, retention: float) -> Schedule:
    del of
    return _of_all(retention, None, "frame-centres")


@method(
    *("evs", "EVS (vLLM)", "2510.14624", "before"),
    Parameter("q", "share", "share dropped; the first frame stays whole", 0.75, scales="down"),
    video=True,
)
def evs(of: Setting, q: float) -> Schedule:
    kept = max(of.group_tokens, int(of.tokens * (1 - q)))
    return Schedule(select=Select(tokens=kept, by="adjacent-cosine"))
