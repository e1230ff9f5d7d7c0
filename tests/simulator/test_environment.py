"""What a program on simulated chips begins with: what is installed for it, and what the driver reads by itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from unify._config import settings
from unify._errors import InvalidArgument, TargetError
from unify.simulator import ascend, environment
from unify.simulator.environment import Chips, Interpreter

ROOT = Path(__file__).parents[2]
# What a process sees that has the library from the vendor's name, and configures nothing.
LOOK = f"""
import ctypes, json
acl = ctypes.CDLL({str(ascend.library_path())!r})
acl.aclGetRecentErrMsg.restype = acl.aclrtGetSocName.restype = ctypes.c_char_p
count, free, total = ctypes.c_uint32(), ctypes.c_size_t(), ctypes.c_size_t()
result = acl.aclInit(None)
said = (acl.aclGetRecentErrMsg() or b"").decode()
if result == 0:
    acl.aclrtGetDeviceCount(ctypes.byref(count))
    assert acl.aclrtSetDevice(0) == 0
    assert acl.aclrtGetMemInfo(1, ctypes.byref(free), ctypes.byref(total)) == 0
soc = acl.aclrtGetSocName()
print(json.dumps([result, said, soc and soc.decode(), count.value, total.value]))
"""


def look(program: str = LOOK, **variables: str) -> list[object]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UNIFY_")}
    finished = subprocess.run(
        [sys.executable, "-c", program], env={**environment, **variables}, capture_output=True, text=True, check=True
    )
    return list(json.loads(finished.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("text", "soc", "count", "memory_bytes"),
    [
        ("ascend:910B4", "Ascend910B4", 1, 1 << 30),
        ("ascend:910B3x2,64g", "Ascend910B3", 2, 64 << 30),
        ("cuda:90x3;ascend:950,0.5g", "Ascend950PR_9599", 1, 1 << 29),
        (Chips("910B2", 16).text, "Ascend910B2", 16, 64 << 30),
        (Chips("910C", 1, 1.5).text, "Ascend910_9392", 1, 3 << 29),
    ],
)
def test_the_driver_reads_the_chips_as_unify_does(text: str, soc: str, count: int, memory_bytes: int) -> None:
    assert look(UNIFY_SIMULATE=text) == [0, "", soc, count, memory_bytes]


def test_unify_and_another_library_s_user_share_the_chips_of_the_environment() -> None:
    program = (
        LOOK
        + """
import unify as un
x = un.full((10,), 2.0, device="ascend:1")
print(json.dumps([len([d for d in un.devices() if d.name.startswith("ascend")]), float(x.numpy().sum())]))
"""
    )
    assert look(program, PYTHONPATH=str(ROOT), UNIFY_SIMULATE="ascend:910B3x2,2g") == [2, 20.0]


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({"UNIFY_SIMULATE": "ascend:910B9"}, "no chip is called '910B9'; known: 910B1"),
        ({"UNIFY_SIMULATE": "ascend:910B3,64"}, "say ascend:910B3"),
        ({"UNIFY_SIMULATE": "ascend:910B3,1.2.3g"}, "say ascend:910B3"),
        ({"UNIFY_SIMULATE": "ascend:910B3x17"}, "count is 17; 0 to 16"),
        ({"UNIFY_SIMULATE": "ascend:910B3,0.001g"}, "4 MiB to 1 TiB"),
        ({"UNIFY_SIMULATED_FAULTS": "aclnnAdd:3:aicore"}, "is not DEVICE:CALL:AFTER:WHAT"),
        ({"UNIFY_SIMULATED_FAULTS": "1:aclnnAdd:3:aicore"}, "there is no device 1, but 1 from 0"),
        ({"UNIFY_SIMULATED_FAULTS": "0:aclnnAdd:3:aicor"}, "'aicor' is neither an aclError"),
        ({"UNIFY_SIMULATED_FAULTS": "0:aclnnAdd:3:aicore;0:time:x:lost"}, "'x' is not a number"),
    ],
)
def test_a_text_that_cannot_be_read_fails_the_first_call_and_the_next(variables: dict[str, str], part: str) -> None:
    again = LOOK.replace("soc = ", "result = acl.aclrtSetDevice(0)\nsoc = ")
    for program in (LOOK, again):
        result, said, soc, *_ = look(program, **variables)
        assert (result, soc) == (100000, None)
        assert part in str(said) or program is again
        assert next(iter(variables)) in str(said)


def test_faults_of_the_environment_come_in_a_process_that_unify_configures_too() -> None:
    program = """
