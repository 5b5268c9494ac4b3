"""Prune: how many visual tokens are left after each decoder layer."""

from dataclasses import dataclass
from typing import ClassVar, TypeVar

from aim_cost.checks import one_of, ratio, sequence, whole
from aim_cost.errors import ScheduleError
from aim_cost.ops.score import LISTED_BY
from aim_cost.ops.scores import LAYER_SCORES
from aim_cost.schedules.language import Amount, Numbers, OneOf, Part, Word

_DROP = {
    "layer": "tokens leave between two layers, as AIM's do",
    "after_attention": "tokens leave inside the layer, before its output projection and its MLP",
}
DROP_POINTS = tuple(_DROP)

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class Prune(Part):
    """How many visual tokens are left after each decoder layer; exactly one field says how many.

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

    AMOUNTS: ClassVar = (
        Amount(
            "linear",
            "linear",
            Numbers("14:22", between=":"),
            "the share left falls in equal steps, from all before the first layer to none where "
            "the second begins",
        ),
        Amount(
            "ratios",
            "ratios",
            Numbers("1,0.5,0", whole=False, between=","),
            "this share of the visual tokens is left after each layer, the last for all further "
            "layers",
        ),
        Amount(
            "layers",
            "tokens",
            Numbers("576,300,110", between=","),
            "so many visual tokens are left after each layer, the last for all further layers",
            formerly="tokens",
        ),
    )
    WORDS: ClassVar = (
        Word(
            "score",
            "importance",
            OneOf(LAYER_SCORES.summaries, LISTED_BY),
            "how the tokens are ranked",
        ),
        Word("drop", "drop_point", OneOf(_DROP), "where in a layer tokens leave"),
        Word("inject", "inject_at", Numbers("8"), "the layer at which visual tokens enter the LLM"),
    )

    def __post_init__(self) -> None:
        self._require_one_amount("{linear: [14, 22]}")
        if self.linear is not None:
            self._check_linear()
        for name in ("ratios", "tokens"):
            if getattr(self, name) is not None:
                self._check_falling(name)
        one_of(self.importance, LAYER_SCORES, "prune.importance", ScheduleError)
        one_of(self.drop_point, DROP_POINTS, "prune.drop_point", ScheduleError)
        if self.drop_point == "after_attention" and LAYER_SCORES[self.importance].whole_layer:
            raise ScheduleError(
                "prune.drop_point",
                expected=f"layer with {self.importance}, which ranks by what leaves the layer",
                got=self.drop_point,
                fix="Leave it out, or take another score.",
            )
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

    @property
    def ranks(self) -> bool:
        """Whether tokens may be ranked: False where no layer can keep some and drop others."""
        if self.linear is not None:
            return self.linear[1] - self.linear[0] > 1
        if self.ratios is not None:
            return any(0 < ratio < 1 for ratio in self.ratios)
        return any(self.tokens or ())

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
