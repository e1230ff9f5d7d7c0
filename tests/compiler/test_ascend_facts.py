"""Facts out of the vendor's last IR, on small pieces of it; test_ascend.py reads whole ones."""

from __future__ import annotations

from unify.compiler import ascend_facts

SPEC = (
    'module attributes {dlti.target_system_spec = #dlti.target_system_spec<"NPU" : #hacc.target_device_spec<'
    '#dlti.dl_entry<"UB_SIZE", 1572864 : i32>, #dlti.dl_entry<"L1_SIZE", 4194304 : i32>, '
    '#dlti.dl_entry<"L0C_SIZE", 1048576 : i32>>>,   hivm.module_core_type = #hivm.module_core_type<CORE>} {'
)
MIXED = (
    SPEC.replace("CORE", "MIX")
    + """
  func.func @k_infer_workspace_shape_function() -> index attributes {hacc.function_kind = #hacc.function_kind<HOST>} {
    %c12160 = arith.constant 12160 : index
    return %c12160 : index
  }
  func.func @k_infer_task_type_function() -> i8 attributes {hacc.function_kind = #hacc.function_kind<HOST>} {
    %c32_i8 = arith.constant 32 : i8
    return %c32_i8 : i8
  }
  func.func @k_infer_sync_block_lock_num_function() -> i64 attributes {hacc.function_kind = #hacc.function_kind<HOST>} {
    %c2_i64 = arith.constant 2 : i64
    return %c2_i64 : i64
  }
  func.func @k_infer_sync_block_lock_init_function() -> i64 attributes {} {
    %c-1_i64 = arith.constant -1 : i64
    return %c-1_i64 : i64
  }
  func.func @k_mix_aic(%arg0: i64) attributes {hacc.entry, hivm.func_core_type = #hivm.func_core_type<AIC>} {
    %c4096_i64 = arith.constant 4096 : i64
    %c0_i64 = arith.constant 0 : i64
    %0 = hivm.hir.pointer_cast(%c4096_i64) : memref<1x8x16x16xf16, #hivm.address_space<cbuf>>
    %1 = hivm.hir.pointer_cast(%c0_i64) : memref<8x16x16xf32, strided<[256, 16, 1]>, #hivm.address_space<cc>>
    hivm.hir.set_flag[<PIPE_M>, <PIPE_FIX>, <EVENT_ID0>]
    hivm.hir.wait_flag[<PIPE_M>, <PIPE_FIX>, <EVENT_ID0>]
    return
  }
  func.func @k_mix_aiv(%arg0: i64) attributes {hacc.entry, hivm.func_core_type = #hivm.func_core_type<AIV>} {
    %c4096_i64 = arith.constant 64 : i64
    %c8192_i64 = arith.constant 8192 : i64
    %0 = hivm.hir.pointer_cast(%c4096_i64) : memref<100xbf16, #hivm.address_space<ub>>
    %1 = hivm.hir.pointer_cast(%c8192_i64) : memref<100xbf16, #hivm.address_space<ub>>
    %2 = arith.select %arg0, %1, %0 : memref<100xbf16, #hivm.address_space<ub>>
    hivm.hir.pipe_barrier[<PIPE_V>]
    return
  }
}
"""
)


def test_each_kind_of_memory_ends_with_its_highest_buffer() -> None:
    facts = ascend_facts.read(MIXED, "")
    assert (facts.l1_bytes, facts.l1_limit) == (4096 + 8 * 16 * 16 * 2, 524288)
    assert (facts.l0c_bytes, facts.l0c_limit) == (8 * 16 * 16 * 4, 131072)
    assert (facts.ub_bytes, facts.ub_limit) == (8192 + 200, 196608)
    assert facts.double_buffered
    assert facts.sync_ops == 3


def test_a_constant_is_that_of_its_function() -> None:
    single = "".join(line for line in MIXED.splitlines(keepends=True) if "%c8192" not in line and "select" not in line)
    facts = ascend_facts.read(single, "")
    assert facts.ub_bytes == 64 + 200
    assert not facts.double_buffered


def test_what_the_launcher_must_bring() -> None:
    facts = ascend_facts.read(MIXED, "")
    assert (facts.workspace_bytes, facts.lock_count, facts.lock_init, facts.task_type) == (12160, 2, -1, 32)
    bare = ascend_facts.read(SPEC.replace("CORE", "AIV") + "}", "")
    assert (bare.mode, bare.lock_count, bare.task_type, bare.ub_bytes) == ("aiv", 0, None, None)
    assert bare.workspace_bytes is None  # not told, as of the 950


def test_where_the_ir_has_no_buffers_the_log_tells() -> None:
    text = SPEC.replace(",   hivm.module_core_type = #hivm.module_core_type<CORE>", "")
    entry = "\n  func.func @k() attributes {hacc.entry, hivm.func_core_type = #hivm.func_core_type<AIV>} {\n"
    facts = ascend_facts.read(text + entry, "Allocated UB size = 49152 bits\n")
    assert (facts.mode, facts.ub_bytes) == ("aiv", 6144)
