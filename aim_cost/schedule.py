"""Schedule: how visual tokens are merged before the LLM and pruned inside it.

``Schedule.resolve`` is the only place where ratios become integers.
Source: AIM, arXiv 2412.03248, as its released code behaves.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aim_cost.checks import mapping, whole
from aim_cost.errors import ScheduleError
from aim_cost.files import write_atomically
from aim_cost.model import ModelSpec
from aim_cost.trace import TokenTrace
from aim_cost.workload import VisualInput, Workload


@dataclass(frozen=True)
class Merge:
    """Bipartite merging of each frame's tokens; exactly one field says how far.

    Args:
        retention: keep ``int(tokens * retention)`` of each frame's tokens, 0 < retention <= 1.
        tokens_per_frame: keep this many.
        passes: tokens left after each pass, e.g. (98, 49, 25).
    A pass removes at most half of the tokens, so the first two are reached by halving passes and
    one partial pass. Raises: ScheduleError.
    """

    retention: float | None = None
    tokens_per_frame: int | None = None
    passes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        given = [
            n for n in ("retention", "tokens_per_frame", "passes") if getattr(self, n) is not None
        ]
        if len(given) != 1:
            raise ScheduleError(
                "merge",
                expected="exactly one of retention, tokens_per_frame, passes",
                got=", ".join(given) or "none",
                fix="Keep one, e.g. {retention: 0.25}.",
            )
        if self.retention is not None:
            _ratio(self.retention, "merge.retention", zero_allowed=False)
        if self.tokens_per_frame is not None:
            whole(self.tokens_per_frame, "merge.tokens_per_frame", ScheduleError)
        if self.passes is not None:
            object.__setattr__(self, "passes", _sequence(self.passes, "merge.passes"))
            for i, left in enumerate(self.passes):
                whole(left, f"merge.passes[{i}]", ScheduleError)

    def token_counts(self, tokens: int) -> tuple[int, ...]:
        """Tokens of one frame before merging and after each pass. Raises ScheduleError."""
        counts = [tokens]
        if self.passes is not None:
            for i, left in enumerate(self.passes):
                before = counts[-1]
                if not before - before // 2 <= left < before:
                    raise ScheduleError(
                        f"merge.passes[{i}]",
                        expected=f"{before - before // 2} to {before - 1} of {before} tokens "
                        "(one pass removes at most half)",
                        got=left,
                        fix="Insert a pass before it, or keep more.",
                    )
                counts.append(left)
            return tuple(counts)
        if self.tokens_per_frame is not None:
            target = self.tokens_per_frame
        else:
            assert self.retention is not None
            target = int(tokens * self.retention)
        if not 1 <= target <= tokens:
            raise ScheduleError(
                "merge",
                expected=f"1 to {tokens} tokens kept of {tokens}",
                got=target,
                fix="Change the retention ratio or the count.",
            )
        while counts[-1] > target:
            counts.append(max(target, counts[-1] - counts[-1] // 2))
        return tuple(counts)


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
            object.__setattr__(self, "linear", _sequence(self.linear, "prune.linear"))
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
            object.__setattr__(self, "ratios", _sequence(self.ratios, "prune.ratios"))
            if not self.ratios:
                raise ScheduleError(
                    "prune.ratios",
                    expected="a ratio per layer",
                    got="none",
                    fix="E.g. [1, 0.5, 0].",
                )
            previous = 1.0
            for i, ratio in enumerate(self.ratios):
                _ratio(ratio, f"prune.ratios[{i}]", zero_allowed=True)
                if ratio > previous:
                    raise ScheduleError(
                        f"prune.ratios[{i}]",
                        expected=f"at most {previous}, the ratio before it",
                        got=ratio,
                        fix="A dropped token cannot return: let the ratios fall.",
                    )
                previous = ratio

    def ratio_after_layer(self, layers: int) -> tuple[float, ...]:
        """The retention ratio after each of ``layers`` layers. Raises ScheduleError if they do not fit."""
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


@dataclass(frozen=True)
class TokenRule:
    """How a convention turns a schedule into counts.

    Args:
        counts_newline: a video's newline token is a visual token.
        layer_delay: layers between a ratio and its effect: 1 as executed, 0 in the published tables.
    """

    counts_newline: bool = True
    layer_delay: int = 1


EXECUTED_RULE = TokenRule()


@dataclass(frozen=True)
class Schedule:
    """Merging before the LLM and pruning inside it; ``Schedule()`` reduces nothing."""

    merge: Merge | None = None
    prune: Prune | None = None

    def resolve(
        self, model: ModelSpec, workload: Workload, rule: TokenRule = EXECUTED_RULE
    ) -> TokenTrace:
        """Turn ratios into the token counts of every layer.

        Raises: ScheduleError or SpecError when schedule, model and workload do not fit.
        """
        return self.resolve_visual(
            workload.visual_input(model),
            text_tokens=workload.text_tokens,
            layers=model.text.num_hidden_layers,
            batch=workload.batch,
            rule=rule,
        )

    def resolve_visual(
        self,
        visual: VisualInput,
        *,
        text_tokens: int,
        layers: int,
        batch: int = 1,
        rule: TokenRule = EXECUTED_RULE,
    ) -> TokenTrace:
        """``resolve`` for visual tokens of any origin, e.g. embeddings given to a bare LLM."""
        merge_tokens = (
            self.merge.token_counts(visual.group_tokens) if self.merge else (visual.group_tokens,)
        )
        newline = visual.newline_tokens if rule.counts_newline else 0
        total = visual.groups * merge_tokens[-1] + newline + text_tokens
        ratios = self.prune.ratio_after_layer(layers) if self.prune else (1.0,) * layers
        # N and P as in the official code; (N - P) * ratio + P and P + int(V * ratio) differ in fp64
        after = tuple(int((total - text_tokens) * ratio + text_tokens) for ratio in ratios)
        tokens = ((total,) * rule.layer_delay + after)[:layers]
        scored = tuple(
            layer
            for layer, (now, then) in enumerate(zip(tokens, tokens[1:], strict=False))
            if text_tokens < then < now
        )
        return TokenTrace(
            batch=batch,
            groups=visual.groups,
            merge_tokens=merge_tokens,
            newline_tokens=newline,
            text_tokens=text_tokens,
            attention_tokens=tokens,
            mlp_tokens=tokens,
            scored_layers=scored,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as written to YAML and JSON; parts that reduce nothing are left out."""
        parts = (("merge", self.merge), ("prune", self.prune))
        return {
            name: {k: _plain(v) for k, v in vars(part).items() if v is not None}
            for name, part in parts
            if part is not None
        }

    @classmethod
    def from_dict(cls, data: object, *, where: str = "schedule") -> "Schedule":
        """The inverse of ``to_dict``. Raises: ScheduleError that names the key."""
        given = mapping(data, where, ScheduleError, keys=("merge", "prune"))
        parts: dict[str, Any] = {}
        for name, kind in (("merge", Merge), ("prune", Prune)):
            if given.get(name) is not None:
                valid = kind.__dataclass_fields__
                fields = mapping(given[name], f"{where}.{name}", ScheduleError, keys=valid)
                parts[name] = kind(**fields)
        return cls(**parts)

    @classmethod
    def load(cls, path: str | Path) -> "Schedule":
        """Read a YAML or JSON file. Raises: ScheduleError."""
        try:
            # JSON is YAML, but for numbers such as 1e-1, which YAML 1.1 reads as text
            text = Path(path).read_text(encoding="utf-8")
            data = json.loads(text) if Path(path).suffix == ".json" else yaml.safe_load(text)
        except OSError as error:
            raise ScheduleError(
                str(path), expected="a readable file", got=str(error), fix="Check the path."
            ) from error
        except (yaml.YAMLError, ValueError) as error:
            got = " ".join(str(error).split())
            raise ScheduleError(
                str(path), expected="valid YAML or JSON", got=got, fix="Correct the file."
            ) from error
        return cls.from_dict({} if data is None else data, where=str(path))

    def save(self, path: str | Path) -> None:
        """Write YAML, or JSON where the name ends so."""
        data = self.to_dict()
        text = (
            json.dumps(data, indent=2) + "\n"
            if Path(path).suffix == ".json"
            else yaml.safe_dump(data, sort_keys=False)
        )
        write_atomically(path, text.encode())

    @classmethod
    def parse(cls, merge: str | None = None, prune: str | None = None) -> "Schedule":
        """Read the short forms of the command line.

        Args:
            merge: ``0.25`` (retention ratio), ``tokens:24`` or ``passes:98,49,25``.
            prune: ``linear:14:22`` or ``ratios:1,1,0.5,0``.
        Raises: ScheduleError.
        """
        return cls(_parse_merge(merge) if merge else None, _parse_prune(prune) if prune else None)

    def label(self) -> str:
        """The short form in one line, e.g. ``merge 0.25, prune linear:14:22``; ``none``."""
        parts = []
        if self.merge:
            parts.append(f"merge {_short(self.merge, {'tokens_per_frame': 'tokens:'})}")
        if self.prune:
            parts.append(f"prune {_short(self.prune, {})}")
        return ", ".join(parts) or "none"


