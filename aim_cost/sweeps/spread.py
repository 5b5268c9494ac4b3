"""spread(): the same calls here, or on the workers of a Ray cluster."""

import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from aim_cost.errors import SpecError
from aim_cost.imports import import_optional

LOCAL = "local"
"""Address of a cluster that is started on this machine for the length of one call."""

_RETRIES = 20  # attempts of a call whose worker died
_ANSWER_S = 5.0
_AHEAD = 2  # calls in flight for each core of the cluster

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def spread(
    function: Callable[[_Item], _Result], items: Sequence[_Item], address: str | None = None
) -> Iterator[tuple[_Item, _Result]]:
    """Yield each item with ``function(item)``, in the order in which the calls end.

    Args:
        function: picklable, without side effects: a call whose worker dies is made again elsewhere.
        address: of a Ray cluster (``ray://host:10001``, ``host:6379``, ``auto``), or LOCAL; without
            one the calls are made here, in order.
    Closing the iterator ends what is in flight.
    Raises: MissingLibraryError without ray; SpecError without a cluster, or workers that can make
    the calls; and what ``function`` raises.
    """
    if address is None or not items:
        for item in items:
            yield item, function(item)
        return
    ray = _connected(address)
    try:
        yield from _on_workers(ray, function, items)
    finally:
        ray.shutdown()


def _on_workers(
    ray: Any, function: Callable[[_Item], _Result], items: Sequence[_Item]
) -> Iterator[tuple[_Item, _Result]]:
    shared = ray.put(function)  # sent once for all workers, since it may hold a large grid

    @ray.remote(max_retries=_RETRIES)  # type: ignore[untyped-decorator]
    def call(work: Callable[[_Item], _Result], item: _Item) -> _Result:
        return work(item)

    most = max(1, int(_AHEAD * ray.cluster_resources().get("CPU", 1)))
    waiting = list(reversed(items))
    running: dict[Any, _Item] = {}
    while waiting or running:
        while waiting and len(running) < most:
            item = waiting.pop()
            running[call.remote(shared, item)] = item
        for done in ray.wait(list(running), num_returns=1)[0]:
            yield running.pop(done), _result(ray, done)


def _result(ray: Any, done: Any) -> Any:
    """What the call returned. Raises what it raised, or SpecError where no worker could make it."""
    try:
        return ray.get(done)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if cause is not None and not isinstance(cause, ray.exceptions.RayError):
            raise cause from error
        raise SpecError(
            "--ray",
            expected="workers that stay alive and have our packages",
            got=_line(cause or error),
            fix="Install aim-efficiency on every node; if workers die, look at their memory.",
        ) from error


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0][:120].rstrip(".")


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at ``host:port``."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()


def _connected(address: str) -> Any:
    ray = import_optional("ray", otherwise="leave --ray out")
    if ray.is_initialized():
        ray.shutdown()
    try:
        _knock(address)  # ray itself waits for minutes
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise SpecError(
            "--ray",
            expected=f"the address of a Ray cluster, or {LOCAL}",
            got=f"{address} ({_line(error)})",
            fix="Start one with ray start --head, and give what it prints.",
        ) from error
    return ray
