"""The forms, by the name of their op."""

from aim_cost.timing.attention import CAUSAL_ATTENTION, ENCODER_ATTENTION
from aim_cost.timing.fused_score import FUSED_SCORE
from aim_cost.timing.gemm import GEMM

FORMS = {form.op: form for form in (GEMM, CAUSAL_ATTENTION, ENCODER_ATTENTION, FUSED_SCORE)}
