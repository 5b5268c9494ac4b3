"""Prune: how many visual tokens are left after each decoder layer."""

from dataclasses import dataclass

from aim_cost.checks import integral, numbers, ratio, sequence, whole
from aim_cost.errors import ScheduleError


@dataclass(frozen=True)
class Prune:
    """Retention ratio after each decoder layer, of the visual tokens entering the LLM.

    Args:
        linear: (l1, l2): all tokens up to layer l1 - 1, then ``1 - (l - l1 + 1) / (l2 - l1)``
            after layer l, floored at 0. AIM's default is (14, 22).
        ratios: the ratio after each layer, first to last, never rising; layers beyond the list
            keep its last ratio.
    The ratio of layer l takes effect in layer l + 1. Raises: ScheduleError.
    """

    linear: tuple[int, int] | None = None
    ratios: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if (self.linear is None) == (self.ratios is None):
            raise ScheduleError(
                "prune",
                expected="exactly one of linear, ratios",
                got="neither" if self.linear is None else "both",
                fix="Keep one, e.g. {linear: [14, 22]}.",
            )
        if self.linear is not None:
            object.__setattr__(self, "linear", sequence(self.linear, "prune.linear", ScheduleError))
            if len(self.linear) != 2:
                raise ScheduleError(
                    "prune.linear",
                    expected="two layers l1, l2",
                    got=self.linear,
                    fix="E.g. [14, 22].",
                )
            l1, l2 = (whole(v, "prune.linear", ScheduleError, at_least=0) for v in self.linear)
            if l1 >= l2:
                raise ScheduleError(
                    "prune.linear", expected="l1 < l2", got=f"{l1}, {l2}", fix="E.g. [14, 22]."
                )
        if self.ratios is not None:
            object.__setattr__(self, "ratios", sequence(self.ratios, "prune.ratios", ScheduleError))
            if not self.ratios:
                raise ScheduleError(
                    "prune.ratios",
                    expected="a ratio per layer",
                    got="none",
                    fix="E.g. [1, 0.5, 0].",
                )
            previous = 1.0
            for i, kept in enumerate(self.ratios):
                ratio(kept, f"prune.ratios[{i}]", ScheduleError, zero_allowed=True)
                if kept > previous:
                    raise ScheduleError(
                        f"prune.ratios[{i}]",
                        expected=f"at most {previous}, the ratio before it",
                        got=kept,
                        fix="A dropped token cannot return: let the ratios fall.",
                    )
                previous = kept

    def ratio_after_layer(self, layers: int) -> tuple[float, ...]:
        """The retention ratio after each of ``layers`` layers.

        Raises: ScheduleError if the schedule does not fit so many layers.
        """
        if self.ratios is not None:
            if len(self.ratios) > layers:
                raise ScheduleError(
                    "prune.ratios",
                    expected=f"at most {layers} ratios, one per layer of the model",
                    got=len(self.ratios),
                    fix="Shorten the list.",
                )
            return self.ratios + (self.ratios[-1],) * (layers - len(self.ratios))
        assert self.linear is not None
        l1, l2 = self.linear
        if l1 >= layers:
            raise ScheduleError(
                "prune.linear",
                expected=f"l1 below {layers}, the layers of the model",
                got=l1,
                fix="Start pruning earlier, or choose another model.",
            )
        # AIM's float expression: other forms round differently for ratios that are not dyadic
        return tuple(
            1.0 if layer < l1 else max(0.0, 1 - (layer - l1 + 1) / (l2 - l1))
            for layer in range(layers)
        )

    @classmethod
    def parse(cls, text: str) -> "Prune":
        """Read ``linear:14:22`` or ``ratios:1,1,0.5,0``. Raises: ScheduleError."""
        kind, _, rest = text.partition(":")
        form = "linear:14:22 or ratios:1,0.5,0"
        if kind == "linear" and rest.count(":") == 1:
            given = numbers(rest.replace(":", ","), "--prune", form, ScheduleError)
            l1, l2 = (integral(n, "--prune", ScheduleError) for n in given)
            return cls(linear=(l1, l2))
        if kind == "ratios":
            return cls(ratios=numbers(rest, "--prune", form, ScheduleError))
        raise ScheduleError("--prune", expected=form, got=text, fix="E.g. --prune linear:14:22.")

    def label(self) -> str:
        """What ``parse`` reads."""
        if self.linear is not None:
            return "linear:{}:{}".format(*self.linear)
        assert self.ratios is not None
        return "ratios:" + ",".join(repr(float(r)).removesuffix(".0") for r in self.ratios)
