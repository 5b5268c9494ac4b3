"""hub_config_file(): the config.json of a checkpoint of the Hugging Face hub, on this machine."""

import re
from pathlib import Path

from aim_cost.errors import SpecError
from aim_cost.imports import import_optional

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_name(text: str) -> bool:
    """Whether ``text`` has the form ``owner/name`` of a checkpoint, and is no name of a file."""
    return _HUB_NAME.fullmatch(text) is not None and not text.endswith(".json")


def hub_config_file(name: str) -> Path:
    """Where the ``config.json`` of the checkpoint ``name`` lies: in the cache, else fetched to it.

    Cache, token and offline mode are those of huggingface_hub (HF_HOME, HF_TOKEN, HF_HUB_OFFLINE).
    A copy in the cache is read as it is: no network is asked.
    Raises: SpecError where it is neither in the cache nor reachable, MissingLibraryError without
        huggingface_hub.
    """
    way_out = "give the path of a config.json or a preset (aim-cost models)"
    hub = import_optional("huggingface_hub", otherwise=way_out)
    try:
        cached = hub.try_to_load_from_cache(name, "config.json")
        return Path(cached if isinstance(cached, str) else hub.hf_hub_download(name, "config.json"))
    except Exception as error:  # of the name, the network, the access, the file: many classes
        said = (str(error).strip() or "nothing").splitlines()[0]
        raise SpecError(
            f"model {name}",
            expected="a checkpoint of the Hugging Face hub that can be reached or is in the cache",
            got=f"{type(error).__name__}: {said}",
            fix=f"Correct the name, go online once, or {way_out}.",
        ) from error
