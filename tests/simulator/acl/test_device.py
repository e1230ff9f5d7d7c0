"""The runtime itself, devices, and contexts, which are bound to threads."""

from __future__ import annotations

import ctypes
import threading

import pytest

from .driver import H2D, Acl, AclError


def in_a_thread(work: object) -> object:
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(work()))  # type: ignore[operator]
    thread.start()
    thread.join()
    return answers[0]


def test_a_second_init_says_so_and_is_counted(acl: Acl) -> None:
    assert acl.result("aclInit", None) in ("SUCCESS", "REPEAT_INITIALIZE")
    assert acl.result("aclInit", None) == "REPEAT_INITIALIZE"
    assert acl.made("aclFinalizeReference") >= 1
    acl.aclFinalize()
    assert acl.result("aclFinalize") == acl.result("aclFinalizeReference", None) == "REPEAT_FINALIZE"


@pytest.mark.parametrize(
    ("chip", "soc", "cubes", "vectors", "ubuf_kib", "arch"),
    [
        ("910B1", b"Ascend910B1", 24, 48, 192, 2201),
        ("910B2", b"Ascend910B2", 24, 48, 192, 2201),
        ("910B3", b"Ascend910B3", 20, 40, 192, 2201),
        ("910B4", b"Ascend910B4", 20, 40, 192, 2201),
        ("910C", b"Ascend910_9392", 24, 48, 192, 2201),
        ("950", b"Ascend950PR_9599", 36, 72, 248, 3510),
    ],
)
def test_a_chip_is_itself(chip: str, soc: bytes, cubes: int, vectors: int, ubuf_kib: int, arch: int) -> None:
    acl = Acl(chip=chip, memory_bytes=128 << 20)
    assert acl.library.aclrtGetSocName() == soc
    attributes = [acl.told("aclrtGetDeviceInfo", 0, number) for number in (102, 201, 204, 601, 301)]
    assert attributes == [cubes, vectors, ubuf_kib << 10, arch, 128 << 20]
    assert [acl.told("aclGetDeviceCapability", 0, number) for number in (0, 1)] == [cubes, vectors]


def test_that_it_is_simulated_stands_in_the_drivers_version(acl: Acl) -> None:
    text = ctypes.create_string_buffer(128)
    acl.aclsysGetVersionStr(b"driver", text)
    assert b"(simulated)" in text.value
    acl.aclsysGetVersionStr(b"runtime", text)
    assert text.value == b"9.0.0"
    assert acl.result("aclsysGetVersionStr", b"ops_math", text) == "INVALID_FILE"
    uuids = set()
    for device in (0, 1):
        uuid = ctypes.create_string_buffer(16)
        acl.aclrtDeviceGetUuid(device, uuid)
        uuids.add(uuid.raw)
    assert len(uuids) == 2
    assert all(b"simulated" in uuid for uuid in uuids)


def test_a_thread_has_no_device_until_it_sets_one(acl: Acl) -> None:
    out = ctypes.c_uint64()

    def elsewhere() -> list[str]:
        before = [
            acl.result("aclrtGetDevice", ctypes.byref(ctypes.c_int())),
            acl.result("aclrtMalloc", ctypes.byref(out), ctypes.c_size_t(16), 0),
            acl.result("aclrtCreateStream", ctypes.byref(out)),
            acl.result("aclrtSynchronizeStream", None),
            acl.result("aclrtGetCurrentContext", ctypes.byref(out)),
        ]
        acl.aclrtSetDevice(1)
        device = ctypes.c_int()
        acl.aclrtGetDevice(ctypes.byref(device))
        return [*before, str(device.value)]

    assert in_a_thread(elsewhere) == ["RT_CONTEXT_NULL"] * 5 + ["1"]
    device = ctypes.c_int()
    acl.aclrtGetDevice(ctypes.byref(device))
    assert device.value == 0


def test_a_context_goes_from_thread_to_thread_and_takes_its_device_along(acl: Acl) -> None:
    first = acl.made("aclrtGetCurrentContext")
    acl.aclrtSetDevice(1)
    second = acl.made("aclrtGetCurrentContext")
    assert first != second

    def elsewhere() -> int:
        acl.aclrtSetCurrentContext(first)
        device = ctypes.c_int()
        acl.aclrtGetDevice(ctypes.byref(device))
        return device.value

    assert in_a_thread(elsewhere) == 0
    acl.aclrtSetCurrentContext(first)
    assert acl.result("aclrtSetCurrentContext", 12345) == "RT_CONTEXT_NULL"