def _parse_merge(text: str) -> Merge:
    kind, _, rest = text.rpartition(":")
    numbers = _numbers(rest, "--merge", "0.25, tokens:24 or passes:98,49,25")
    if kind == "passes":
        return Merge(passes=tuple(_integral(n) for n in numbers))
    if len(numbers) == 1 and kind == "tokens":
        return Merge(tokens_per_frame=_integral(numbers[0]))
    if len(numbers) == 1 and kind in ("", "retention"):
        return Merge(retention=numbers[0])
    raise ScheduleError(
        "--merge", expected="a ratio, tokens:N or passes:N,N", got=text, fix="E.g. --merge 0.25."
    )


def _parse_prune(text: str) -> Prune:
    kind, _, rest = text.partition(":")
    form = "linear:14:22 or ratios:1,0.5,0"
    if kind == "linear":
        numbers = _numbers(rest.replace(":", ","), "--prune", form)
        return Prune(linear=tuple(_integral(n) for n in numbers))  # type: ignore[arg-type]
    if kind == "ratios":
        return Prune(ratios=_numbers(rest, "--prune", form))
    raise ScheduleError("--prune", expected=form, got=text, fix="E.g. --prune linear:14:22.")


def _numbers(text: str, where: str, form: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ScheduleError(
            where, expected=form, got=text or "nothing", fix="Use one form."
        ) from error


def _integral(number: float) -> int | float:
    """An int where the text was one; anything else is left for the checks to refuse."""
    return int(number) if number.is_integer() else number


def _ratio(value: object, where: str, *, zero_allowed: bool) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and math.isfinite(value) and 0 <= value <= 1 and (zero_allowed or value > 0):
        return
    interval = "[0, 1]" if zero_allowed else "(0, 1]"
    raise ScheduleError(
        where, expected=f"a ratio in {interval}", got=value, fix="It is the share that is kept."
    )


def _sequence(value: object, where: str) -> tuple[Any, ...]:
    if isinstance(value, list | tuple):
        return tuple(value)
    raise ScheduleError(where, expected="a list", got=value, fix="Write it as [a, b, ...].")


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _short(part: Merge | Prune, names: Mapping[str, str]) -> str:
    (name, value), *_ = ((k, v) for k, v in vars(part).items() if v is not None)
    if name == "retention":
        return f"{value:g}"
    separator = ":" if name == "linear" else ","
    items = value if isinstance(value, tuple) else (value,)
    return names.get(name, f"{name}:") + separator.join(f"{item:g}" for item in items)
