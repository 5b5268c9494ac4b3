"""Whether code can be captured in a CUDA graph, seen from its operations."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from aim_runtime.errors import PatchError

EAGER_WAY = "Run this one without a graph: with patched(model, schedule)."
_WAITS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_INDEXING = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}


@contextmanager
def capturable() -> Iterator[None]:
    """Run the body, and refuse what a CUDA graph cannot hold. For CUDA and meta tensors.

    Raises: PatchError at an operation whose result the host would wait for, and at one that reads
    more than a number from the host's memory. On a CPU all memory is the host's: nothing is seen.
    """
    with _Watch():  # type: ignore[no-untyped-call]  # TorchDispatchMode's own
        yield


def refusal(where: str, expected: str, got: str) -> PatchError:
    """The error for a prefill that no graph can hold."""
    return PatchError(where, expected=expected, got=got, fix=EAGER_WAY)


class _Watch(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = _tensors((args, kwargs))
        on_device = any(x.device.type != "cpu" for x in given)
        if on_device and _waits(func, given):
            raise refusal("CUDA graph", "no operation that the host waits for", str(func))
        result = func(*args, **kwargs or {})
        on_device = on_device or any(x.device.type != "cpu" for x in _tensors(result))
        if on_device and _reads_host(func, given):
            raise refusal("CUDA graph", "no tensor of the host", str(func))
        return result


def _waits(func: Any, given: list[Tensor]) -> bool:
    """Whether the host must know values to go on."""
    if func.overloadpacket in _INDEXING:  # by positions they are static, by masks they are not
        return any(x.dtype == torch.bool for x in given[1:])
    return not _WAITS.isdisjoint(func.tags)


def _reads_host(func: Any, given: list[Tensor]) -> bool:
    """Whether an operation of the device needs more than a number from the host."""
    if func.overloadpacket is torch.ops.aten.lift_fresh:  # the end of torch.tensor(data, device)
        return any(x.numel() for x in given)
    # kernels take a single number as it is; a copy of one is a copy all the same
    copies = func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
    return any(x.device.type == "cpu" and (x.dim() or copies) for x in given)


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_iter(tree) if isinstance(x, Tensor)]
