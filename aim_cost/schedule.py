"""Schedule: how visual tokens are merged before the LLM and pruned inside it.

``Schedule.resolve`` is the only place where ratios become integers.
Source: AIM, arXiv 2412.03248, as its released code behaves.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from aim_cost.checks import mapping
from aim_cost.errors import ScheduleError
from aim_cost.files import write_atomically
from aim_cost.merge import Merge
from aim_cost.model import ModelSpec
from aim_cost.prune import Prune
from aim_cost.trace import TokenTrace
from aim_cost.workload import VisualInput, Workload


@dataclass(frozen=True)
class TokenRule:
    """How a convention turns a schedule into counts.

    Args:
        counts_newline: a video's newline token is a visual token.
        layer_delay: layers between a ratio and its effect: 1 as executed, 0 in published tables.
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
            layer for layer, (now, then) in enumerate(pairwise(tokens)) if text_tokens < then < now
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
        """Read the short forms of the command line: see ``Merge.parse`` and ``Prune.parse``."""
        return cls(Merge.parse(merge) if merge else None, Prune.parse(prune) if prune else None)

    def label(self) -> str:
        """The short forms in one line, e.g. ``merge 0.25, prune linear:14:22``; or ``none``."""
        parts = (("merge", self.merge), ("prune", self.prune))
        return ", ".join(f"{name} {part.label()}" for name, part in parts if part) or "none"


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
