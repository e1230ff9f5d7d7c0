"""Sharing: tensors and events of one process that others use."""

from __future__ import annotations

import struct
from contextlib import AbstractContextManager

import pytest

import unify as un
from unify._errors import (
    DeviceMismatchError,
    Error,
    GraphError,
    InvalidArgument,
    UnsupportedError,
)
from unify.testing.arrays import assert_same, random_array
from unify.testing.conformance.fixtures import GATE_LIMIT_S, Gate
from unify.testing.conformance.process import Child, run, start

shares = pytest.mark.needs("ipc", support="native")

OPEN = """
tokens = [bytes.fromhex(text) for text in sys.argv[3:]]
def idle():  # ends what nobody holds any more
    device.synchronize()
    un.memory_statistics(device)
"""
# Offsets in a token: csrc/core/sharing.cpp
VERSION, KIND, DEVICE, HANDLE = 8, 12, 16, 80
DTYPE, NDIM, SEGMENT, OFFSET, SHAPE, STRIDES = 208, 224, 232, 240, 248, 312  # of tensors


def opened(device: un.Device, code: str, *tokens: bytes, **variables: str) -> AbstractContextManager[Child]:
    """A child that has `tokens`."""
    return start(device, OPEN + code, *(token.hex() for token in tokens), **variables)


def changed(token: bytes, offset: int, value: bytes) -> bytes:
    return token[:offset] + value + token[offset + len(value) :]


def number(value: int) -> bytes:
    return struct.pack("<Q" if value >= 0 else "<q", value)


@pytest.mark.needs("ipc", support="absent")
def test_a_device_that_shares_nothing_says_so(device: un.Device) -> None:
    with pytest.raises(UnsupportedError, match=f"{device.name}: share: .*nothing between processes"):
        un.ones(3, un.int8, device).share()
    with pytest.raises(UnsupportedError, match=f"{device.name}: a shared event: .*nothing between processes"):
        un.Event(device, shared=True)
    with pytest.raises(UnsupportedError):
        un.Event(device).share()


@shares
@pytest.mark.parametrize("dtype", ["bool", "int8", "bfloat16", "float32", "int64", "float8_e5m2"])
def test_a_child_reads_what_its_parent_wrote(device: un.Device, dtype: str) -> None:
    tensor = un.asarray(random_array((1000,), "uint8", 1) % 2, device=device, copy=True).to(un.dtype(dtype))
    code = "x = un.Tensor.from_shared(tokens[0])\nsay(x.dtype.name, x.shape, x.device, x.to(un.int8).tolist())"
    with opened(device, code, tensor.share()) as child:
        assert child.hear() == f"{dtype} (1000,) {device.name} {tensor.to(un.int8).tolist()}"


@shares
def test_its_parent_reads_what_a_child_wrote(device: un.Device) -> None:
    tensor = un.zeros(1000, un.int32, device)
    code = "x = un.Tensor.from_shared(tokens[0])\nx[10:].fill_(7)\ndevice.synchronize()"
    with opened(device, code, tensor.share()):
        pass
    assert tensor.tolist() == [0] * 10 + [7] * 990


@shares
def test_both_write_in_turn(device: un.Device) -> None:
    tensor = un.zeros(3, un.int32, device)
    code = """
x = un.Tensor.from_shared(tokens[0])
for _ in range(5):
    value = int(hear())
    assert x.tolist() == [value] * 3, x.tolist()
    x.fill_(value + 1)
    device.synchronize()
    say("written")
"""
    with opened(device, code, tensor.share()) as child:
        for value in range(0, 50, 10):
            tensor.fill_(value)
            device.synchronize()
            child.say(str(value))
            assert child.hear() == "written"
            assert tensor.tolist() == [value + 1] * 3


VIEWS = {
    "offset": lambda x: x[3:],
    "strided": lambda x: x[::2, 1::3],
    "transposed": lambda x: x.T,
    "backwards": lambda x: x[::-1, 4::-2],
    "broadcast": lambda x: x[1].broadcast_to(4, 8),
    "one element": lambda x: x[2, 3],
    "nothing": lambda x: x[:0],
}


@shares
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_the_same_view(device: un.Device, view: str) -> None:
    whole = un.asarray(random_array((6, 8), "int16", 2), device=device, copy=True)
    part = VIEWS[view](whole)
    code = "x = un.Tensor.from_shared(tokens[0])\nsay(x.shape, x.strides, x.tolist())"
    with opened(device, code, part.share()) as child:
        assert child.hear() == f"{part.shape} {part.strides} {part.tolist()}"


