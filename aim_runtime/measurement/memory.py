"""Bytes alive while code runs, counted on any device, the meta device included."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


@dataclass(frozen=True)
class PeakMemory:
    """Bytes of tensor storage that the code allocated.

    Args:
        peak_bytes: the most that was alive at once.
        peak_operation: the operation whose outputs made the peak.
        final_bytes: still alive at the end, the result included.
    """

    peak_bytes: int
    peak_operation: str
    final_bytes: int


def track_peak_bytes(fn: Callable[[], Any]) -> PeakMemory:
    """Run ``fn`` and count the storage its operations allocate and free.

    The count is exact and the same in every run. Not counted: storage that existed before (weights,
    inputs), what a kernel allocates for itself alone, the allocator's rounding. On the meta device
    nothing is computed, but attention is decomposed there and writes its scores; select the CPU to
    count its fused kernel. The measured counterpart on CUDA is ``torch.cuda.max_memory_allocated``.
    """
    tracker = _Tracker()
    with tracker:
        result = fn()
        final_bytes = tracker.live_bytes
    del result
    return PeakMemory(tracker.peak_bytes, tracker.peak_operation, final_bytes)


class _Tracker(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # TorchDispatchMode's own
        self.live_bytes = 0
        self.peak_bytes = 0
        self.peak_operation = ""
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE):
            # under inference_mode composite operations arrive whole, and their parts allocate;
            # not func.decompose, which may choose a Python decomposition that does not run here
            with self:
                return func._op_dk(_COMPOSITE, *args, **kwargs)
        outputs = func(*args, **kwargs)
        given = {id(storage) for storage in _storages((args, kwargs))}
        for storage in _storages(outputs):
            # a view, or a result written in place, lies in storage that was given
            if id(storage) not in given and id(storage) not in self._known:
                self._add(storage)
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes, self.peak_operation = self.live_bytes, str(func)
        return outputs

    def _add(self, storage: torch.UntypedStorage) -> None:
        # PyTorch keeps one Python object per storage for as long as the storage lives
        key, size = id(storage), storage.nbytes()
        self._known.add(key)
        self.live_bytes += size
        weakref.finalize(storage, self._remove, key, size).atexit = False

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live_bytes -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_iter(tree) if isinstance(leaf, torch.Tensor)]
