"""Finding, loading and refusing backends; settings that reach the core."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import unify as un
from unify._device import add_backend, backends
from unify.testing.backends import compile_backend

TOY = Path(__file__).parent / "plugin" / "toy.c"


def run(code: str, **environment: str) -> str:
    """Runs code in a process of its own: backends stay loaded for the life of a process."""
    import os

    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_backend(TOY, tmp_path_factory.mktemp("toy") / "toy.so")


def test_a_backend_is_found_by_its_path(toy: Path) -> None:
    code = "import unify as un; print([d.name for d in un.devices()], un.ones(3, un.int8, 'toy:1').tolist())"
    assert run(code, UNIFY_BACKEND_PATH=str(toy)) == "['cpu', 'toy:0', 'toy:1'] [1, 1, 1]"


def test_a_path_that_does_not_exist_leaves_the_rest_working(tmp_path: Path) -> None:
    code = "import unify as un; print(un.ones(2, un.int8).tolist(), [b.why for b in un.backends() if b.why][0])"
    out = run(code, UNIFY_BACKEND_PATH=str(tmp_path / "absent.so"))
    assert out.startswith("[1, 1]")
    assert "absent.so" in out


@pytest.mark.parametrize(
    ("define", "why"),
    [
        ("TOY_OTHER_MAJOR", "version"),
        ("TOY_TRUNCATED", "copy"),
        ("TOY_WITHOUT_COPY", "copy"),
        ("TOY_WITHOUT_SYMBOL", "unify_backend_get"),
        ("TOY_ABSENT", "no toy is plugged in"),
        ('TOY_NAME="cpu"', "'cpu' is the name of a backend of unify's own"),
        ('TOY_NAME="cuda"', "'cuda' is the name of a backend of unify's own"),
    ],
)
def test_a_broken_backend_is_refused_with_the_reason(tmp_path: Path, define: str, why: str) -> None:
    status = add_backend(str(compile_backend(TOY, tmp_path / "broken.so", [define])))
    assert not status.is_usable
    assert why in status.why
    assert any(why in other.why for other in backends())
    assert un.ones(2, un.int8, "cpu").tolist() == [1, 1]


def test_a_newer_minor_version_is_accepted(tmp_path: Path) -> None:
    newer = compile_backend(TOY, tmp_path / "newer.so", ["TOY_NEWER_MINOR"])
    assert (
        run("import unify as un; print(un.ones(3, un.int8, 'toy:0').tolist())", UNIFY_BACKEND_PATH=str(newer))
        == "[1, 1, 1]"
    )


@pytest.mark.parametrize("content", [b"", b"not a library", b"\x7fELF" + b"\0" * 100])
def test_a_file_that_is_no_library_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.so"
    path.write_bytes(content)
    status = add_backend(str(path))
    assert not status.is_usable
    assert "garbage.so" in status.why


def test_a_device_of_a_refused_backend_says_why(tmp_path: Path) -> None:
    library = compile_backend(TOY, tmp_path / "absent.so", ["TOY_ABSENT"])
    code = (
        "import unify as un\n"
        f"__import__('unify._device')._device.add_backend({str(library)!r}, 'absenttoy')\n"
        "try: un.device('absenttoy:0')\n"
        "except un.Error as error: print(error)"
    )
    assert "no toy is plugged in" in run(code)


def test_a_broken_entry_point_does_not_take_the_devices_away(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import importlib.metadata, unify as d\n"
        "class Entry:\n"
        "    name = value = 'broken'\n"
        "    def load(self): raise ImportError('it is broken')\n"
        "importlib.metadata.entry_points = lambda group: [Entry()]\n"
        "print([x.name for x in d.devices()], [b.why for b in d.backends() if b.name == 'broken'])"
    )
    assert run(code) == "['cpu'] ['ImportError: it is broken']"


def test_an_entry_point_names_a_backend(toy: Path) -> None:
    code = (
        "import importlib.metadata, unify as d\n"
        "class Entry:\n"
        "    name = value = 'toy'\n"
        f"    def load(self): return d.Backend('toy', {str(toy)!r})\n"
        "importlib.metadata.entry_points = lambda group: [Entry()]\n"
        "print(d.device('toy:0'))"
    )
    assert run(code) == "toy:0"


def test_the_default_device_is_a_setting(toy: Path) -> None:
    code = "import unify as un; print(un.zeros(2).device)"
    assert run(code, UNIFY_DEVICE="toy:1", UNIFY_BACKEND_PATH=str(toy)) == "toy:1"
    assert run(code) == "cpu"


def test_numbers_go_to_the_default_device_and_arrays_stay_where_they_are(toy: Path) -> None:
    code = """
