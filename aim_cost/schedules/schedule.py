"""Schedule: how visual tokens are reduced in the vision tower, before the LLM and inside it.

``Schedule.resolve`` is the only place where ratios become integers.
Source: AIM, arXiv 2412.03248, as its released code behaves.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from aim_cost.checks import mapping, whole
from aim_cost.errors import ScheduleError, SpecError
from aim_cost.files import write_atomically
from aim_cost.files.tree import read_tree
from aim_cost.files.yaml_text import yaml_text
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import VisualInput, Workload
from aim_cost.schedules.language import Piece, nearest
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.sample import Sample
from aim_cost.schedules.select import Select
from aim_cost.schedules.trace import TokenTrace
from aim_cost.schedules.vision_merge import VisionMerge


@dataclass(frozen=True)
class TokenRule:
    """How a convention turns a schedule into counts.

    Args:
        counts_newline: a video's newline token is a visual token.
        layer_delay: layers between a ratio and its effect: 1 as executed, 0 in AIM's tables.
        least_text_tokens: of a prompt: the last one, never dropped, gives the logits.
    """

    counts_newline: bool = True
    layer_delay: int = 1
    least_text_tokens: int = 1


EXECUTED_RULE = TokenRule()


@dataclass(frozen=True)
class Schedule:
    """Merging or selecting before the LLM and pruning inside it; ``Schedule()`` reduces nothing.

    AIM merges and prunes; ``select``, ``vision_merge`` inside the vision tower, and scores other
    than its own, are other methods'. ``sample``, fewer frames, is what all have to beat.
    """

    merge: Merge | None = None
    prune: Prune | None = None
    select: Select | None = None
    vision_merge: VisionMerge | None = None
    sample: Sample | None = None

    @property
    def shortens_prompts(self) -> bool:
        """Whether fewer visual tokens may enter the LLM than the caller's prompt has."""
        return any(part is not None for part in (self.sample, self.merge, self.select))

    def seen(self, workload: Workload) -> Workload:
        """What the vision tower sees of a workload. Raises: ScheduleError."""
        return workload if self.sample is None else self.sample.sampled(workload)

    def resolve(
        self, model: ModelSpec, workload: Workload, rule: TokenRule = EXECUTED_RULE
    ) -> TokenTrace:
        """Turn ratios into the token counts of every layer.

        Raises: ScheduleError or SpecError when schedule, model and workload do not fit.
        """
        whole(
            workload.text_tokens,
            "text_tokens",
            SpecError,
            at_least=rule.least_text_tokens,
            fix="Give the text; only conventions that count multiply-adds take none.",
        )
        workload = self.seen(workload)
        if self.select is not None and workload.frames is None:
            self.select.check_images()
        trace = self.resolve_visual(
            workload.visual_input(model),
            text_tokens=workload.text_tokens,
            layers=model.text.num_hidden_layers,
            batch=workload.batch,
            rule=rule,
        )
        if self.vision_merge is None:
            return trace
        return replace(
            trace,
            tower_tokens=self.vision_merge.tower_tokens(workload.sized(model).vision),
            tower_attention=self.vision_merge.attention,
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
        """``resolve`` for visual tokens of any origin, e.g. embeddings given to a bare LLM.

        They are those that are left after ``sample``. What ``vision_merge`` did to them is not in
        the trace: it leaves their number as it was.
        """
        merge_tokens = (
            self.merge.token_counts(visual.group_tokens) if self.merge else (visual.group_tokens,)
        )
        others = tuple(
            (groups, self.merge.other_counts(tokens) if self.merge else (tokens,))
            for groups, tokens in visual.others
        )
        newline = visual.newline_tokens if rule.counts_newline else 0
        left = {counts[0]: counts[-1] for counts in (merge_tokens, *(c for _, c in others))}
        items = [[(groups, left[tokens]) for groups, tokens in item] for item in visual.items]
        ranked = self.select.ranked(items) if self.select else ()
        selected = tuple(part for item in ranked for part in item)
        if self.select:
            sent = sum(part.sets * part.kept for part in selected)
        else:
            sent = sum(groups * tokens for item in items for groups, tokens in item)
        tokens, mlp_tokens = self._layer_tokens(sent + newline, text_tokens, layers, rule)
        prune = self.prune or _KEEP_ALL
        after = mlp_tokens if prune.drop_point == "after_attention" else tokens[1:]
        scored = tuple(
            layer
            for layer, (now, then) in enumerate(zip(tokens, after, strict=False))
            if text_tokens < then < now
        )
        return TokenTrace(
            batch=batch,
            groups=visual.groups,
            merge_tokens=merge_tokens,
            newline_tokens=newline,
            text_tokens=text_tokens,
            attention_tokens=tokens,
            mlp_tokens=mlp_tokens,
            scored_layers=scored,
            selected=selected,
            merged_by=self.merge.by if self.merge else TokenTrace.merged_by,
            selected_by=self.select.by if self.select else TokenTrace.selected_by,
            importance=prune.importance,
            others=others,
        )

    def _layer_tokens(
        self, visual: int, text: int, layers: int, rule: TokenRule
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens in the attention and in the MLP of each layer."""
        prune = self.prune or _KEEP_ALL
        after = tuple(text + kept for kept in prune.visual_tokens(visual, text, layers))
        entering = ((visual + text,) * rule.layer_delay + after)[:layers]
        entering = (text,) * prune.inject_at + entering[prune.inject_at :]
        if prune.drop_point == "layer":
            return entering, entering
        left = (text,) * prune.inject_at + after[prune.inject_at :]
        return entering, tuple(map(min, entering, left))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as written to YAML and JSON; parts that reduce nothing are left out."""
        return {
            name: {
                field.name: _plain(value)
                for field in fields(part)
                if (value := getattr(part, field.name)) != field.default
            }
            for name, part in self._parts()
        }

    @classmethod
    def from_dict(cls, data: object, *, where: str = "schedule") -> "Schedule":
        """The inverse of ``to_dict``. Raises: ScheduleError that names the key."""
        given = mapping(data, where, ScheduleError, keys=PARTS)
        parts: dict[str, Any] = {}
        for name, kind in PARTS.items():
            if given.get(name) is not None:
                part, valid = f"{where}.{name}", [field.name for field in fields(kind)]
                values = mapping(given[name], part, ScheduleError, keys=valid)
                for field in fields(kind):
                    if field.default is MISSING and field.name not in values:
                        raise ScheduleError(
                            part, expected=f"a {field.name}", got="none", fix="Add it."
                        )
                parts[name] = kind(**values)
        return cls(**parts)

    @classmethod
    def load(cls, path: str | Path) -> "Schedule":
        """Read a YAML or JSON file that holds a mapping or text. Raises: ScheduleError."""
        where, fix = str(path), "Correct the file; docs/schedules.md describes it."
        data = read_tree(Path(path), where, ScheduleError, fix=fix)
        if data is None:
            raise ScheduleError(
                where, expected="a schedule", got="nothing", fix="Write none for no reduction."
            )
        return cls.read(data, where)

    def save(self, path: str | Path) -> None:
        """Write YAML, or JSON where the name ends so."""
        data = self.to_dict()
        text = (
            json.dumps(data, indent=2) + "\n" if Path(path).suffix == ".json" else yaml_text(data)
        )
        write_atomically(path, text.encode())

    @classmethod
    def of(cls, given: "Schedule | str", where: str = "schedule") -> "Schedule":
        """The schedule that a caller gave, itself or as its text.

        Raises: ScheduleError.
        """
        if isinstance(given, Schedule):
            return given
        if isinstance(given, str):
            return cls.parse(given, where)
        raise ScheduleError(
            where,
            expected="a Schedule, or its text",
            got=given,
            fix="E.g. Schedule.parse('merge 0.25, prune linear:14:22'); Schedule.from_dict reads a "
            "mapping, Schedule.load a file.",
        )

    @classmethod
    def all_of(
        cls, given: "Schedule | str | Iterable[Schedule | str]", where: str = "schedules"
    ) -> tuple["Schedule", ...]:
        """The schedules that a caller gave: one, or several. Raises: ScheduleError."""
        is_one = isinstance(given, Schedule | str | Mapping) or not isinstance(given, Iterable)
        several = [given] if is_one else given
        return tuple(cls.of(one, where) for one in several)  # type: ignore[union-attr, arg-type]

    @classmethod
    def parse(cls, text: str, where: str = "schedule") -> "Schedule":
        """Read a schedule as ``label`` writes it.

        The grammar is in aim_cost/schedules/language.py, all words are in docs/schedules.md.
        Args: where the text came from, for errors.
        Raises: ScheduleError that points at the wrong word and says what may stand there.
        """
        parts: dict[str, Any] = {}
        if text.strip() == "none":
            return cls()
        if not text.strip():
            raise ScheduleError(
                where, expected="a schedule", got="nothing", fix="Write none for no reduction."
            )
        for piece in Piece.of(text, where).split(r",\s*(?=[^\W\d])"):  # a comma before a letter
            label, rest = piece.split(r"(?<=\S)\s+|\Z", once=True)
            name = label.text.replace("-", "_")
            if name not in PARTS:
                names = {_written(name): _written(name) for name in PARTS}
                raise label.wrong(f"a part: {', '.join(names)}", nearest(label.text, names))
            if name in parts:
                raise piece.wrong(f"{label.text} once", "Keep one of the two.")
            parts[name] = PARTS[name].read(rest)
        return cls(**parts)

    @classmethod
    def read(cls, given: object, where: str = "schedule") -> "Schedule":
        """The schedule that a row or a file holds: text as of ``label``, or a mapping.

        Raises: ScheduleError.
        """
        return (
            cls.parse(given, where) if isinstance(given, str) else cls.from_dict(given, where=where)
        )

    @classmethod
    def from_argument(cls, argument: str, where: str = "--schedule") -> "Schedule":
        """The schedule that an argument says: its text, or the path of a YAML or JSON file.

        Raises: ScheduleError.
        """
        is_path = argument.endswith((".yaml", ".yml", ".json")) or os.path.isfile(argument)
        return cls.load(argument) if is_path else cls.parse(argument, where)

    @classmethod
    def from_options(cls, options: Mapping[str, object], where: str = "--{}") -> "Schedule":
        """The schedule that named options say; without any, nothing is reduced.

        Args:
            options: ``schedule`` as of ``from_argument``, or instead parts by their names in PARTS,
                each as of its ``parse``, a number or text. None says nothing.
            where: what an error calls an option, ``{}`` for its name.
        Raises: ScheduleError.
        """
        given = {name: str(value) for name, value in options.items() if value is not None}
        named = {name: where.format(_written(name)) for name in given}
        whole = given.pop("schedule", None)
        if whole is None:
            parts: dict[str, Any] = {n: PARTS[n].parse(given[n], named[n]) for n in given}
            return cls(**parts)
        if given:
            raise ScheduleError(
                named["schedule"],
                expected="no part of a schedule as an option of its own",
                got=", ".join(named[name] for name in given),
                fix="Put everything into the schedule, or leave it out.",
            )
        return cls.from_argument(whole, named["schedule"])

    def label(self) -> str:
        """The canonical text, e.g. ``merge 0.25, prune linear:14:22``; or ``none``."""
        parts = (f"{_written(name)} {part.label()}" for name, part in self._parts())
        return ", ".join(parts) or "none"

    def _parts(self) -> list[tuple[str, "AnyPart"]]:
        return [(name, part) for name in PARTS if (part := getattr(self, name)) is not None]


AnyPart = Sample | VisionMerge | Merge | Select | Prune
PARTS: dict[str, type[AnyPart]] = {
    "sample": Sample,
    "vision_merge": VisionMerge,
    "merge": Merge,
    "select": Select,
    "prune": Prune,
}
"""All parts, in the order in which tokens meet them: fields of Schedule, and with a hyphen for an
underscore the names in the language. Short forms and readers of files take them from here."""

_KEEP_ALL = Prune(ratios=(1.0,))


def _written(name: str) -> str:
    """A field's name in the language."""
    return name.replace("_", "-")


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
