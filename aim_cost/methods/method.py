"""Method: a published way to reduce visual tokens, as a function that gives a Schedule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aim_cost.errors import ScheduleError
from aim_cost.methods.parameter import Parameter, Value
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Workload
from aim_cost.schedules.executed import why_not_run
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.schedule import Schedule

WHERE = ("before", "inside", "both", "tower")
"""Where a method reduces tokens: before the LLM, inside it, both, or in the vision tower."""

COUNTS = {
    "static": "the counts follow from the parameters",
    "mean": "the counts depend on the video; these are means",
    "assumed": "the paper's own counts are not at hand; these have their form",
}
COUNT_MARKS = {"static": "", "mean": "*", "assumed": "**"}
"""Marks next to names in tables."""

VERIFIED = ("code", "paper", "unverified")


@dataclass(frozen=True)
class Setting:
    """The model and the visual tokens that a method is applied to.

    Args:
        layers: of the LLM; tower_layers: of the vision tower.
        groups: frames or crops of one prompt, ``group_tokens`` visual tokens each.
        group_frames: frames of a group: two in Qwen's towers, else one.
        patches: of a group in the vision tower; as many as ``group_tokens`` where none are pooled.
    """

    layers: int
    tower_layers: int
    groups: int
    group_tokens: int
    patches: int
    group_frames: int = 1

    @property
    def tokens(self) -> int:
        return self.groups * self.group_tokens


_REFERENCE = Setting(layers=28, tower_layers=26, groups=32, group_tokens=196, patches=729)
"""LLaVA-OneVision-7B on 32 frames, for what a method shows without another setting."""


@dataclass(frozen=True)
class Method:
    """A published method, a baseline, or a user's own schedule.

    Args:
        arxiv: the paper; None for baselines and a user's own.
        where: one of WHERE.
        build: (setting, **parameters) -> Schedule; ScheduleError where the two do not fit.
        counts: one of COUNTS.
        verified: what the counts were read from, one of VERIFIED.
        note: what is approximated or left out.
        video: whether it compares frames and so needs a video.
    """

    name: str
    title: str
    arxiv: str | None
    where: str
    parameters: tuple[Parameter, ...]
    build: Callable[..., Schedule]
    counts: str = "static"
    verified: str = "code"
    note: str = ""
    video: bool = False

    @property
    def source(self) -> str:
        """The source that its schedule was read from."""
        return f"arXiv {self.arxiv}, {self.verified}" if self.arxiv else self.title

    @property
    def scoring(self) -> tuple[str, ...]:
        """Names of VISUAL_SCORES or MERGE_KINDS, then of LAYER_SCORES, that it ranks tokens by."""
        made = self._example
        names = [Merge.by] if made.vision_merge is not None else []
        names += [part.by for part in (made.merge, made.select) if part is not None]
        return (*names, *([made.prune.importance] if made.prune is not None else []))

    @property
    def runs(self) -> bool:
        """Whether ``aim_runtime`` runs it, with its default parameters."""
        return not self.why_not_run

    @property
    def why_not_run(self) -> str:
        """Why ``aim_runtime`` does not run it, with its default parameters; empty where it does."""
        found = why_not_run(self._example)
        return found.reason if found else ""

    @property
    def _example(self) -> Schedule:
        """Its schedule with the defaults, on a model of ordinary size."""
        defaults = {p.name: p.default_for(_REFERENCE.layers) for p in self.parameters}
        return self.build(_REFERENCE, **defaults)

    @property
    def scale(self) -> Parameter | None:
        """The parameter that a budget scales."""
        return next((p for p in self.parameters if p.scales), None)

    def parameter(self, name: str) -> Parameter:
        """The parameter of that name. Raises: ScheduleError that lists them."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        known = ", ".join(p.name for p in self.parameters) or "none"
        raise ScheduleError(
            f"{self.name}.{name}", expected="a parameter", got=name, fix=f"Known: {known}."
        )

    def check(self, model: ModelSpec, given: Mapping[str, object]) -> None:
        """Whether these are parameters of the method, and fit ``model``. Raises: ScheduleError."""
        for name, value in given.items():
            parameter = self.parameter(name)
            if parameter.replaces in given:
                raise ScheduleError(
                    f"{self.name}.{name}",
                    expected=f"no {parameter.replaces} beside it",
                    got=f"both {name} and {parameter.replaces}",
                    fix="Give one of the two.",
                )
            parameter.checked(value, f"{self.name}.{name}", model.text.num_hidden_layers)

    def values(self, model: ModelSpec, given: Mapping[str, object]) -> dict[str, Value]:
        """All parameters: those given, and defaults for ``model``. Raises: ScheduleError."""
        self.check(model, given)
        replaced = {self.parameter(name).replaces for name in given}
        layers = model.text.num_hidden_layers
        values: dict[str, Value] = {}
        for p in self.parameters:
            value = given.get(p.name, p.default_for(layers))
            where = f"{self.name}.{p.name}"
            values[p.name] = None if p.name in replaced else p.checked(value, where, layers)
        return values

    def schedule(self, model: ModelSpec, workload: Workload, **parameters: object) -> Schedule:
        """The method as a Schedule; parameters left out take their defaults for ``model``.

        Raises: ScheduleError, SpecError where parameters, model and workload do not fit.
        """
        values = self.values(model, parameters)
        if self.video and workload.frames is None:
            raise ScheduleError(
                "workload",
                expected=f"a video, {self.name} compares its frames",
                got="an image",
                fix="Give frames, or choose another method.",
            )
        visual, sized = workload.visual_input(model), workload.sized(model)
        if visual.others:
            raise ScheduleError(
                "workload",
                expected="frames or crops of one size, which methods are stated for",
                got=workload.label(),
                fix="Give image_tokens, or a Schedule of your own.",
            )
        setting = Setting(
            model.text.num_hidden_layers,
            sized.vision.num_hidden_layers,
            visual.groups,
            visual.group_tokens,
            sized.vision.patches,
            model.group_frames,
        )
        return self.build(setting, **values)


@dataclass(frozen=True)
class Request:
    """A method with the parameters that a user gave; the others take their defaults."""

    method: Method
    given: Mapping[str, Value] = field(default_factory=dict)


def method(
    name: str,
    title: str,
    arxiv: str | None,
    where: str,
    *parameters: Parameter,
    counts: str = "static",
    verified: str = "code",
    note: str = "",
    video: bool = False,
) -> Callable[[Callable[..., Schedule]], Method]:
    """Turn a function (setting, **parameters) -> Schedule into a Method of its module."""

    def made(build: Callable[..., Schedule]) -> Method:
        return Method(name, title, arxiv, where, parameters, build, counts, verified, note, video)

    return made


def shares_from(shares: Mapping[int, float]) -> tuple[float, ...]:
    """``Prune.ratios`` such that from layer k on ``shares[k]`` of the tokens enter, 1 before it."""
    kept, ratios = 1.0, []
    for layer in range(1, max(shares) + 1):
        kept = shares.get(layer, kept)
        ratios.append(kept)
    return tuple(ratios)
