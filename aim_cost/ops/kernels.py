"""Ops by kind: what each reads and writes, in elements times the width of an element."""

from dataclasses import dataclass

from aim_cost.ops import formulas
from aim_cost.ops.op import Count, Op


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
            {"m": rows, "n": outputs, "k": inputs},
            self.layer,
        )

    def elementwise(self, name: str, reads: Count, writes: Count) -> Op:
        """Anything bound by memory: norms, activations, sums, copies. Counts in elements."""
        return Op(
            name,
            self.phase,
            0,
            self.width * reads,
            self.width * writes,
            {"elements": writes},
            self.layer,
        )

    def attention(
        self,
        kind: str,
        batch: Count,
        tokens: Count,
        heads: Count,
        key_value_heads: Count,
        head_dim: Count,
        queries: Count | None = None,
    ) -> list[Op]:
        """Full self-attention; ``sdpa`` keeps scores on chip, ``eager`` writes and reads them.

        ``queries``: of so many tokens, where they are fewer than the keys.
        """
        shape = {
            "batch": batch,
            "tokens": tokens,
            "heads": heads,
            "key_value_heads": key_value_heads,
            "head_dim": head_dim,
        }
        if queries is None:
            queries = tokens
        else:
            shape["queries"] = queries
        query = batch * queries * heads * head_dim
        key = batch * tokens * key_value_heads * head_dim
        scores = batch * heads * queries * tokens
        sizes = (batch, heads, queries, tokens, head_dim)
        score_flops = formulas.attention_scores_flops(*sizes)
        value_flops = formulas.attention_values_flops(*sizes)
        if kind == "sdpa":
            return [
                Op(
                    "attention",
                    self.phase,
                    score_flops + value_flops,
                    self.width * (query + 2 * key),
                    self.width * query,
                    shape,
                    self.layer,
                )
            ]
        width, layer, phase = self.width, self.layer, self.phase
        return [
            Op("scores", phase, score_flops, width * (query + key), width * scores, shape, layer),
            Op("softmax", phase, 0, width * scores, width * scores, shape, layer),
            Op("values", phase, value_flops, width * (scores + key), width * query, shape, layer),
        ]