import json, unify as un
from unify.simulator import simulate
simulate("ascend:910B3", count=2)
x = un.full((10,), 1.0, device="ascend:1")
try:
    un.synchronize("ascend:1")
    x.numpy()
    print(json.dumps(["nothing"]))
except un.Error as error:
    print(json.dumps([str(error)]))
"""
    said = look(program, PYTHONPATH=str(ROOT), UNIFY_SIMULATED_FAULTS="1:aclrtMemcpyAsync:0:ecc;1:aclrtMemcpy:0:ecc")
    assert "ECC" in str(said[0])


def test_what_the_environment_asks_for_can_be_asked_for_again() -> None:
    """By unify, in a process where torch_npu has opened the devices already."""
    program = (
        LOOK
        + """
acl.unify_simulator_error.restype = ctypes.c_char_p
acl.unify_simulator_configure.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint64]
same = acl.unify_simulator_configure(2, b"910B3", 1 << 31)
other = acl.unify_simulator_configure(1, b"910B3", 1 << 31)
print(json.dumps([same, other, acl.unify_simulator_error().decode()]))
"""
    )
    same, other, said = look(program, UNIFY_SIMULATE="ascend:910B3x2,2g")
    assert (same, other) == (0, -1)
    assert "configure before the first device is opened" in str(said)


def test_a_fault_s_time_and_count_are_the_process_s_own() -> None:
    program = (
        LOOK
        + """
import time
memory = ctypes.c_void_p()
results = [acl.aclrtMalloc(ctypes.byref(memory), 100, 0) for _ in range(3)]
time.sleep(0.3)
print(json.dumps([*results, acl.aclrtSynchronizeDevice()]))
"""
    )
    faults = "0:aclrtMalloc:1:out_of_memory;0:time:0.2:lost"
    assert look(program, UNIFY_SIMULATED_FAULTS=faults) == [0, 207001, 0, 507010]


def test_memory_of_a_chip_is_what_the_driver_has_of_it() -> None:
    table = (ROOT / "csrc/simulator/ascend/chips.cpp").read_text()
    rows = re.findall(r'\{"(\w+)", "\w+", \d+, \d+, \d+, \d+, (\d+),', table)
    assert {model: int(gib) for model, gib in rows} == environment.MEMORY_GIB
    assert set(environment.MEMORY_GIB) == set(ascend.MODELS)


@pytest.mark.parametrize(
    ("text", "chips"),
    [
        ("", Chips()),
        ("910b3", Chips()),
        ("910B4x2", Chips("910B4", 2)),
        ("ascend:950x4,512M", Chips("950", 4, 0.5)),
        ("910Cx16,64GiB", Chips("910C", 16, 64)),
    ],
)
def test_chips_are_read(text: str, chips: Chips) -> None:
    assert environment.read_chips(text) == chips


@pytest.mark.parametrize("text", ["tests/", "910B3x0", "910B3x17", "910B3,64", "910B3,2048g", "910B3x2x2", "910"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="simulate ascend"):
        environment.read_chips(text)


def test_an_interpreter_tells_what_it_has() -> None:
    torch = pytest.importorskip("torch")
    python = Interpreter.of(sys.executable)
    assert python.tag == f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert (python.torch, python.folder) == (torch.__version__, str(Path(torch.__file__).parent))
    assert python.missing == ()


@pytest.mark.parametrize("path", ["/bin/false", "/nowhere/python", "/bin/echo"])
def test_what_is_no_python_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument, match=f"{path} does not run as a Python"):
        Interpreter.of(path)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where installations go."""
    monkeypatch.setenv("UNIFY_TOOLCHAIN_DIR", str(tmp_path))
    monkeypatch.setattr(environment, "library", lambda torch, ascendcl, said: Path("/operators.so"))
    assert settings.toolchain_dir == tmp_path
    return tmp_path / "torch_npu"


