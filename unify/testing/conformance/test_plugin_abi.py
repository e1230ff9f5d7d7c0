"""The backend as the core sees it: its record, and that what it says of itself holds together."""

from __future__ import annotations

import os
import re

import pytest

import unify as un
from unify._device import BackendStatus, add_backend, backends
from unify._errors import Error


def status_of(device: un.Device) -> BackendStatus:
    return next(status for status in backends() if status.name == device.kind)


def test_the_backend_of_a_device_is_usable(device: un.Device) -> None:
    status = status_of(device)
    assert status.is_usable
    assert status.why == ""


def test_it_has_a_version(device: un.Device) -> None:
    assert status_of(device).version


def test_its_name_can_stand_in_a_device_name(device: un.Device) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", status_of(device).name)


def test_its_library_is_built_in_or_a_file(device: un.Device) -> None:
    library = status_of(device).library
    assert library == "built in" or os.path.isfile(library)


def test_every_device_it_counts_can_be_opened(device: un.Device) -> None:
    count = status_of(device).device_count
    opened = [other for other in un.devices() if other.kind == device.kind]
    assert len(opened) == count
    assert sorted(other.index for other in opened) == list(range(count))


def test_one_device_more_than_it_counts_cannot(device: un.Device) -> None:
    with pytest.raises(Error):
        un.device(f"{device.kind}:{status_of(device).device_count}")


def test_no_two_devices_share_a_dlpack_pair(device: un.Device) -> None:
    pairs = [other.dlpack_device for other in un.devices()]
    assert pairs.count(device.dlpack_device) == 1


def test_its_target_is_of_the_form_kind_or_kind_and_chip(device: un.Device) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*(:[\w.+-]+)?", device.target)


def test_a_second_backend_of_its_name_is_refused_with_the_reason(device: un.Device) -> None:
    library = status_of(device).library
    if library == "built in":
        pytest.skip(f"{device.name}: it is built in; no library to load twice")
    status = add_backend(library)
    assert not status.is_usable
    assert device.kind in status.why
