"""The methods by name, and the reader of names and parameters."""

from dataclasses import replace
from pathlib import Path

from aim_cost.checks import one_of
from aim_cost.errors import ScheduleError
from aim_cost.methods import baselines, before, both, inside
from aim_cost.methods.code import method_from_code
from aim_cost.methods.method import Method, Request, Setting
from aim_cost.methods.parameter import Parameter
from aim_cost.schedules.schedule import Schedule

METHODS: dict[str, Method] = {
    made.name: made
    for module in (both, inside, before, baselines)
    for made in vars(module).values()
    if isinstance(made, Method)
}
"""Those that reduce before and inside the LLM first, then inside, then before, then baselines."""

ALIASES = {
    "pdrop": "pyramiddrop",
    "prumerge+": "prumerge-plus",
    "llava-prumerge": "prumerge",
    "downsampling": "uniform",
}

_FILES = (".yaml", ".yml", ".json")
_CODE = ".py"
_ALL = "all"


def get_method(name: str) -> Method:
    """The method of that name or alias. Raises ScheduleError that lists the names."""
    return METHODS[one_of(ALIASES.get(name, name), METHODS, "method", ScheduleError)]


def parse_methods(text: str) -> list[Request]:
    """Read ``aim,fastv:k=3:r=0.75,mine.yaml``, or ``all``. Raises: ScheduleError.

    A parameter follows a colon; several layers have slashes between them. A schedule file is a
    method named after the file; a Python file is run, and holds a ``@method`` of its own. ``all``
    means the methods that are not named beside it: ``all,fastv:k=3`` has each once.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ScheduleError(
            "--methods", expected="names", got="none", fix=f"Known: {_ALL}, {', '.join(METHODS)}."
        )
    named = [_parse(word) for word in words if word != _ALL]
    if _ALL not in words:
        return named
    beside = {request.method.name for request in named}
    others = [Request(made) for name, made in METHODS.items() if name not in beside]
    return [*others, *named]


def _parse(word: str) -> Request:
    name, *parts = word.split(":")
    if name.endswith(_CODE):
        found = method_from_code(name)
    else:
        found = method_from_file(name) if name.endswith(_FILES) else get_method(name)
    given = {}
    for part in parts:
        key, _, value = part.partition("=")
        where = f"{found.name}.{key}"
        given[key] = found.parameter(key).parse(value, where)
    return Request(found, given)


def method_from_file(path: str | Path) -> Method:
    """A schedule file as a method; the retention in it, if any, is a parameter.

    Raises: ScheduleError.
    """
    loaded = Schedule.load(path)
    part = next((p for p in (loaded.merge, loaded.select) if p and p.retention is not None), None)
    parameters: tuple[Parameter, ...] = ()
    if part is not None:
        share = part.retention
        parameters = (Parameter("retention", "share", "as in the file", share, scales="up"),)

    def build(of: Setting, retention: float | None = None) -> Schedule:
        del of
        if retention is None:
            return loaded
        if loaded.merge is not None and loaded.merge is part:
            return replace(loaded, merge=replace(loaded.merge, retention=retention))
        assert loaded.select is not None
        return replace(loaded, select=replace(loaded.select, retention=retention))

    before = loaded.merge or loaded.select or not loaded.vision_merge
    where = "both" if loaded.prune and part else "inside" if loaded.prune else "before"
    where = where if loaded.prune or before else "tower"
    return Method(Path(path).stem, str(path), None, where, parameters, build, verified="unverified")
