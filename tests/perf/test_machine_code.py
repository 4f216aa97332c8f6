"""Reading machine code."""

import numba
import numpy as np
import pytest

from perf.machine_code import KernelCode, code_cells, packed_instructions

ASSEMBLY = """
	.text
	.globl	add
add:
	pushq	%rbp
# %bb.0:
	vmovdqu64	(%rdi,%rax,8), %zmm0
	vpaddq	(%rsi,%rax,8), %zmm0, %zmm1
	vpaddq	%ymm1, %ymm2, %ymm3
	vaddsd	%xmm0, %xmm1, %xmm2
	vpbroadcastq	%rdx, %zmm4
	vpmaxsq	%zmm1, %zmm2, %zmm3
.LBB0_1:
	retq
"""


def test_instructions_are_counted_and_those_on_vectors_told_apart():
    n_instructions, packed = packed_instructions(ASSEMBLY)
    assert n_instructions == 8
    assert packed == {"vpaddq": 2, "vpmaxsq": 1}


@pytest.mark.skipif(
    "avx2" not in numba.core.codegen.get_host_cpu_features(), reason="needs vectors of 256 bits"
)
def test_the_code_of_a_loop_that_is_vectorized_has_some():
    @numba.njit
    def total(values):
        result = np.int64(0)
        for value in values:
            result += value
        return result

    assert total(np.arange(100)) == 4950
    (assembly,) = total.inspect_asm().values()
    n_instructions, packed = packed_instructions(assembly)
    assert packed["vpaddq"] > 0
    assert n_instructions > sum(packed.values())


def test_a_table_names_the_instructions_that_are_met_most_often():
    n_instructions, packed = packed_instructions(ASSEMBLY)
    table = code_cells([KernelCode(name="a.b", n_instructions=n_instructions, packed=packed)])
    assert table.rows == (("a.b", "vpaddq, vpmaxsq", "8", "3"),)