@shares
def test_a_large_tensor_of_a_segment_of_its_own(device: un.Device) -> None:
    array = random_array((12 << 20,), "uint8", 3)
    tensor = un.asarray(array, device=device, copy=True)
    code = "x = un.Tensor.from_shared(tokens[0])\nx.copy_(x.copy())\nx[5].fill_(9)\ndevice.synchronize()"
    with opened(device, code, tensor.share()):
        pass
    array[5] = 9
    assert_same(tensor, array)


@shares
def test_two_tensors_of_one_segment(device: un.Device) -> None:
    both = un.zeros((2, 1000), un.int32, device)
    both[0].fill_(1)
    code = """
a, b = map(un.Tensor.from_shared, tokens)
say(b.address - a.address)
b.copy_(a)
del a
idle()
say(b.tolist() == [1] * 1000)
"""
    with opened(device, code, both[0].share(), both[1].share(), UNIFY_LAYERS="validate") as child:
        assert child.hear() == "4000"
        assert child.hear() == "True"
    assert both[1].tolist() == [1] * 1000


@shares
def test_a_token_can_be_opened_again(device: un.Device) -> None:
    tensor = un.full(1000, 3, un.int32, device)
    code = """
a, b = un.Tensor.from_shared(tokens[0]), un.Tensor.from_shared(tokens[0])
assert a.address == b.address
del a
idle()
assert b.tolist() == [3] * 1000
a = un.Tensor.from_shared(tokens[0])
del b
idle()
assert a.tolist() == [3] * 1000
del a
idle()
assert un.Tensor.from_shared(tokens[0]).tolist() == [3] * 1000
"""
    with opened(device, code, tensor.share(), UNIFY_LAYERS="validate"):
        pass


@shares
def test_two_children_see_each_other(device: un.Device) -> None:
    tensor = un.zeros(3, un.int32, device)
    token = tensor.share()
    write = "un.Tensor.from_shared(tokens[0]).fill_(int(hear()))\ndevice.synchronize()\nsay('written')\nhear()"
    read = "hear()\nsay(un.Tensor.from_shared(tokens[0]).tolist())"
    with opened(device, write, token) as writer, opened(device, read, token) as reader:
        writer.say("8")
        assert writer.hear() == "written"
        reader.say("now")
        assert reader.hear() == "[8, 8, 8]"
        writer.say("end")


@shares
def test_sharing_waits_for_the_current_stream(device: un.Device, stream: un.Stream) -> None:
    with stream:
        tensor = un.zeros(4 << 20, un.uint8, device)
        for value in range(20):
            tensor.fill_(value)
        token = tensor.share()
    with opened(device, "say(un.Tensor.from_shared(tokens[0])[-3:].tolist())", token) as child:
        assert child.hear() == "[19, 19, 19]"


@shares
@pytest.mark.needs("host_calls", support="native")
def test_memory_stays_open_until_streams_have_passed(device: un.Device) -> None:
    tensor = un.full(1000, 5, un.int32, device)
    code = """
stream, gate = un.Stream(device), threading.Event()
x, out = un.Tensor.from_shared(tokens[0]), un.zeros(1000, un.int32, device)
device.synchronize()
stream.host_call(gate.wait)
out.copy_(x, stream=stream)
del x
kept = [un.empty(1000, un.int32, device) for _ in range(10)]
gate.set()
stream.synchronize()
idle()
assert out.tolist() == [5] * 1000
"""
    with opened(device, code, tensor.share(), UNIFY_LAYERS="validate,leaks"):
        pass


@shares
def test_nothing_is_left_open(device: un.Device) -> None:
    tensor, event = un.full(1000, 5, un.int32, device), un.Event(device, shared=True)
    code = """
def cycle():
    x, event = un.Tensor.from_shared(tokens[0]), un.Event.from_shared(tokens[1])
    x[1:].fill_(1)
    event.record()
    device.current_stream.wait(event)
cycle()
idle()
before = un.memory_statistics(device)
for _ in range(50):
    cycle()
idle()
after = un.memory_statistics(device)
assert (after.allocated_bytes, after.reserved_bytes) == (before.allocated_bytes, before.reserved_bytes)
"""
    with opened(device, code, tensor.share(), event.share(), UNIFY_LAYERS="validate,leaks"):
        pass