def pip_that(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Puts a program in the place of pip; $T is the folder that it is to fill."""
    find = 'while [ "$1" != --target ]; do shift; done; T="$2"\n'
    monkeypatch.setattr(Interpreter, "command", lambda self, *words: ["/bin/sh", "-c", find + script, "sh", *words])


FILLS = """
mkdir -p "$T/torch_npu/lib" "$T/torch" "$T/yaml"
touch "$T/torch_npu/lib/libtorch_npu.so" "$T/torch/version.py" "$T/yaml/__init__.py"
"""


def test_what_is_there_is_not_fetched_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_that(monkeypatch, FILLS)
    made = environment.install(sys.executable)
    assert made.folders[0].parent == root
    assert (made.libraries / "libascendcl.so").resolve() == ascend.library_path().resolve()
    pip_that(monkeypatch, "exit 1")
    assert environment.install(sys.executable) == made
    assert environment.find(sys.executable) == made


def test_it_says_how_much_it_fetches(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pip_that(monkeypatch, FILLS + "echo progress")
    environment.install(sys.executable)
    captured = capfd.readouterr()
    assert re.search(r"torch_npu 2\.13\.0 \(BSD\) \(44 MB\) into .*: about \d+ MB, \d+ MB unpacked", captured.err)
    assert "progress" in captured.err
    assert captured.out == ""


def test_an_installation_that_failed_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_that(monkeypatch, 'mkdir -p "$T/torch_npu" && exit 1')
    with pytest.raises(TargetError, match=r"pip could not install torch-npu==2\.13\.0"):
        environment.install(sys.executable, quiet=True)
    assert [path.name for path in root.iterdir()] == [".lock"]
    with pytest.raises(TargetError, match="`unify simulate ascend --install` does that"):
        environment.find(sys.executable)


def test_without_a_compiler_nothing_is_fetched(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    pip_that(monkeypatch, "exit 1")
    with pytest.raises(TargetError, match=r"no C\+\+ compiler is there .* nothing is fetched"):
        environment.install(sys.executable)
    assert not root.exists()


def test_a_python_with_another_torch_gets_one_of_its_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Interpreter(sys.executable, "cp312", "Linux x86_64", "2.9.1+cpu", "/elsewhere/torch", ("pyyaml",), True)
    monkeypatch.setattr(Interpreter, "of", lambda path: other)
    pip_that(monkeypatch, FILLS)
    made = environment.install(sys.executable, quiet=True)
    names = [folder.name for folder in made.folders]
    assert names == ["torch-npu-2.13.0-cp312", "pyyaml-cp312", "torch-2.13.0-cp312"]
    assert made.torch == root / "torch-2.13.0-cp312" / "torch"


@pytest.mark.parametrize("change", [{"machine": "Darwin arm64"}, {"tag": "pypy310"}])
def test_a_machine_that_the_vendor_has_nothing_for_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str]
) -> None:
    usual = {"path": "python", "tag": "cp311", "machine": "Linux x86_64", "torch": "2.13.0", "folder": "/t"}
    other = Interpreter(**{**usual, **change}, missing=(), has_pip=True)  # type: ignore[arg-type]
    monkeypatch.setattr(Interpreter, "of", lambda path: other)
    with pytest.raises(TargetError, match="torch_npu is made for CPython on Linux"):
        environment.install("python")


def test_a_program_s_own_variables_stay(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_that(monkeypatch, FILLS)
    made = environment.install(sys.executable, quiet=True)
    monkeypatch.setenv("PYTHONPATH", "/mine")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/mine/lib")
    monkeypatch.setenv("UNIFY_SIMULATED_FAULTS", "0:*:0:lost")  # of a process that this one runs in
    variables = made.variables(Chips("910B1", 2, faults=("0:a:1:ecc", "1:time:1:lost")), report=Path("/r"))
    assert variables["PYTHONPATH"].endswith(f":{made.folders[0]}:/mine")
    assert variables["LD_LIBRARY_PATH"] == f"{made.libraries}:/mine/lib"
    assert variables["UNIFY_SIMULATE"] == "ascend:910B1x2,64g"
    assert variables["UNIFY_SIMULATED_FAULTS"] == "0:a:1:ecc;1:time:1:lost"
    assert variables["UNIFY_SIMULATED_REPORT"] == "/r"
    assert "UNIFY_SIMULATED_TRACE" not in variables
    assert "UNIFY_SIMULATED_FAULTS" not in made.variables(Chips())
