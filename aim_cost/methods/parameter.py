"""Parameter: one number of a method, with its default, its bounds and what it means."""

from collections.abc import Mapping
from dataclasses import dataclass

from aim_cost.checks import integral, numbers, one_of, sequence, whole
from aim_cost.errors import ScheduleError

KINDS = ("share", "count", "layer", "layers")
SHARE_STEPS = 10_000
"""Steps in which a share is scaled to a budget: 0.0001 each."""

Value = int | float | tuple[int, ...] | None


@dataclass(frozen=True)
class Parameter:
    """One number of a method.

    Args:
        kind: ``share``, 0 to 1; ``count``, a whole number; ``layer``, 0-based, at least 1;
            ``layers``, several, rising.
        meaning: what it is, in a phrase.
        default: a value; or values by the depth of the LLM, ``{32: 16}``, which other depths
            scale from the nearest one; None where nothing is meant until it is given.
        scales: ``up`` or ``down`` where this is what a budget scales: the way tokens go when it
            rises.
        least, most: bounds of a count or a share; most None is 1 for a share, else no bound.
        replaces: name of the parameter that has no say once this one is given.
    """

    name: str
    kind: str
    meaning: str
    default: Value | Mapping[int, Value] = None
    scales: str = ""
    least: int = 0
    most: float | None = None
    replaces: str = ""

    def default_for(self, layers: int) -> Value:
        """The default for an LLM of ``layers`` layers."""
        if not isinstance(self.default, Mapping):
            return self.default
        depth = min(self.default, key=lambda known: (abs(known - layers), known))
        value = self.default[depth]
        if isinstance(value, tuple):
            return tuple(round(layer * layers / depth) for layer in value)
        assert value is not None
        return round(value * layers / depth)

    def checked(self, value: object, where: str, layers: int) -> Value:
        """``value`` if it is one of this parameter's, for ``layers`` layers; else ScheduleError."""
        if value is None and self.default is None:
            return None
        if self.kind == "layers":
            listed = tuple(_layer(v, where, layers) for v in sequence(value, where, ScheduleError))
            if not listed or list(listed) != sorted(set(listed)):
                raise ScheduleError(where, expected="rising layers", got=value, fix="E.g. 7/14/21.")
            return listed
        if self.kind == "layer":
            return _layer(value, where, layers)
        if self.kind == "share":
            return self._share(value, where)
        count = whole(value, where, ScheduleError, at_least=self.least)
        if self.most is not None and count > self.most:
            raise ScheduleError(
                where, expected=f"at most {self.most}", got=count, fix=f"Correct {where}."
            )
        return count

    def _share(self, value: object, where: str) -> float:
        most = 1 if self.most is None else self.most
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most:
            return value
        raise ScheduleError(
            where, expected=f"a number from 0 to {most:g}", got=value, fix=f"It is: {self.meaning}."
        )

    def parse(self, text: str, where: str) -> Value:
        """Read ``0.25``, ``16`` or ``7/14/21``. Raises: ScheduleError."""
        form = {"share": "a share such as 0.25", "layers": "layers such as 7/14/21"}
        given = numbers(
            text.replace("/", ","), where, form.get(self.kind, "a whole number"), ScheduleError
        )
        if self.kind == "layers":
            return tuple(integral(n, where, ScheduleError) for n in given)
        if len(given) != 1:
            raise ScheduleError(where, expected="one number", got=text, fix=f"Correct {where}.")
        return given[0] if self.kind == "share" else integral(given[0], where, ScheduleError)

    def steps(self, layers: int, tokens: int) -> list[Value]:
        """All values that a budget may choose, fewest tokens first.

        Args: layers of the LLM; tokens of a frame, which bound a count without a bound.
        """
        one_of(self.scales, ("up", "down"), f"{self.name}.scales", ScheduleError)
        if self.kind == "share":
            last = round(SHARE_STEPS * (1 if self.most is None else self.most))
            values: list[Value] = [step / SHARE_STEPS for step in range(last + 1)]
        elif self.kind == "layer":
            values = list(range(1, layers + 1))
        else:
            values = list(range(self.least, int(self.most or tokens) + 1))
        return values if self.scales == "up" else values[::-1]

    def shown(self) -> str:
        """The default as text: ``16 of 32`` where it depends on the depth of the LLM."""
        if isinstance(self.default, Mapping):
            depths = (f"{show_value(v)} of {depth}" for depth, v in self.default.items())
            return " or ".join(depths)
        return show_value(self.default)


def show_value(value: Value) -> str:
    """What ``Parameter.parse`` reads; ``-`` for None."""
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return "/".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _layer(value: object, where: str, layers: int) -> int:
    layer = whole(value, where, ScheduleError)
    if layer > layers:
        raise ScheduleError(
            where,
            expected=f"a layer up to {layers}, the depth of the model",
            got=layer,
            fix="Choose an earlier one.",
        )
    return layer