@shares
def test_the_layer_leaks_counts_what_was_opened(device: un.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor, event = un.zeros(256, un.int32, device), un.Event(device, shared=True)
    monkeypatch.setenv("UNIFY_LAYERS", "leaks")
    code = f"""
    import ctypes
    for kind, token in ((un.Tensor, "{tensor.share().hex()}"), (un.Event, "{event.share().hex()}")):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kind.from_shared(bytes.fromhex(token))))
    """
    assert "held to the end: 1.0 KiB in 1 tensor, 1 event\n" in run(device, code).stderr


@shares
@pytest.mark.needs("host_calls", support="native")
def test_an_event_of_the_parent_holds_the_childs_stream(device: un.Device, stream: un.Stream, gate: Gate) -> None:
    tensor, event = un.zeros(1000, un.int32, device), un.Event(device, shared=True)
    tokens = tensor.share(), event.share()
    gate.close(stream)
    tensor.fill_(6, stream=stream)
    event.record(stream)
    code = """
x, event, stream = un.Tensor.from_shared(tokens[0]), un.Event.from_shared(tokens[1]), un.Stream(device)
assert event.is_shared and not event.has_timing
stream.wait(event)
out = un.empty(1000, un.int32, device, stream=stream)
out.copy_(x, stream=stream)
say(event.is_done, stream.is_idle)
hear()
stream.synchronize(60)
assert event.is_done
say(out.tolist() == [6] * 1000)
"""
    with opened(device, code, *tokens) as child:
        assert child.hear() == "False False"
        gate.open()
        child.say("open")
        assert child.hear() == "True"


@shares
@pytest.mark.needs("host_calls", support="native")
def test_an_event_of_the_child_holds_the_parents_stream(device: un.Device, stream: un.Stream) -> None:
    tensor, event = un.zeros(1000, un.int32, device), un.Event(device, shared=True)
    code = """
x, event, stream = un.Tensor.from_shared(tokens[0]), un.Event.from_shared(tokens[1]), un.Stream(device)
gate = threading.Event()
stream.host_call(gate.wait)
x.fill_(4, stream=stream)
event.record(stream)
say("recorded")
hear()
gate.set()
stream.synchronize()
hear()
"""
    with opened(device, code, tensor.share(), event.share()) as child:
        assert child.hear() == "recorded"
        stream.wait(event)
        out = un.empty(1000, un.int32, device, stream=stream)
        out.copy_(tensor, stream=stream)
        is_done, is_idle = event.is_done, stream.is_idle
        child.say("open")
        assert (is_done, is_idle) == (False, False)
        stream.synchronize(GATE_LIMIT_S)
        assert event.is_done
        assert out.tolist() == [4] * 1000
        child.say("end")


@shares
def test_a_token_is_for_other_processes(device: un.Device) -> None:
    tensor, event = un.zeros(3, un.int32, device), un.Event(device, shared=True)
    with pytest.raises(InvalidArgument, match="same process"):
        un.Tensor.from_shared(tensor.share())
    with pytest.raises(InvalidArgument, match="same process"):
        un.Event.from_shared(event.share())


@shares
def test_what_a_child_opened_is_not_its_own_to_share(device: un.Device) -> None:
    tensor, event = un.zeros(3, un.int32, device), un.Event(device, shared=True)
    code = """
for kind, token, refused in zip((un.Tensor, un.Event), tokens, (un.UnsupportedError, un.InvalidArgument)):
    try:
        kind.from_shared(token).share()
    except refused as error:
        assert "pass on the token" in str(error).lower(), error
        say("refused")
"""
    with opened(device, code, tensor.share(), event.share()) as child:
        assert child.hear() == child.hear() == "refused"


@shares
@pytest.mark.parametrize("kind", [un.Tensor, un.Event])
def test_rubbish_is_no_token(device: un.Device, kind: type[un.Tensor] | type[un.Event]) -> None:
    tensor, event = un.zeros(3, un.int32, device), un.Event(device, shared=True)
    good, other = (tensor.share(), event.share())[:: 1 if kind is un.Tensor else -1]
    rubbish = [
        b"", b"x", bytes(len(good)), b"\xff" * len(good), good[:-1], good + b"\0", good[:100], other,
        changed(good, VERSION, b"\2"), changed(good, KIND, b"\7"), changed(good, DEVICE, bytes(64)),
        changed(good, DEVICE, b"\xff"), changed(good, DEVICE, b"a" * 64), changed(good, DEVICE, b"../cuda"),
        changed(good, HANDLE, bytes(128)), changed(good, HANDLE, b"\xff" * 128),
    ]  # fmt: skip
    for token in rubbish:
        with pytest.raises(InvalidArgument):
            kind.from_shared(token)
    for wrong in ("text", None, 3):
        with pytest.raises(InvalidArgument, match="a token is bytes"):
            kind.from_shared(wrong)  # type: ignore[arg-type]


@shares
def test_a_token_of_another_device(device: un.Device) -> None:
    token = un.zeros(3, un.int32, device).share()
    with pytest.raises(DeviceMismatchError, match=f"{device.name}.*cannot open"):
        un.Tensor.from_shared(token, device="cpu")
    with pytest.raises(InvalidArgument, match=f"{device.kind}:77"):
        un.Tensor.from_shared(changed(token, DEVICE, f"{device.kind}:77".encode() + bytes(20)))


BEYOND = "beyond its memory"
LIES = {
    "nine axes": (NDIM, number(9), "shape"),
    "many axes": (NDIM, number(2**64 - 1), "shape"),
    "a negative length": (SHAPE, number(-1), "shape"),
    "too many elements": (SHAPE, number(2**61) + number(2**61), "shape"),
    "a length too many": (SHAPE, number(2**40), BEYOND),
    "a stride too far": (STRIDES, number(2**40), BEYOND),
    "a stride that overflows": (STRIDES, number(2**63 - 1), BEYOND),
    "strides that overflow together": (STRIDES, number(2**62) + number(2**62), BEYOND),
    "a stride back": (STRIDES, number(-(2**62)), BEYOND),
    "an offset too far": (OFFSET, number(2**40), BEYOND),
    "an offset that overflows": (OFFSET, number(2**64 - 4), BEYOND),
    "an offset between elements": (OFFSET, number(1), BEYOND),
    "no memory": (SEGMENT, number(0), BEYOND),
    "memory that overflows": (SEGMENT, number(2**64 - 1), BEYOND),
    "no dtype": (DTYPE, b"float31", "dtype"),
    "no text": (DTYPE, b"\xff", "dtype"),
}


@shares
@pytest.mark.parametrize("lie", LIES)
def test_a_token_that_lies_is_refused_before_it_is_opened(device: un.Device, lie: str) -> None:
    token = un.zeros((3, 2), un.int32, device).share()
    offset, value, what = LIES[lie]
    with pytest.raises(InvalidArgument, match=f"from_shared: .*{what}"):
        un.Tensor.from_shared(changed(token, offset, value))


@shares
def test_a_child_survives_each_wrong_byte(device: un.Device) -> None:
    tensor = un.zeros((3, 2), un.int32, device)
    code = f"""
kept, refused = [], 0
for i in range(len(tokens[0])):
    if {HANDLE} <= i < {DTYPE}:
        continue  # the driver's
    token = bytearray(tokens[0])
    token[i] ^= 0x81
    try:
        kept.append(un.Tensor.from_shared(token))
    except un.errors.Error:
        refused += 1
assert refused > 50, refused
assert un.Tensor.from_shared(tokens[0]).tolist() == [[0, 0]] * 3
"""
    with opened(device, code, tensor.share()):
        pass


@shares
def test_a_process_that_ended_left_nothing_to_open(device: un.Device) -> None:
    finished = run(
        device, "print(un.ones(3, un.int8, device).share().hex(), un.Event(device, shared=True).share().hex())"
    )
    tensor, event = map(bytes.fromhex, finished.stdout.split())
    for open_ in (lambda: un.Tensor.from_shared(tensor), lambda: un.Event.from_shared(event)):
        with pytest.raises(Error, match="Does the process that shared it still live, and keep it"):
            open_()


@shares
def test_an_event_is_shared_or_has_timing(device: un.Device) -> None:
    assert not un.Event(device).is_shared
    assert un.Event(device, shared=True).is_shared
    assert "shared=True" in repr(un.Event(device, shared=True))
    with pytest.raises(InvalidArgument, match="not both"):
        un.Event(device, shared=True, timing=True)
    with pytest.raises(InvalidArgument, match="Make it with shared=True"):
        un.Event(device).share()


@shares
@pytest.mark.needs("graphs")
def test_nothing_is_shared_by_a_graph(device: un.Device, stream: un.Stream) -> None:
    tensor, event = un.zeros(3, un.int32, device), un.Event(device, shared=True)
    device.synchronize()
    with stream, un.Graph.capture(stream):
        tensor.fill_(1)
        with pytest.raises(GraphError, match="shared event"):
            event.record(stream)
        with pytest.raises(GraphError):
            tensor.share()


@shares
@pytest.mark.needs("reset")
def test_a_reset_takes_what_was_shared_and_what_was_opened(device: un.Device) -> None:
    tensor, event = un.full(3, 2, un.int32, device), un.Event(device, shared=True)
    code = """
x, event = un.Tensor.from_shared(tokens[0]), un.Event.from_shared(tokens[1])
mine, marked = un.ones(3, un.int32, device), un.Event(device, shared=True)
device.synchronize()
device.reset()
for use in (mine.share, marked.share, x.tolist, event.record):
    try:
        use()
    except un.errors.DeviceLost:
        say("lost")
assert un.Tensor.from_shared(tokens[0]).tolist() == [2] * 3
del x, event, mine, marked, use
idle()
assert un.Tensor.from_shared(tokens[0]).tolist() == [2] * 3
"""
    with opened(device, code, tensor.share(), event.share(), UNIFY_LAYERS="validate,leaks") as child:
        assert [child.hear() for _ in range(4)] == ["lost"] * 4
