"""Calibration: the figures fitted for one device, with their sources, and their YAML file."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np

from aim_cost.checks import mapping, whole
from aim_cost.errors import ProfileError
from aim_cost.files import write_atomically
from aim_cost.files.tree import read_yaml
from aim_cost.files.yaml_text import yaml_text
from aim_cost.ops.kind import Elementwise
from aim_cost.timing.elementwise import Dispatch, KernelFigures, read_dispatch, read_elementwise
from aim_cost.timing.form import Array
from aim_cost.timing.forms import FORMS
from aim_cost.timing.kernel_model import Band, KernelModel
from aim_cost.timing.surface import Surface

_RATIOS = ("mape", "median", "p90", "bias", "coverage")
_REFIT = "Fit it again with aim-cost calibrate."


@dataclass(frozen=True)
class FittedKernels:
    """A kernel model and where it comes from.

    Args: rows it was fitted to; table, the file they were read from; held_out, errors by shape on
    the rows of the bar, fractions (``n`` rows), and the ``coverage`` of the band.
    """

    model: KernelModel
    rows: int
    table: str
    held_out: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Fitted figures of one device. The datasheet peaks stay in its hardware profile.

    Equal and hashed by identity: its arrays cannot be compared with ``==``.

    Args: hardware, name of the profile it was fitted on; dtype measured; source, who measured and
    where; fitted_on, ISO date; versions of what fitted it; kernels, elementwise and dispatch.
    """

    hardware: str
    dtype: str
    source: str
    fitted_on: str
    versions: Mapping[str, str]
    kernels: Mapping[str, FittedKernels]
    elementwise: Mapping[Elementwise, KernelFigures]
    dispatch: Dispatch

    def to_yaml(self) -> str:
        """The text of the file; ``from_yaml`` reads the same calibration back."""
        sources: dict[str, str] = {}

        def keyed(entry: object) -> dict[str, Any]:
            tree = asdict(entry)  # type: ignore[call-overload]
            key = next((k for k, text in sources.items() if text == tree["source"]), None)
            key = key or f"s{len(sources) + 1}"
            sources[key] = tree["source"]
            return {k: v for k, v in {**tree, "source": key}.items() if v is not None}

        tree = {
            "hardware": self.hardware,
            "dtype": self.dtype,
            "source": self.source,
            "fitted_on": self.fitted_on,
            "versions": dict(self.versions),
            "kernels": {op: _kernels_tree(fitted) for op, fitted in self.kernels.items()},
            "elementwise": {kind.value: keyed(entry) for kind, entry in self.elementwise.items()},
            "dispatch": {f.name: keyed(getattr(self.dispatch, f.name)) for f in fields(Dispatch)},
            "sources": sources,
        }
        text = yaml_text(tree, default_flow_style=None, width=100)
        return (
            "# Fitted figures; made by aim-cost calibrate. Datasheet peaks are beside it.\n" + text
        )

    def save(self, path: str | Path) -> None:
        write_atomically(path, self.to_yaml().encode())

    @classmethod
    def from_yaml(cls, path: str | Path) -> "Calibration":
        """Read a file. Raises ProfileError naming file, key, expected and got."""
        return _read(Path(path), str(path))


def calibration_names() -> list[str]:
    """Devices that ship with a calibration, sorted."""
    shipped = (entry.name for entry in (files("hardware_profiles") / "calibrations").iterdir())
    return sorted(name.removesuffix(".yaml") for name in shipped if name.endswith(".yaml"))


def load_calibration(name_or_path: str | Path) -> Calibration:
    """A shipped calibration by the name of its device, or a user's by a path that ends in .yaml."""
    name = str(name_or_path)
    if name.endswith((".yaml", ".yml")):
        return Calibration.from_yaml(name)
    if name not in calibration_names():
        raise ProfileError(
            "calibration",
            expected="a device with a calibration, or a path that ends in .yaml",
            got=repr(name),
            fix=f"Known: {', '.join(calibration_names())}. Or make one: aim-cost calibrate.",
        )
    return _shipped(name)


@cache
def _shipped(name: str) -> Calibration:
    file = files("hardware_profiles") / "calibrations" / f"{name}.yaml"
    return _read(file, f"hardware_profiles/calibrations/{name}.yaml")


def _kernels_tree(fitted: FittedKernels) -> dict[str, Any]:
    model = fitted.model
    names = [p.name for p in model.form.parameters]
    return {
        "rows": fitted.rows,
        "table": fitted.table,
        "held_out": dict(fitted.held_out),
        "sizes": {dim: list(span) for dim, span in zip(model.form.dims, model.sizes, strict=True)},
        "parameters": dict(zip(names, model.parameters.tolist(), strict=True)),
        "band": {f.name: getattr(model.band, f.name).tolist() for f in fields(Band)},
        "surface": {
            "log2_knots": [axis.tolist() for axis in model.surface.knots],
            "log_ratio": model.surface.values.reshape(len(model.surface.knots[0]), -1).tolist(),
        },
    }


