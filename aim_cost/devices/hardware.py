"""Hardware profiles: the datasheet peaks of a device, each number with its unit and its source."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from aim_cost.checks import mapping
from aim_cost.errors import ProfileError
from aim_cost.files.tree import read_yaml

DTYPES = ("float32", "tfloat32", "float16", "bfloat16", "float8", "int8")

_WHOLE_UNITS = frozenset({"B", "count", "year", "FLOP"})
_LIMIT = 1e21  # far above any device; it also refuses infinities and integers too long for a float
_LIST = "aim-cost hardware lists the known ones"


@dataclass(frozen=True)
class Quantity:
    """One number of a profile.

    Args: value in ``unit`` (base SI: FLOP/s, B, B/s, Hz, W, ...); source, the text that says where
    it was read; unsure, True where it was recalled, derived, or where sources disagree.
    """

    value: int | float
    unit: str
    source: str
    unsure: bool = False

    @property
    def measured(self) -> bool:
        """Whether a clock gave it, not a datasheet: its source begins so."""
        return self.source.startswith("measured")


_B, _B_PER_S, _COUNT = {"unit": "B"}, {"unit": "B/s"}, {"unit": "count"}


@dataclass(frozen=True)
class Peak:
    """Dense datasheet figures of a device; None where no figure is known. Units as in the names."""

    flops_per_s: Mapping[str, Quantity] = field(hash=False)
    memory_bytes: Quantity = field(metadata=_B)
    memory_bandwidth_bytes_per_s: Quantity = field(metadata=_B_PER_S)
    runtime_memory_bytes: Quantity | None = field(default=None, metadata=_B)
    l2_bytes: Quantity | None = field(default=None, metadata=_B)
    multiprocessors: Quantity | None = field(default=None, metadata=_COUNT)
    boost_clock_hz: Quantity | None = field(default=None, metadata={"unit": "Hz"})
    flops_per_clock_per_multiprocessor: Quantity | None = field(
        default=None, metadata={"unit": "FLOP"}
    )
    shared_memory_bytes_per_multiprocessor: Quantity | None = field(default=None, metadata=_B)
    register_file_bytes_per_multiprocessor: Quantity | None = field(default=None, metadata=_B)
    link_bytes_per_s: Quantity | None = field(default=None, metadata=_B_PER_S)
    pcie_bytes_per_s: Quantity | None = field(default=None, metadata=_B_PER_S)
    tdp_w: Quantity | None = field(default=None, metadata={"unit": "W"})


_UNITS = {f.name: f.metadata["unit"] for f in fields(Peak) if f.name != "flops_per_s"}
_REQUIRED = ("flops_per_s", "memory_bytes", "memory_bandwidth_bytes_per_s")


@dataclass(frozen=True)
class HardwareProfile:
    """A device and its datasheet peaks, made by ``load_hardware`` or ``from_yaml``.

    Args:
        device_names: patterns of what the driver calls it, for ``find_hardware``.
        nearest: the calibrated device whose calibration it inherits; None for a roofline.
    """

    name: str
    title: str
    architecture: str
    release_year: Quantity
    peak: Peak
    notes: str = ""
    device_names: tuple[str, ...] = ()
    nearest: str | None = None

    @classmethod
    def from_yaml(cls, path: str | Path) -> "HardwareProfile":
        """Read a YAML file. Raises ProfileError naming file, key, expected and got."""
        return _read(Path(path), str(path))

    @property
    def memory_bytes(self) -> int | float:
        """Memory capacity as the datasheet prints it, in bytes."""
        return self.peak.memory_bytes.value

    @property
    def memory_bandwidth_bytes_per_s(self) -> int | float:
        """Peak memory bandwidth, in bytes per second."""
        return self.peak.memory_bandwidth_bytes_per_s.value

    def peak_flops_per_s(self, dtype: str) -> float:
        """Return the dense peak for ``dtype`` in FLOP/s. Raises ProfileError if there is none."""
        if dtype not in self.peak.flops_per_s:
            raise ProfileError(
                f"{self.name}: peak.flops_per_s.{dtype}",
                expected="a peak for this dtype",
                got="none",
                fix=f"Pass another --dtype; this device has: {', '.join(self.peak.flops_per_s)}.",
            )
        return float(self.peak.flops_per_s[dtype].value)

    def quantities(self) -> dict[str, Quantity]:
        """Return every number that is known by its key path below ``peak``, and release_year."""
        known = {"release_year": self.release_year}
        known |= {f"flops_per_s.{dtype}": q for dtype, q in self.peak.flops_per_s.items()}
        known |= {key: q for key in _UNITS if (q := getattr(self.peak, key)) is not None}
        return known


def hardware_names() -> list[str]:
    """Return the names of the shipped profiles, sorted, without reading any of them."""
    shipped = (entry.name for entry in files("hardware_profiles").iterdir())
    return sorted(name.removesuffix(".yaml") for name in shipped if name.endswith(".yaml"))


def load_hardware(name_or_path: str | Path) -> HardwareProfile:
    """Return a shipped profile by its name, or a user's by a path that ends in .yaml or .yml.

    Raises: ProfileError for an unknown name (with the closest ones) or a malformed file.
    """
    name = str(name_or_path)
    if name.endswith((".yaml", ".yml")):
        return HardwareProfile.from_yaml(name)
    names = hardware_names()
    if name not in names:
        wanted = name.lower()
        close = [known for known in names if wanted in known]
        close = close[:6] or difflib.get_close_matches(wanted, names, n=4, cutoff=0.5)
        hint = f"Did you mean {', '.join(close)}? " if close else ""
        raise ProfileError(
            "hardware",
            expected="the name of a profile, or a path that ends in .yaml",
            got=repr(name),
            fix=f"{hint}{_LIST}.",
        )
    return _read(files("hardware_profiles") / f"{name}.yaml", f"hardware_profiles/{name}.yaml")


def find_hardware(device_name: str) -> HardwareProfile | None:
    """The shipped profile of the device with this name in its driver; None for an unknown one.

    Raises: ProfileError where two profiles claim the name.
    """
    found = [
        profile
        for profile in map(load_hardware, hardware_names())
        if any(re.search(pattern, device_name) for pattern in profile.device_names)
    ]
    if len(found) > 1:
        raise ProfileError(
            "device_names",
            expected="one profile of each device",
            got=f"{device_name} in {' and '.join(profile.name for profile in found)}",
            fix="Make the patterns exclude each other, or name --hardware.",
        )
    return found[0] if found else None


def to_row(profile: HardwareProfile) -> dict[str, Any]:
    """Return one flat row for tables: the same keys for every device, None where unknown."""
    known = profile.quantities()
    value = {key: q.value for key, q in known.items()}
    return {
        "name": profile.name,
        "title": profile.title,
        "architecture": profile.architecture,
        "release_year": profile.release_year.value,
        **{f"{dtype}_flops_per_s": value.get(f"flops_per_s.{dtype}") for dtype in DTYPES},
        **{key: value.get(key) for key in _UNITS},
        "unsure": [key for key, q in known.items() if q.unsure],
    }


def _read(file: Path | Traversable, where: str) -> HardwareProfile:
    fix = "Correct the file; hardware_profiles/README.md describes it."
    return _profile(read_yaml(file, where, ProfileError, fix=fix, find=_LIST), where)


def _profile(tree: object, where: str) -> HardwareProfile:
    keys = [f.name for f in fields(HardwareProfile)]
    root = mapping(tree, where, ProfileError, keys=[*keys, "sources"])
    at = f"{where}: "
    texts = _present(root, "sources", at, "a mapping of source keys to texts")
    texts = mapping(texts, f"{at}sources", ProfileError)
    sources = {key: _text(texts, key, f"{at}sources.") for key in texts}
    peak = _present(root, "peak", at, "a mapping of peaks")
    peak = mapping(peak, f"{at}peak", ProfileError, keys=["flops_per_s", *_UNITS])
    for key in _REQUIRED:
        _present(peak, key, f"{at}peak.", "a mapping")
    flops = f"{at}peak.flops_per_s"
    dtypes = mapping(peak["flops_per_s"], flops, ProfileError, keys=DTYPES)
    if not dtypes:
        raise ProfileError(
            flops, expected="at least one dtype", got="none", fix="Add bfloat16, say."
        )
    year = _present(root, "release_year", at, "a year")
    return HardwareProfile(
        name=_text(root, "name", at),
        title=_text(root, "title", at),
        architecture=_text(root, "architecture", at),
        release_year=_quantity(year, f"{at}release_year", "year", sources),
        peak=Peak(
            flops_per_s={
                dtype: _quantity(dtypes[dtype], f"{flops}.{dtype}", "FLOP/s", sources)
                for dtype in DTYPES
                if dtype in dtypes
            },
            **{
                key: _quantity(peak[key], f"{at}peak.{key}", unit, sources)
                for key, unit in _UNITS.items()
                if key in peak
            },
        ),
        notes=_text(root, "notes", at) if "notes" in root else "",
        device_names=_patterns(root.get("device_names", []), f"{at}device_names"),
        nearest=_text(root, "nearest", at) if "nearest" in root else None,
    )


def _patterns(given: object, where: str) -> tuple[str, ...]:
    """Regular expressions. Raises: ProfileError."""

    def refuse(got: object) -> ProfileError:
        return ProfileError(
            where,
            expected="a list of regular expressions",
            got=got,
            fix="E.g. device_names: ['L40S'].",
        )

    if not isinstance(given, list) or not all(isinstance(one, str) and one for one in given):
        raise refuse(given)
    for one in given:
        try:
            re.compile(one)
        except re.error as error:
            raise refuse(f"{one!r}, {error}") from error
    return tuple(given)


def _present(tree: Mapping[str, Any], key: str, at: str, expected: str) -> Any:
    if key not in tree:
        raise ProfileError(f"{at}{key}", expected=expected, got="nothing", fix=f"Add {key}.")
    return tree[key]


def _text(tree: Mapping[str, Any], key: str, at: str) -> str:
    value = _present(tree, key, at, "a text")
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise ProfileError(f"{at}{key}", expected="a text", got=value, fix=f"Write {key}: some text.")


def _quantity(tree: object, at: str, unit: str, sources: Mapping[str, str]) -> Quantity:
    entry = mapping(tree, at, ProfileError, keys=[f.name for f in fields(Quantity)])
    if (got := _present(entry, "unit", f"{at}.", unit)) != unit:
        raise ProfileError(
            f"{at}.unit", expected=unit, got=got, fix=f"Convert the value to {unit}."
        )
    unsure = entry.get("unsure", False)
    if not isinstance(unsure, bool):
        raise ProfileError(f"{at}.unsure", expected="true or false", got=unsure, fix="Write true.")
    value = _number(_present(entry, "value", f"{at}.", "a number"), f"{at}.value", unit)
    source = _source(_present(entry, "source", f"{at}.", "a key of sources"), at, sources)
    return Quantity(value, unit, source, unsure)


def _number(value: object, where: str, unit: str) -> int | float:
    whole = unit in _WHOLE_UNITS
    # One comparison refuses negatives, zero, NaN and infinities: in base SI units all are >= 1.
    if isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value < _LIMIT:
        if not whole:
            return value
        if int(value) == value:
            return int(value)
    raise ProfileError(
        where,
        expected=f"a {'whole ' if whole else ''}number of {unit} from 1 to {_LIMIT:.0e}",
        got=repr(value),
        fix="Write plain digits or 9.89e+14, dense, in base SI units.",
    )


def _source(value: object, at: str, sources: Mapping[str, str]) -> str:
    keys = value if isinstance(value, list) else [value]
    if not keys:
        raise ProfileError(f"{at}.source", expected="at least one key", got="none", fix="Name one.")
    texts = []
    for key in keys:
        if not isinstance(key, str) or key not in sources:
            raise ProfileError(
                f"{at}.source",
                expected="a key of sources, or a list of them",
                got=key,
                fix=f"Add it under sources; known: {', '.join(sources)}.",
            )
        texts.append(sources[key])
    return "; ".join(texts)