import numpy as np
import unify as un

lists = [un.asarray([1.0, 2.0]), un.asarray(3), un.asarray((1, 2), un.int8), un.arange(3), un.arange(0, 1, 0.5)]
print(*(x.device for x in lists), un.asarray(np.zeros(2)).device)
stream = un.Stream("toy:0")
print(un.arange(3, stream=stream).device, un.asarray([1], stream=stream).device, un.asarray([1], device="cpu").device)
x = un.zeros(2, device="cpu")
x[:] = [1, 2]
print(x.tolist())
for wanted in ({"device": "toy:0"}, {"dtype": "int8"}, {"device": "toy:0", "dtype": "int8"}):
    try:
        un.asarray(np.zeros(2, np.float32), copy=False, **wanted)
    except un.InvalidArgument as error:
        print(error)
"""
    where = "asarray: copy=False, but the array is float32 on cpu and must be"
    assert run(code, UNIFY_DEVICE="toy:1", UNIFY_BACKEND_PATH=str(toy)).splitlines() == [
        "toy:1 toy:1 toy:1 toy:1 toy:1 cpu",
        "toy:0 toy:0 cpu",
        "[1.0, 2.0]",
        f"{where} moved to toy:0.",
        f"{where} converted.",
        f"{where} moved to toy:0 and converted.",
    ]


HANGING = """
import threading, unify as un
sim = un.simulate("cuda:90")
device = un.device("cuda:0")
x = un.zeros(16, device=device)
device.synchronize()
sim.hang("cuMemsetD32Async")
x.fill_(1)
"""


def test_a_device_can_be_waited_for_with_a_limit() -> None:
    code = f"""{HANGING}
try:
    device.synchronize(timeout_s=0.2)
except un.TimeoutExpired as error:
    print(error)
sim.release()
device.synchronize(timeout_s=60)
print(x.tolist()[0], device.state)
"""
    timeout, value = run(code).splitlines()
    assert timeout.startswith("cuda:0, its work was not done after 0.2")
    assert value == "1.0 healthy"


def test_an_interrupt_ends_a_program_whose_work_hangs() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", f"{HANGING}\nprint('the end', flush=True)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"the end\n"
        with pytest.raises(subprocess.TimeoutExpired):  # it waits for its work
            program.wait(timeout=0.5)
        program.send_signal(signal.SIGINT)
        try:
            _, errors = program.communicate(timeout=60)
        finally:
            program.kill()
    assert b"KeyboardInterrupt" in errors


def test_the_number_of_threads_is_a_setting() -> None:
    assert run("import unify as un; print(un.device('cpu').properties['cores'])", UNIFY_CPU_THREADS="1") == "1"


def test_an_unknown_device_names_the_known_ones() -> None:
    with pytest.raises(un.Error, match="cpu"):
        un.device("cqu")


def test_one_name_is_suggested(toy: Path) -> None:
    code = "import unify as un\ntry: un.device('toy:2')\nexcept un.Error as error: print(error)"
    assert "no device 'toy:2'. Did you mean 'toy:0'? Devices" in run(code, UNIFY_BACKEND_PATH=str(toy))


@pytest.mark.parametrize("name", ["nochip", "nochip:1"])
def test_a_backend_that_is_not_installed_is_told_from_a_device_that_is_absent(name: str) -> None:
    with pytest.raises(un.Error, match=f"'{name}': no backend of that name .*Devices here: cpu.*docs/abi.md"):
        un.ones(3, device=name)
    with pytest.raises(un.Error, match=r"'cpu:70000'\. Devices here.*says why others are absent"):
        un.device("cpu:70000")


def test_work_that_is_under_way_at_exit_ends_quietly() -> None:
    code = (
        "import unify as un, time\n"
        "s = un.Stream('cpu')\n"
        "x = un.zeros(1 << 20, stream=s)\n"
        "for _ in range(50): s.host_call(lambda: time.sleep(0.001)); x.fill_(1, stream=s)\n"
        "y = x.copy(stream=s)"
    )
    assert run(code) == ""
