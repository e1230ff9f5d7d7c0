"""The Ascend backend beside another library that uses ACL itself, on simulated chips: its streams, its recordings, its
threads, and what old versions of ACL ask for.

What every backend must do is in the conformance suite, which tests/conformance runs on the same devices.
"""

from __future__ import annotations

import pytest

from .installed import NEEDS_ASCEND
from .programs import Program

pytestmark = NEEDS_ASCEND

PRELUDE = """
import ctypes, gc, os, pathlib, threading, time
import unify as un
import unify.simulator.ascend as simulator

if "OLD_ACL" in os.environ:
    old, whole = pathlib.Path("old.so").resolve(), simulator.library_path().read_bytes()
    old.write_bytes(whole.replace(b"\\0aclrtLaunchHostFunc\\0", b"\\0xclrtLaunchHostFunc\\0"))
    simulator.library_path = lambda: old
simulation = un.simulate("ascend:910B3", count=2, memory_bytes=256 << 20)
device = un.device("ascend:0")
acl = ctypes.CDLL(str(simulator.library_path()))
acl.aclrtSetDevice(0)

def made(call, *arguments):
    handle = ctypes.c_void_p()
    assert getattr(acl, call)(ctypes.byref(handle), *arguments) == 0
    return handle

def wrapped(native):
    return un.Stream.from_native(native.value, device)

"""
KERNELS = """
import triton.language as tl
import unify as un

@un.jit
def double_kernel(x, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i, mask=i < n) * 2, mask=i < n)
"""
OLD_ACL = {"OLD_ACL": "1"}  # of before aclrtLaunchHostFunc


# ---- recordings of another library ----


@pytest.mark.parametrize("mode", [0, 2])
def test_a_stream_that_is_drawn_into_a_recording_gives_no_memory_to_it(program: Program, mode: int) -> None:
    refused, value = program(f"""
        x, native, own = un.ones(1024, device=device), made("aclrtCreateStream"), un.Stream(device)
        double_kernel[(4,)](x, 1024, BLOCK=256)
        device.synchronize()
        stream = wrapped(native)
        assert acl.aclmdlRICaptureBegin(native, {mode}) == 0
        own.wait(stream.record())
        print(type(told(lambda: double_kernel[(4,)](x, 1024, BLOCK=256, stream=own))).__name__)
        stream.wait(own.record())
        graph = ctypes.c_void_p()
        assert acl.aclmdlRICaptureEnd(native, ctypes.byref(graph)) == 0  # it is whole
        del x
        gc.collect()
        y = un.full((1024,), 5, un.float32, device)
        device.synchronize()
        assert acl.aclmdlRIExecuteAsync(graph, native) == acl.aclrtSynchronizeStream(native) == 0
        print(y.numpy()[0])
    """)
    assert (refused, value) == ("GraphError", "5.0")


ASKED = {
    "the stream's wait": "own.synchronize()",
    "the stream's question": "own.is_idle",
    "the device's wait": "device.synchronize()",
    "the event's wait": "event.synchronize()",
    "the event's question": "event.is_done",
    "a trim of memory": "un.trim_memory(device)",
    "the wrapped stream's question": "stream.is_idle",
}


@pytest.mark.parametrize("what", ASKED)
def test_no_question_of_ours_breaks_the_recording_of_another_library(program: Program, what: str) -> None:
    (answers,) = program(f"""
        x, native, own = un.ones(1024, device=device), made("aclrtCreateStream"), un.Stream(device)
        device.synchronize()
        stream = wrapped(native)
        assert acl.aclmdlRICaptureBegin(native, 2) == 0
        event = stream.record()
        own.wait(event)
        told(lambda: {ASKED[what]})
        stream.wait(own.record())
        graph = ctypes.c_void_p()
        answers = [acl.aclmdlRICaptureEnd(native, ctypes.byref(graph))]
        own.synchronize()
        print(answers, own.is_idle, stream.is_idle)
    """)
    assert answers == "[0] True True"


# ---- streams that their owners destroy ----


def test_a_stream_that_its_owner_destroyed_is_asked_no_more(program: Program) -> None:
    (states,) = program("""
        x, native = un.ones(1024, device=device), made("aclrtCreateStream")
        double_kernel[(4,)](x, 1024, BLOCK=256)
        device.synchronize()
        stream = wrapped(native)
        double_kernel[(4,)](x, 1024, BLOCK=256, stream=stream)
        stream.synchronize()
        del stream
        gc.collect()
        assert acl.aclrtDestroyStream(native) == 0
        print([told(device.synchronize) for _ in range(3)], x.numpy()[0], device.state)
    """)
    nothing = ["nothing was raised"] * 3
    assert states == f"{nothing} 4.0 healthy"


