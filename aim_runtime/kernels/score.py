"""The fused importance score at the dims of a model, and at those of other decoders."""

from aim_cost.models.model import ModelSpec
from aim_cost.ops.formulas import IMPORTANCE_ITERATIONS
from aim_cost.ops.kind import FusedImportance
from aim_runtime.kernels.case import Case, Pool, Work
from aim_runtime.kernels.products import DECODERS
from aim_runtime.kernels.sizes import Sizes, every_other


def score_cases(spec: ModelSpec, sizes: Sizes, width: int) -> list[Case]:
    """One case for each size: the Triton kernels, for a device that scores with them."""
    text = spec.text
    own = text.num_attention_heads, text.num_key_value_heads, text.head_dim
    cases = [_score(tokens, *own, width) for tokens in sizes.tokens]
    for other in DECODERS:
        cases += [_score(tokens, *other, width) for tokens in every_other(sizes.tokens)]
    return list({case.kind: case for case in cases}.values())


def _score(tokens: int, heads: int, key_value_heads: int, head_dim: int, width: int) -> Case:
    def make(pool: Pool) -> Work:
        from aim_runtime.reduction.importance_triton import fused_importance

        query, key = (
            pool.activations(1, tokens, count, head_dim).transpose(1, 2)
            for count in (heads, key_value_heads)
        )
        return lambda: fused_importance(query, key, scaling=head_dim**-0.5)

    elements = tokens * (heads + key_value_heads) * head_dim
    passes = IMPORTANCE_ITERATIONS + 1
    return Case(
        kind=FusedImportance(tokens, 1, heads, key_value_heads, head_dim),
        # it takes several times as long as its products alone would
        flops=4 * passes * heads * tokens**2 * head_dim,
        moved_bytes=width * passes * elements,
        weights=0,
        activations=elements,
        scratch=tokens * heads * head_dim,
        make=make,
    )
