"""What a kernel knows about its place in the grid, and hints that have no code."""

from __future__ import annotations

from unify.compiler import mlir
from unify.compiler.cpu.codegen import nest
from unify.compiler.cpu.codegen.emitter import Val
from unify.compiler.cpu.codegen.values import Kernel, statement


@statement("tt.get_program_id")
def program_id(k: Kernel, op: mlir.Operation) -> None:
    k.bindings[op.results[0]] = Val("i32", 1, f"%pid{op.integer('axis')}")


@statement("tt.get_num_programs")
def num_programs(k: Kernel, op: mlir.Operation) -> None:
    k.bindings[op.results[0]] = Val("i32", 1, f"%grid{op.integer('axis')}")


# A grid begins when the one before it on its stream is done: there is nothing to wait for.
@statement(
    "gpu.barrier", "ttg.barrier", "tt.debug_barrier", "tt.grid_dependency_wait", "tt.grid_dependency_launch_dependents"
)
def barrier(k: Kernel, op: mlir.Operation) -> None:
    nest.flush_all(k)


@statement("llvm.intr.assume")
def ignored(k: Kernel, op: mlir.Operation) -> None:
    nest.flush_all(k)
