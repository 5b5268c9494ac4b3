"""Linear: a matrix of weights as nn.Linear holds it, and where it is."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Linear:
    """Weights [outputs, inputs] and, with ``bias``, a vector [outputs].

    Args: paths, of the module; several where releases of transformers name it differently.
    """

    paths: tuple[str, ...]
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def weights(self) -> int:
        """Elements of the matrix."""
        return self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        """Elements of matrix and bias."""
        return self.weights + self.outputs * self.bias

    def under(self, *prefixes: str) -> "Linear":
        """The same, its paths below each of ``prefixes``."""
        return replace(self, paths=tuple(f"{p}.{path}" for p in prefixes for path in self.paths))


def parameters_of(linears: tuple[Linear, ...]) -> int:
    """Parameters of all ``linears``."""
    return sum(linear.parameters for linear in linears)
