"""traced_ops(): what a function of tensors computes, from a run on the meta device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from aim_cost.errors import AimError
from aim_cost.ops.kind import BatchedProduct, Elementwise, Kind, Product
from aim_cost.ops.op import Op
from aim_runtime.errors import PatchError

DTYPES = {1: torch.float8_e4m3fn, 2: torch.bfloat16, 4: torch.float32}
"""A dtype of each width of elements in bytes."""


def traced_ops(run: Callable[[], object], phase: str, layer: int | None, name: str) -> list[Op]:
    """One op for each kernel that ``run`` starts; its tensors have to be on the meta device.

    FLOPs as torch.utils.flop_counter counts them; bytes of every input and output once. Products
    are priced as products, all else by its bytes.
    Args: name, of the score, for errors.
    Raises: PatchError for code that needs values, which no prediction can have.
    """
    seen = _Recording(phase, layer)
    with seen:
        try:
            run()
        except AimError:
            raise
        except (RuntimeError, NotImplementedError) as error:
            raise PatchError(
                f"the score {name}",
                expected="code whose shapes follow from its arguments, without item(), tolist() "
                "or indexing by a bool mask",
                got=str(error).splitlines()[0],
                fix="Use argsort, topk, gather, where; then its cost can be predicted.",
            ) from error
    return seen.ops


class _Recording(TorchDispatchMode):
    def __init__(self, phase: str, layer: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._phase, self._layer = phase, layer
        self.ops: list[Op] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not _is_view(func):
            count = flop_registry.get(func._overloadpacket)
            flops = 0 if count is None else int(count(*args, **kwargs, out_val=result))
            self.ops.append(
                Op(
                    func._overloadpacket.__name__,
                    self._phase,
                    flops,
                    _bytes((args, kwargs)),
                    _bytes(result),
                    _kind(func, args),
                    self._layer,
                )
            )
        return result


def _is_view(func: Any) -> bool:
    """Whether what a function returns is its argument, seen otherwise: no kernel runs."""
    return any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)


def _bytes(tree: object) -> int:
    tensors = {id(x): x for x in tree_leaves(tree) if isinstance(x, Tensor)}
    return sum(x.numel() * x.element_size() for x in tensors.values())


def _kind(func: Any, args: tuple[Any, ...]) -> Kind:
    name = func._overloadpacket.__name__
    if name in ("mm", "addmm"):
        x, y = args[-2:] if name == "mm" else args[1:3]
        return Product(x.shape[0], y.shape[1], x.shape[1])
    if name in ("bmm", "baddbmm"):
        x, y = args[:2] if name == "bmm" else args[1:3]
        return BatchedProduct(x.shape[0], x.shape[1], y.shape[2], x.shape[2])
    return Elementwise.COPY