def _read(file: Path | Traversable, where: str) -> Calibration:
    find = "aim-cost calibrate makes such a file"
    tree = read_yaml(file, where, ProfileError, fix=_REFIT, find=find)
    names = [f.name for f in fields(Calibration)]
    root = mapping(tree, where, ProfileError, keys=[*names, "sources"])
    at = f"{where}: "
    sources = mapping(root.get("sources"), f"{at}sources", ProfileError)
    kernels = mapping(root.get("kernels"), f"{at}kernels", ProfileError, keys=FORMS)
    versions = mapping(root.get("versions"), f"{at}versions", ProfileError)
    return Calibration(
        hardware=_text(root, "hardware", at),
        dtype=_text(root, "dtype", at),
        source=_text(root, "source", at),
        fitted_on=_text(root, "fitted_on", at),
        versions={key: _text(versions, key, f"{at}versions.") for key in versions},
        kernels={op: _kernels(op, kernels[op], f"{at}kernels.{op}") for op in kernels},
        elementwise=read_elementwise(root.get("elementwise"), f"{at}elementwise", sources),
        dispatch=read_dispatch(root.get("dispatch"), f"{at}dispatch", sources),
    )


def _kernels(op: str, tree: object, at: str) -> FittedKernels:
    form = FORMS[op]
    keys = ("rows", "table", "held_out", "sizes", "parameters", "band", "surface")
    root = mapping(tree, at, ProfileError, keys=keys)
    names = [p.name for p in form.parameters]
    parameters = mapping(root.get("parameters"), f"{at}.parameters", ProfileError, keys=names)
    sizes = mapping(root.get("sizes"), f"{at}.sizes", ProfileError, keys=form.dims)
    band = mapping(
        root.get("band"), f"{at}.band", ProfileError, keys=[f.name for f in fields(Band)]
    )
    surface = mapping(
        root.get("surface"), f"{at}.surface", ProfileError, keys=("log2_knots", "log_ratio")
    )
    held_out = mapping(root.get("held_out"), f"{at}.held_out", ProfileError, keys=("n", *_RATIOS))
    axes = surface.get("log2_knots")
    if not isinstance(axes, list) or len(axes) != len(form.knots):
        raise _wrong(f"{at}.surface.log2_knots", f"{len(form.knots)} lists", axes)
    knots = tuple(_ascending(axis, f"{at}.surface.log2_knots") for axis in axes)
    shape = [len(axis) for axis in knots]
    values = _numbers(surface.get("log_ratio"), f"{at}.surface.log_ratio")
    if values.shape != (shape[0], int(np.prod(shape[1:]))):
        raise _wrong(f"{at}.surface.log_ratio", f"one row a knot, for {shape}", values.shape)
    times = _ascending(band.get("time_s"), f"{at}.band.time_s")
    low, high = (_list(band.get(key), f"{at}.band.{key}") for key in ("low", "high"))
    if not (len(times) == len(low) == len(high)) or times[0] <= 0 or (low > high).any():
        raise _wrong(f"{at}.band", "lists of one length, times above 0, low <= high", dict(band))
    spans = [_list(sizes.get(dim), f"{at}.sizes.{dim}") for dim in form.dims]
    for dim, span in zip(form.dims, spans, strict=True):
        if span.shape != (2,) or not 0 < span[0] <= span[1]:
            raise _wrong(f"{at}.sizes.{dim}", "[smallest, largest]", span.tolist())
    return FittedKernels(
        model=KernelModel(
            form=form,
            parameters=_list([parameters.get(name) for name in names], f"{at}.parameters"),
            surface=Surface(knots, values.reshape(shape)),
            sizes=tuple((float(span[0]), float(span[1])) for span in spans),
            band=Band(times, low, high),
        ),
        rows=whole(root.get("rows"), f"{at}.rows", ProfileError),
        table=_text(root, "table", f"{at}."),
        held_out={
            "n": whole(held_out.get("n"), f"{at}.held_out.n", ProfileError),
            **{key: _number(held_out.get(key), f"{at}.held_out.{key}") for key in _RATIOS},
        },
    )


def _numbers(value: object, where: str) -> Array:
    rows = value if isinstance(value, list) else [value]
    flat = [x for row in rows for x in (row if isinstance(row, list) else [row])]
    for x in flat:
        if not isinstance(x, int | float) or isinstance(x, bool) or not math.isfinite(x):
            raise _wrong(where, "finite numbers", x)
    try:
        return np.array(value, dtype=np.float64)
    except ValueError as error:
        raise _wrong(where, "rows of one length", "rows of different lengths") from error


def _number(value: object, where: str) -> float:
    return float(_list([value], where)[0])


def _list(value: object, where: str) -> Array:
    numbers = _numbers(value, where)
    if numbers.ndim != 1:
        raise _wrong(where, "a list of numbers", value)
    return numbers


def _ascending(value: object, where: str) -> Array:
    numbers = _list(value, where)
    if len(numbers) == 0 or (np.diff(numbers) <= 0).any():
        raise _wrong(where, "numbers in ascending order", value)
    return numbers


def _text(tree: Mapping[str, Any], key: str, at: str) -> str:
    value = tree.get(key)
    if isinstance(value, str) and value.strip():
        return value
    raise _wrong(f"{at}{key}", "a text", value)


def _wrong(where: str, expected: str, got: object) -> ProfileError:
    return ProfileError(where, expected=expected, got=got, fix=_REFIT)
