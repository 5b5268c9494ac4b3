"""Kernels: makes ops of each kind, with the bytes that they read and write."""

from dataclasses import dataclass

from aim_cost.ops import formulas
from aim_cost.ops.count import Count
from aim_cost.ops.kind import (
    BatchedProduct,
    CausalAttention,
    Elementwise,
    EncoderAttention,
    Product,
    RowAttention,
)
from aim_cost.ops.op import Op


@dataclass(frozen=True)
class Kernels:
    """Makes the ops of one phase (and layer) for elements of ``width`` bytes."""

    phase: str
    width: int
    layer: int | None = None

    def linear(
        self, name: str, rows: Count, inputs: Count, outputs: Count, bias: bool = False
    ) -> Op:
        """x[rows, inputs] @ w[inputs, outputs] (+ b[outputs])."""
        return Op(
            name,
            self.phase,
            formulas.linear_flops(rows, inputs, outputs),
            self.width * (rows * inputs + inputs * outputs + (outputs if bias else 0)),
            self.width * rows * outputs,
            Product(rows, outputs, inputs),
            self.layer,
        )

    def elementwise(self, name: str, kind: Elementwise, reads: Count, writes: Count) -> Op:
        """An op bound by memory: a norm, activation, sum or copy. Counts are in elements."""
        return Op(
            name,
            self.phase,
            0,
            self.width * reads,
            self.width * writes,
            kind,
            self.layer,
        )

    def attention(
        self,
        implementation: str,
        kind: type[CausalAttention] | type[EncoderAttention],
        batch: Count,
        tokens: Count,
        heads: Count,
        key_value_heads: Count,
        head_dim: Count,
        queries: Count | None = None,
    ) -> list[Op]:
        """Self-attention; ``sdpa`` keeps scores on chip, ``eager`` writes and reads them.

        FLOPs are those of full attention, whichever the ``kind``.
        ``queries``: the number of tokens with queries, where it is below that of the keys.
        """
        rows = tokens if queries is None else queries
        query = batch * rows * heads * head_dim
        key = batch * tokens * key_value_heads * head_dim
        scores = batch * heads * rows * tokens
        sizes = (batch, heads, rows, tokens, head_dim)
        score_flops = formulas.attention_scores_flops(*sizes)
        value_flops = formulas.attention_values_flops(*sizes)
        width, layer, phase = self.width, self.layer, self.phase
        if implementation == "sdpa":
            full = kind(tokens, batch, heads, key_value_heads, head_dim)
            runs_as = full if queries is None else RowAttention(tokens, queries)
            flops, reads = score_flops + value_flops, width * (query + 2 * key)
            return [Op("attention", phase, flops, reads, width * query, runs_as, layer)]
        return [
            Op(
                "scores",
                phase,
                score_flops,
                width * (query + key),
                width * scores,
                BatchedProduct(batch * heads, rows, tokens, head_dim),
                layer,
            ),
            self.elementwise("softmax", Elementwise.SOFTMAX, scores, scores),
            Op(
                "values",
                phase,
                value_flops,
                width * (scores + key),
                width * query,
                BatchedProduct(batch * heads, rows, head_dim, tokens),
                layer,
            ),
        ]