def test_the_end_of_a_stream_with_work_left_is_told_once(program: Program) -> None:
    (states,) = program("""
        x, native = un.ones(1024, device=device), made("aclrtCreateStream")
        double_kernel[(4,)](x, 1024, BLOCK=256)
        device.synchronize()
        stream = wrapped(native)
        double_kernel[(4,)](x, 1024, BLOCK=256, stream=stream)
        assert acl.aclrtDestroyStream(native) == 0
        print(*(type(told(device.synchronize)).__name__ for _ in range(3)), device.state)
    """)
    assert states == "InvalidArgument str str healthy"


# ---- waits and faults ----


def test_waiting_for_the_device_waits_for_all_streams_though_one_failed(program: Program) -> None:
    (values,) = program("""
        ran, streams = [], [un.Stream(device) for _ in range(8)]
        for one in streams:
            one.host_call(lambda: (time.sleep(0.02), ran.append(1)))
        simulation.fail("aclrtSynchronizeStream", error="ACL_ERROR_RT_INTERNAL_ERROR")
        print(type(told(device.synchronize)).__name__, len(ran), device.state)
    """)
    assert values == "Error 8 healthy"


# ---- ACL before aclrtLaunchHostFunc ----


def test_a_host_function_of_an_old_acl_runs_though_its_stream_s_wrapper_is_dropped(program: Program) -> None:
    (ran,) = program(
        """
        un.ones(8, device=device)
        device.synchronize()
        native, memory, ran = made("aclrtCreateStream"), made("aclrtMalloc", 64, 0), threading.Event()
        stream = wrapped(native)
        simulation.hang("aclrtMemsetAsync")
        assert acl.aclrtMemsetAsync(memory, 64, 0, 64, native) == 0  # the owner's own work
        stream.host_call(ran.set)
        del stream
        gc.collect()
        other = un.Stream(device)
        other.synchronize()
        other.synchronize()  # which gives up what was dropped
        simulation.release()
        print(ran.wait(20), acl.aclrtSynchronizeStreamWithTimeout(native, 20000), acl.aclrtDestroyStream(native))
    """,
        environment=OLD_ACL,
    )
    assert ran == "True 0 0"


def test_the_thread_that_serves_an_old_acl_sleeps_while_there_is_nothing_to_serve(program: Program) -> None:
    served, idle = program(
        """
        def seconds():
            start = time.process_time()
            time.sleep(1)
            return time.process_time() - start

        native, ran = made("aclrtCreateStream"), threading.Event()
        stream = wrapped(native)
        stream.host_call(ran.set)
        stream.synchronize()
        assert ran.is_set()
        deadline = time.monotonic() + 20
        thread = ctypes.c_uint64(threading.get_ident())
        while acl.aclrtSubscribeReport(thread, native) != 0:  # the owner's again, as soon as no call is in it
            assert time.monotonic() < deadline
        print("served")
        print(seconds() < 0.3)
    """,
        environment=OLD_ACL,
    )
    assert (served, idle) == ("served", "True")


def test_a_host_function_of_an_old_acl_runs_on_the_thread_that_the_owner_subscribed(program: Program) -> None:
    (ran,) = program(
        """
        un.ones(8, device=device)
        device.synchronize()
        native, ids, ready, ended = made("aclrtCreateStream"), [], threading.Event(), threading.Event()

        def serve():
            acl.aclrtSetDevice(0)
            ready.set()
            while not ended.is_set():
                acl.aclrtProcessReport(50)

        thread = threading.Thread(target=serve)
        thread.start()
        ready.wait()
        assert acl.aclrtSubscribeReport(ctypes.c_uint64(thread.ident), native) == 0
        stream = wrapped(native)
        stream.host_call(lambda: ids.append(threading.get_ident()))
        stream.synchronize()
        print(ids == [thread.ident], acl.aclrtUnSubscribeReport(ctypes.c_uint64(thread.ident), native))
        ended.set()
        thread.join()
    """,
        environment=OLD_ACL,
    )
    assert ran == "True 0"
