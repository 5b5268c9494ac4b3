"""Prune: how many visual tokens are left after each decoder layer."""

from dataclasses import dataclass, replace
from typing import TypeVar

from aim_cost.checks import choices, integral, numbers, one_of, ratio, sequence, whole
from aim_cost.errors import ScheduleError
from aim_cost.graph.scores import LAYER_SCORES

DROP_POINTS = ("layer", "after_attention")

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class Prune:
    """How many visual tokens are left after each decoder layer; exactly one field says it.

    Args:
        linear: (l1, l2): all tokens up to layer l1 - 1, then ``1 - (l - l1 + 1) / (l2 - l1)``
            after layer l, floored at 0, of the visual tokens entering the LLM. AIM's default is
            (14, 22).
        ratios: the same ratio after each layer, first to last, never rising; layers beyond the
            list keep its last ratio.
        tokens: visual tokens after each layer, likewise.
        importance: how they are ranked, a name of LAYER_SCORES.
        drop_point: ``layer``, tokens leave between layers, as AIM's do; ``after_attention``: what a
            layer drops skips its output projection and its MLP.
        inject_at: visual tokens enter at this layer; the layers before it see text alone.
    The count after layer l holds from layer l + 1 on. Raises: ScheduleError.
    """

    linear: tuple[int, int] | None = None
    ratios: tuple[float, ...] | None = None
    tokens: tuple[int, ...] | None = None
    importance: str = "pagerank"
    drop_point: str = "layer"
    inject_at: int = 0

    def __post_init__(self) -> None:
        given = [n for n in ("linear", "ratios", "tokens") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ScheduleError(
                "prune",
                expected="exactly one of linear, ratios, tokens",
                got=", ".join(given) or "none",
                fix="Keep one, e.g. {linear: [14, 22]}.",
            )
        if self.linear is not None:
            self._check_linear()
        for name in ("ratios", "tokens"):
            if getattr(self, name) is not None:
                self._check_falling(name)
        one_of(self.importance, LAYER_SCORES, "prune.importance", ScheduleError)
        one_of(self.drop_point, DROP_POINTS, "prune.drop_point", ScheduleError)
        whole(self.inject_at, "prune.inject_at", ScheduleError, at_least=0)

    def _check_linear(self) -> None:
        linear = sequence(self.linear, "prune.linear", ScheduleError)
        object.__setattr__(self, "linear", linear)
        if len(linear) != 2:
            raise ScheduleError(
                "prune.linear", expected="two layers l1, l2", got=linear, fix="E.g. [14, 22]."
            )
        l1, l2 = (whole(v, "prune.linear", ScheduleError, at_least=0) for v in linear)
        if l1 >= l2:
            raise ScheduleError(
                "prune.linear", expected="l1 < l2", got=f"{l1}, {l2}", fix="E.g. [14, 22]."
            )

    @classmethod
    def at_depth(cls, layers: int, first: float, last: float) -> "Prune":
        """AIM's linear pruning between two shares of the depth of ``layers`` decoder layers.

        14/28 and 22/28 are the paper's, on a model of 28 layers: ``linear:14:22``. The slope takes
        at least two layers, so that there is a layer in which some visual tokens are left.
        """
        start = max(0, min(int(layers * first), layers - 2))
        return cls(linear=(start, max(int(layers * last), start + 2)))

    def _check_falling(self, name: str) -> None:
        values = sequence(getattr(self, name), f"prune.{name}", ScheduleError)
        object.__setattr__(self, name, values)
        if not values:
            raise ScheduleError(
                f"prune.{name}",
                expected="an entry per layer",
                got="none",
                fix="E.g. ratios [1, 0.5, 0].",
            )
        for i, kept in enumerate(values):
            where = f"prune.{name}[{i}]"
            if name == "ratios":
                ratio(kept, where, ScheduleError, zero_allowed=True)
            else:
                whole(kept, where, ScheduleError, at_least=0)
            if i and kept > values[i - 1]:
                raise ScheduleError(
                    where,
                    expected=f"at most {values[i - 1]}, the entry before it",
                    got=kept,
                    fix="A dropped token cannot return: let the numbers fall.",
                )

    def visual_tokens(self, visual: int, text: int, layers: int) -> tuple[int, ...]:
        """Visual tokens left after each of ``layers`` layers, of ``visual`` that enter the LLM.

        Raises: ScheduleError if the schedule does not fit so many layers or tokens.
        """
        if self.tokens is None:
            # N and P as in the official code; (N - P) * ratio + P and P + int(V * ratio) differ
            # in fp64
            kept = tuple(int(visual * r + text) - text for r in self.ratio_after_layer(layers))
        else:
            if self.tokens[0] > visual:
                raise ScheduleError(
                    "prune.tokens[0]",
                    expected=f"at most {visual}, the visual tokens that enter the LLM",
                    got=self.tokens[0],
                    fix="Keep fewer, or reduce less before the LLM.",
                )
            kept = self._per_layer("tokens", self.tokens, layers)
        if self.inject_at >= layers:
            raise ScheduleError(
                "prune.inject_at",
                expected=f"a layer below {layers}, the layers of the model",
                got=self.inject_at,
                fix="Inject earlier.",
            )
        return kept

    def ratio_after_layer(self, layers: int) -> tuple[float, ...]:
        """The retention ratio after each of ``layers`` layers.

        Raises: ScheduleError if the schedule does not fit so many layers.
        """
        if self.ratios is not None:
            return self._per_layer("ratios", self.ratios, layers)
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

    @staticmethod
    def _per_layer(name: str, values: tuple[_Number, ...], layers: int) -> tuple[_Number, ...]:
        if len(values) > layers:
            raise ScheduleError(
                f"prune.{name}",
                expected=f"at most {layers} {name}, one per layer of the model",
                got=len(values),
                fix="Shorten the list.",
            )
        return values + (values[-1],) * (layers - len(values))

    @classmethod
    def parse(cls, text: str) -> "Prune":
        """Read ``linear:14:22``, ``ratios:1,1,0.5,0`` or ``tokens:576,300,110``.

        Words after a slash choose ``importance``, ``drop_point`` and, as ``inject:8``, the layer at
        which visual tokens enter: ``linear:14:22/random/after_attention``. Raises: ScheduleError.
        """
        amount, *words = text.split("/")
        injected = [word for word in words if word.startswith("inject:")]
        kinds = {"importance": LAYER_SCORES, "drop_point": DROP_POINTS}
        rest = [word for word in words if word not in injected]
        fields = choices(rest, kinds, "--prune", ScheduleError)
        for word in injected:
            (layer,) = numbers(word.removeprefix("inject:"), "--prune", "inject:8", ScheduleError)
            fields["inject_at"] = integral(layer, "--prune", ScheduleError)
        return replace(cls._parse_amount(amount), **fields)

    @classmethod
    def _parse_amount(cls, text: str) -> "Prune":
        kind, _, rest = text.partition(":")
        form = "linear:14:22, ratios:1,0.5,0 or tokens:576,300,110"
        if kind == "linear" and rest.count(":") == 1:
            given = numbers(rest.replace(":", ","), "--prune", form, ScheduleError)
            l1, l2 = (integral(n, "--prune", ScheduleError) for n in given)
            return cls(linear=(l1, l2))
        if kind == "ratios":
            return cls(ratios=numbers(rest, "--prune", form, ScheduleError))
        if kind == "tokens":
            given = numbers(rest, "--prune", form, ScheduleError)
            return cls(tokens=tuple(integral(n, "--prune", ScheduleError) for n in given))
        raise ScheduleError("--prune", expected=form, got=text, fix="E.g. --prune linear:14:22.")

    def label(self) -> str:
        """What ``parse`` reads."""
        words = [] if self.importance == "pagerank" else [self.importance]
        words += [] if self.drop_point == "layer" else [self.drop_point]
        words += [f"inject:{self.inject_at}"] if self.inject_at else []
        return "/".join((self._amount(), *words))

    def _amount(self) -> str:
        if self.linear is not None:
            return "linear:{}:{}".format(*self.linear)
        if self.tokens is not None:
            return "tokens:" + ",".join(map(str, self.tokens))
        assert self.ratios is not None
        return "ratios:" + ",".join(repr(float(r)).removesuffix(".0") for r in self.ratios)