def test_a_context_of_ones_own_has_its_own_streams(acl: Acl) -> None:
    primary, default = acl.made("aclrtGetCurrentContext"), acl.made("aclrtCtxGetCurrentDefaultStream")
    own = acl.made("aclrtCreateContext", 0)
    assert acl.made("aclrtGetCurrentContext") == own != primary
    stream = acl.stream()
    assert acl.made("aclrtCtxGetCurrentDefaultStream") != default
    acl.aclrtSetCurrentContext(primary)
    data = acl.malloc(16)
    assert acl.fill_later(data, 1, 16, stream) == "RT_STREAM_CONTEXT"
    assert acl.result("aclrtDestroyContext", primary) == "RT_PARAM_INVALID"
    acl.aclrtDestroyContext(own)
    assert acl.result("aclrtSynchronizeStream", stream) == "RT_INVALID_HANDLE"
    assert acl.fill_later(data, 1, 16, default) == "SUCCESS"


def test_a_device_is_reset_as_often_as_it_was_set(acl: Acl) -> None:
    acl.aclrtSetDevice(0)
    data = acl.malloc(16)
    acl.aclrtResetDevice(0)
    acl.aclrtFree(data)
    acl.aclrtResetDevice(0)
    assert acl.result("aclrtResetDevice", 0) == acl.result("aclrtResetDeviceForce", 0) == "RT_CONTEXT_NULL"
    assert acl.result("aclrtGetDevice", ctypes.byref(ctypes.c_int())) == "RT_CONTEXT_NULL"


def test_a_reset_takes_all_that_is_the_device_s(acl: Acl) -> None:
    acl.upload(b"1234")
    acl.made("aclrtMemAllocManaged", ctypes.c_uint64(16), 1)
    acl.event()
    for ends in (True, False):
        stream = acl.stream()
        acl.aclmdlRICaptureBegin(stream, 2)
        if ends:
            assert acl.told("aclmdlRICaptureEnd", stream)
    acl.aclrtSetDevice(0)
    acl.aclrtResetDeviceForce(0)
    kinds = ("bytes", "allocations", "managed_bytes", "streams", "events", "modules", "graph_execs", "retained")
    assert {acl.live(kind) for kind in kinds} == {0}
    assert acl.told("aclrtGetPrimaryCtxState", 0, None) & 0xFFFFFFFF == 0


def test_pinned_memory_is_no_device_s_and_outlives_a_reset(acl: Acl) -> None:
    before, pinned = acl.live("pinned_bytes"), acl.pinned(16)
    assert acl.live("pinned_bytes") == before + 4096
    assert acl.live("pinned_bytes", 1) == 0
    ctypes.memset(pinned, 7, 16)
    acl.aclrtResetDeviceForce(0)
    assert ctypes.string_at(pinned, 16) == b"\7" * 16
    acl.aclrtSetDevice(0)
    address = acl.malloc(16)
    assert acl.copy_later(address, pinned, 16, H2D) == "SUCCESS"
    acl.aclrtSynchronizeStream(None)
    assert acl.download(address, 16) == b"\7" * 16
    acl.aclrtFreeHost(pinned)
    assert acl.live("pinned_bytes") == before


def test_an_unknown_device_is_named(acl: Acl) -> None:
    assert acl.result("aclrtSetDevice", 7) == "RT_INVALID_DEVICEID"
    assert "Invalid device ID 7" in acl.message()


def test_no_device_is_a_result_of_its_own() -> None:
    acl = Acl(count=0)
    assert acl.result("aclrtGetDeviceCount", ctypes.byref(ctypes.c_uint())) == "RT_NO_DEVICE"


def test_errors_and_their_texts_are_a_threads_own(acl: Acl) -> None:
    acl.message()
    assert acl.result("aclrtFree", 12345) == "RT_PARAM_INVALID"
    assert in_a_thread(lambda: (acl.result("aclrtPeekAtLastError", 0), acl.message())) == ("SUCCESS", "")
    assert acl.result("aclrtPeekAtLastError", 0) == "RT_PARAM_INVALID"
    assert acl.result("aclrtGetLastError", 0) == "RT_PARAM_INVALID"
    assert acl.result("aclrtPeekAtLastError", 0) == "SUCCESS"
    text = acl.message()
    assert "aclrtFree execute failed, reason=[invalid value]" in text
    assert acl.message() == ""


def test_the_newest_text_is_the_first(acl: Acl) -> None:
    acl.message()
    acl.result("aclrtFree", 12345)
    acl.result("aclrtSetDevice", 9)
    text = acl.message()
    assert text.index("aclrtSetDevice") < text.index("aclrtFree")


def test_what_is_not_served_says_so_by_name(acl: Acl, capfd: pytest.CaptureFixture[str]) -> None:
    acl.message()
    for _ in range(2):
        assert acl.result("aclmdlSetDump", b"Foo") == "RT_FEATURE_NOT_SUPPORT"
    assert "aclmdlSetDump is not served by the simulated device" in acl.message()
    assert capfd.readouterr().err.count("aclmdlSetDump is not served") == 1


