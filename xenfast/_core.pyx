"""The hot core of xenfast: CPU, paging, machine memory and what Xen does on the hot path of a guest.

One compilation unit, in this order (each file's head says what it is and where it is specified):
"""
from libc.stdlib cimport calloc, free, malloc, realloc  # no-cython-lint
from libc.string cimport memcmp, memcpy, memmove, memset  # no-cython-lint

from cpython.buffer cimport PyBuffer_FillInfo  # no-cython-lint
from cpython.object cimport PyObject_GenericSetAttr  # no-cython-lint

import numpy  # no-cython-lint

ctypedef void (*handler_t)(Cpu*, Insn*) noexcept nogil

include "cpu/host.pxi"          # what is needed of the compiler and libc
include "cpu/flags.pxi"         # RFLAGS, lazily
include "cpu/memory.pxi"        # machine memory and the frame table
include "cpu/mmu.pxi"           # linear -> TLB -> page walk
include "cpu/access.pxi"        # memory and operand access, faults
include "cpu/modes.pxi"         # what follows from CR0, EFER, CPL and the segments
include "cpu/missing.pxi"
include "cpu/cpuid.pxi"         # CPUID: the policy and the leaves
include "cpu/msr.pxi"           # model-specific registers, the TSC
include "cpu/segment.pxi"       # descriptors and segment registers
include "cpu/fp_host.pxi"       # IEEE arithmetic of the host
include "cpu/vec.pxi"           # vector operands and the shapes of vector instructions
include "cpu/mxcsr.pxi"         # MXCSR and SIMD floating-point exceptions
include "cpu/f80.pxi"           # 80-bit floating point: rounding and arithmetic
include "cpu/f80_convert.pxi"   # its conversions, remainders, scaling
include "cpu/x87.pxi"           # the register stack
include "cpu/ops_x87.pxi"       # x87: arithmetic, comparison, loads, stores
include "cpu/ops_x87_reg.pxi"   # x87: register moves, functions
include "cpu/ops_x87_control.pxi"    # x87: environment, FXSAVE
include "cpu/ops_packed_arith.pxi"   # packed integers, MMX and XMM
include "cpu/ops_packed_shift.pxi"
include "cpu/ops_packed_shuffle.pxi"
include "cpu/ops_sse_move.pxi"
include "cpu/ops_sse_float.pxi"
include "cpu/ops_sse_convert.pxi"
include "cpu/opcodes.pxi"       # the opcode table: shape and row functions
include "cpu/opcodes_x87.pxi"   # its rows
include "cpu/opcodes_sse.pxi"
include "cpu/decode.pxi"        # bytes -> Insn
include "cpu/ops_alu.pxi"       # what instructions do: arithmetic and logic
include "cpu/ops_move.pxi"      # MOV and its kin
include "cpu/ops_shift.pxi"     # shifts and rotates
include "cpu/ops_muldiv.pxi"    # multiplication and division
include "cpu/ops_bit.pxi"       # bit tests, scans and counts, CRC32
include "cpu/ops_stack.pxi"     # PUSH, POP, ENTER, LEAVE, flags on the stack
include "cpu/ops_branch.pxi"    # near branches, software interrupts
include "cpu/ops_far.pxi"       # far branches, IRET
include "cpu/ops_string.pxi"    # MOVS, STOS, LODS, CMPS, SCAS and REP
include "cpu/ops_io.pxi"        # IN, OUT, INS, OUTS
include "cpu/ops_flags.pxi"     # single flags
include "cpu/ops_bcd.pxi"       # decimal adjustment
include "cpu/ops_system.pxi"    # system registers and calls
include "cpu/opcodes_1byte.pxi" # rows of the opcode table: one-byte map
include "cpu/opcodes_0f.pxi"    # 0F map, integer part of 0F38
include "cpu/block.pxi"         # the cache of decoded blocks; self-modifying code
include "cpu/execute.pxi"       # threaded dispatch and the run loop
include "cpu/specialise.pxi"    # choosing threaded handlers
include "cpu/interrupts.pxi"    # delivery through the IDT (bare machines)
include "cpu/lz4.pxi"           # LZ4 blocks, for kernels
include "cpu/zstd.pxi"          # Zstandard frames, for kernels
include "cpu/api_memory.pxi"    # Python classes: Memory
include "cpu/api_vcpu.pxi"      # MachineClock, GuestPhysMap, Vcpu

init_cpuid()
init_opcodes()
