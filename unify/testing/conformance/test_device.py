"""Devices: names, identity, properties, capabilities."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest

import unify as un
from unify._errors import Error, InvalidArgument

CAPABILITIES = {
    "pinned_memory", "virtual_memory", "graphs", "host_calls", "peer_access", "ipc", "reset", "health", "priorities",
    "timing",
}  # fmt: skip


def test_a_name_opens_the_same_device_each_time(device: un.Device) -> None:
    assert un.device(device.name) is device


def test_a_device_opens_itself(device: un.Device) -> None:
    assert un.device(device) is device


def test_it_is_among_the_devices(device: un.Device) -> None:
    assert device in un.devices()


def test_its_name_is_kind_and_index(device: un.Device) -> None:
    assert device.name in (device.kind, f"{device.kind}:{device.index}")


def test_it_equals_its_name_and_no_other(device: un.Device) -> None:
    assert device == device.name
    assert device != "no such device"
    assert device != 3


def test_it_can_be_a_key(device: un.Device) -> None:
    assert {device: 1}[un.device(device.name)] == 1


def test_str_and_repr_name_it(device: un.Device) -> None:
    assert str(device) == device.name
    assert eval(repr(device), {"unify": un}) is device


def test_it_survives_pickle_and_copy(device: un.Device) -> None:
    assert pickle.loads(pickle.dumps(device)) is device
    assert copy.deepcopy(device) is device


def test_its_target_names_what_kernels_are_compiled_for(device: un.Device) -> None:
    kind, _, _ = device.target.partition(":")
    assert kind


def test_properties_are_plausible(device: un.Device) -> None:
    properties = device.properties
    assert properties["name"]
    assert properties["cores"] >= 1
    assert properties["max_threads"] >= 1
    assert properties["warp_size"] >= 1
    assert all(size >= 1 for size in properties["max_grid"])
    assert properties["memory_bytes"] > 0


def test_alignment_is_a_power_of_two(device: un.Device) -> None:
    alignment = device.properties["alignment"]
    assert alignment >= 16
    assert alignment & (alignment - 1) == 0


def test_properties_stay_the_same(device: un.Device) -> None:
    assert device.properties == device.properties


def test_a_simulated_device_says_so_in_its_name(device: un.Device) -> None:
    if device.properties["simulated"]:
        assert "simulated" in device.properties["name"].lower()


def test_capabilities_are_complete_and_of_three_kinds(device: un.Device) -> None:
    capabilities = device.capabilities
    assert capabilities.keys() >= CAPABILITIES
    assert set(capabilities.values()) <= {"native", "emulated", "absent"}


def test_priorities_agree_with_their_range(device: un.Device) -> None:
    properties = device.properties
    has_range = properties["priority_least"] != properties["priority_greatest"]
    assert has_range == (device.capabilities["priorities"] != "absent")


def test_free_memory_is_part_of_the_total(device: un.Device) -> None:
    free, total = device.memory_info()
    assert 0 <= free <= total
    assert total > 0


def test_it_is_healthy(device: un.Device) -> None:
    assert device.state == "healthy"


def test_synchronizing_an_idle_device_returns(device: un.Device) -> None:
    device.synchronize()
    un.synchronize(device)


def test_dlpack_device_is_a_pair_of_numbers(device: un.Device) -> None:
    kind, index = device.dlpack_device
    assert kind >= 1
    assert index >= 0


def test_an_index_that_does_not_exist_is_an_error_that_names_the_device(device: un.Device) -> None:
    with pytest.raises(Error, match=f"{device.kind}:4096"):
        un.device(f"{device.kind}:4096")


def test_a_near_name_is_suggested(device: un.Device) -> None:
    with pytest.raises(Error, match=device.kind):
        un.device(device.kind + device.kind[-1])


def test_an_unknown_option_is_an_error(device: un.Device) -> None:
    with pytest.raises(Error):
        device.set_option("no such option", "1")


@pytest.mark.parametrize("name", ["", ":", "cpu:-1", "cpu:x", "cpu:0:0", "\0", "cpu:99999999999999999999"])
def test_a_malformed_name_is_an_error(device: un.Device, name: str) -> None:
    with pytest.raises(Error):
        un.device(name)


def test_something_that_is_no_name_is_an_error(device: un.Device) -> None:
    with pytest.raises(InvalidArgument):
        un.device(3)  # type: ignore[arg-type]


def test_threads_that_open_it_at_once_get_one_device(device: un.Device) -> None:
    found: list[un.Device] = []
    threads = [threading.Thread(target=lambda: found.append(un.device(device.name))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [device] * 8


def test_recent_operations_name_what_was_done(device: un.Device) -> None:
    un.zeros(1000, un.uint8, device)
    device.synchronize()
    assert device.recent_operations
    assert all(isinstance(line, str) for line in device.recent_operations)
