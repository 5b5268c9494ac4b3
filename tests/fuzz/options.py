"""The options of the two command lines, each with values that people type and others."""

from hypothesis import strategies as st

from aim_cost.devices.hardware import hardware_names
from aim_cost.models.model import preset_names
from tests.fuzz.asked import numbers, odd_numbers, shown
from tests.fuzz.schedules import part, schedules

names = st.one_of(
    st.sampled_from(preset_names()),
    st.sampled_from(["", "llava", "nowhere/config.json", "/", ".", "x" * 5000, "llava-1.5-7B"]),
)
devices = st.one_of(
    st.sampled_from(hardware_names()), st.sampled_from(["", "h100", "nowhere.yaml", "/dev/null"])
)
sizes = st.one_of(
    st.tuples(numbers, numbers).map(lambda pair: f"{pair[0]}x{pair[1]}"),
    st.sampled_from(["224x224", "448x448", "1080x1920", "1x1", "28x28", "x", "224", "1x2x3"]),
    odd_numbers,
)
limits = st.one_of(st.floats(1, 1000).map(repr), odd_numbers, numbers.map(str))
formats = st.sampled_from(["json", "csv", "table", "xml"])

OPTIONS = {
    "--model": names,
    "--hardware": devices,
    "--frames": shown(numbers),
    "--image-tokens": shown(numbers),
    "--image": sizes,
    "--frame-size": sizes,
    "--text-tokens": shown(numbers),
    "--batch": shown(st.one_of(st.integers(1, 9), numbers)),
    "--merge": part("merge"),
    "--prune": part("prune"),
    "--select": part("select"),
    "--vision-merge": part("vision-merge"),
    "--sample": part("sample"),
    "--tokens-per-frame": shown(numbers),
    "--schedule": schedules,
    "--dtype": st.sampled_from(["bfloat16", "float32", "float16", "int4", ""]),
    "--attention": st.sampled_from(["sdpa", "eager", "flash"]),
    "--execution": st.sampled_from(["eager", "cuda-graph", "ideal", "fast"]),
    "--convention": st.sampled_from(["executed", "llm-viewer", "fastv", "none"]),
    "--scoring": st.sampled_from(["torch", "fused", "x"]),
    "--last-layer": st.sampled_from(["all", "needed", "x"]),
    "--calibration": st.sampled_from(["h100-sxm", "nowhere.yaml", ""]),
    "--format": formats,
}


def some(*options: str, **others: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, str]]:
    """Some of the options, each once and in any order; ``others`` have values of their own."""
    own = {f"--{name.replace('_', '-')}": values for name, values in others.items()}
    values = {name: OPTIONS[name] for name in options} | own
    pairs = [
        strategy.map(lambda value, name=name: (name, value)) for name, strategy in values.items()
    ]
    return st.lists(st.one_of(pairs), max_size=6, unique_by=lambda pair: pair[0]).map(dict)
