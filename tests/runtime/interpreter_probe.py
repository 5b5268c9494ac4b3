"""The simplest kernel with a loop over a bound of its own, by Triton's interpreter."""

import os

os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton
import triton.language as tl


@triton.jit
def add_up(total, count, BLOCK: tl.constexpr):
    found = 0
    for start in range(0, tl.program_id(0) * BLOCK + count, BLOCK):
        found += start
    tl.store(total, found)


if __name__ == "__main__":
    total = torch.zeros(1, dtype=torch.int32)
    add_up[(1,)](total, 9, BLOCK=4)
    assert int(total) == 12, total