def test_limits_of_time_and_cores_are_kept(acl: Acl) -> None:
    assert acl.told("aclrtSetOpExecuteTimeOutV2", ctypes.c_uint64(2_500_000)) == 3_000_000
    assert acl.made("aclrtGetOpExecuteTimeout") == 3000
    acl.aclrtSetDeviceResLimit(0, 1, 8)
    stream = acl.stream()
    assert acl.told("aclrtGetStreamResLimit", stream, 1) == 8
    acl.aclrtSetStreamResLimit(stream, 1, 4)
    acl.aclrtUseStreamResInCurrentThread(stream)
    assert acl.told("aclrtGetResInCurrentThread", 1) == 4
    acl.aclrtUnuseStreamResInCurrentThread(stream)
    assert acl.told("aclrtGetResInCurrentThread", 1) == 8
    acl.aclrtResetDeviceResLimit(0)
    assert acl.told("aclrtGetDeviceResLimit", 0, 1) == 40
    with pytest.raises(AclError, match="PARAM_INVALID"):
        acl.aclrtSetDeviceResLimit(0, 1, 41)


def test_options_are_of_the_process_and_of_a_context(acl: Acl) -> None:
    out = ctypes.c_int64()
    assert acl.result("aclrtCtxGetSysParamOpt", 0, ctypes.byref(out)) == "RT_SYSPARAMOPT_NOT_SET"
    acl.aclrtCtxSetSysParamOpt(0, ctypes.c_int64(1))
    assert acl.told("aclrtCtxGetSysParamOpt", 0) == 1
    assert acl.told("aclrtGetSysParamOpt", 0) == 1
    acl.aclrtSetSysParamOpt(0, ctypes.c_int64(0))
    assert acl.told("aclrtCtxGetSysParamOpt", 0) == 1
    acl.aclrtSetSysParamOpt(2, ctypes.c_int64(1))
    assert acl.told("aclrtGetSysParamOpt", 2) == 1
    assert acl.told("aclrtGetSysParamOpt", 1) == 0
    assert acl.result("aclrtSetSysParamOpt", 2, ctypes.c_int64(2)) == "RT_PARAM_INVALID"
    assert acl.result("aclrtSetSysParamOpt", 17, ctypes.c_int64(1)) == "INVALID_PARAM"


def test_a_question_without_an_answer_leaves_no_message(acl: Acl) -> None:
    def ask() -> tuple[str, str, str, str]:
        out = ctypes.c_uint64()
        device, first = acl.result("aclrtGetDevice", ctypes.byref(out)), acl.message()
        return device, first, acl.result("aclrtCreateStream", ctypes.byref(out)), acl.message()

    device, first, stream, second = in_a_thread(ask)  # type: ignore[misc]
    assert (device, first, stream) == ("RT_CONTEXT_NULL", "", "RT_CONTEXT_NULL")
    assert "the current context is null" in second


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((17, b"910B3", 1 << 30), "count is 17"),
        ((1, b"910", 1 << 30), "known: 910B1, 910B2, 910B3, 910B4, 910C, 950"),
        ((1, b"910B3", 1), "memory_bytes is 1"),
    ],
)
def test_a_configuration_that_is_not_possible_says_why(arguments: tuple[int, bytes, int], part: str) -> None:
    acl = Acl()
    count, chip, size = arguments
    assert acl.library.unify_simulator_configure(count, chip, ctypes.c_uint64(size)) == -1
    assert part in acl.library.unify_simulator_error().decode()


def test_devices_in_use_stay_as_they_are(acl: Acl) -> None:
    assert acl.library.unify_simulator_configure(1, b"910B3", ctypes.c_uint64(64 << 20)) == -1
    assert b"configure before" in acl.library.unify_simulator_error()


def test_a_kind_of_copy_is_not_a_number_of_a_device(acl: Acl) -> None:
    data = acl.upload(b"12345678")
    assert acl.copy_later(data, data, 8, H2D) == "RT_PARAM_INVALID"
    assert "from a device to a device" in acl.message()


def test_a_profile_begins_and_ends_and_says_that_it_is_empty(acl: Acl, capfd: pytest.CaptureFixture[str]) -> None:
    acl.library.aclprofCreateConfig.restype = ctypes.c_void_p
    assert acl.library.aclprofCreateConfig((ctypes.c_uint32 * 1)(7), 1, 0xFF, None, ctypes.c_uint64(1)) is None
    config = acl.library.aclprofCreateConfig((ctypes.c_uint32 * 1)(0), 1, 0xFF, None, ctypes.c_uint64(1))
    assert acl.result("aclprofStart", config) == "PROF_NOT_RUN"
    acl.aclprofInit(b"there", ctypes.c_size_t(5))
    assert acl.result("aclprofInit", b"there", ctypes.c_size_t(5)) == "PROF_ALREADY_RUN"
    acl.aclprofStart(config)
    assert acl.result("aclprofStart", config) == "PROF_ALREADY_RUN"
    assert acl.result("aclprofDestroyConfig", config) == "INVALID_PARAM"
    acl.aclprofStop(config)
    assert acl.result("aclprofStop", config) == "PROF_NOT_RUN"
    acl.aclprofDestroyConfig(config)
    acl.aclprofFinalize()
    assert acl.result("aclprofFinalize") == "PROF_NOT_RUN"
    assert "The simulated device has no profile" in capfd.readouterr().err
