"""What a process did is counted as it did it, put together over processes, and shown."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unify.bench.limits import of_target
from unify.simulator import ascend, report

# A program over ACL alone: two copies there, one back, a fill, streams, a call that fails, and an older operator.
PROGRAM = f"""
import ctypes, os, sys
acl = ctypes.CDLL({str(ascend.library_path())!r})
size = ctypes.c_size_t
assert acl.aclInit(None) == 0 and acl.aclrtSetDevice(0) == 0
memory, host, stream = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
assert acl.aclrtMalloc(ctypes.byref(memory), size(1 << 20), 0) == 0
assert acl.aclrtMallocHost(ctypes.byref(host), size(1 << 20)) == 0
assert acl.aclrtCreateStream(ctypes.byref(stream)) == 0
for _ in range(2):
    assert acl.aclrtMemcpyAsync(memory, size(1000), host, size(1000), 1, stream) == 0
assert acl.aclrtSynchronizeStream(stream) == 0
assert acl.aclrtMemcpy(host, size(500), memory, size(500), 2) == 0
assert acl.aclrtMemsetAsync(memory, size(64), 0, size(64), stream) == 0
assert acl.aclrtSynchronizeDevice() == 0
assert acl.aclrtSetDevice(7) == 107001
assert acl.unify_simulator_refuse(b"operator Foo", 207000, b"it is not there") == 207000
assert acl.aclrtFree(memory) == 0
"""


def ran(folder: Path, program: str = PROGRAM, status: int = 0, **variables: str) -> list[Path]:
    """Runs a program that writes its report into a folder; returns the files there."""
    folder.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UNIFY_")}
    given = {"UNIFY_SIMULATED_REPORT": str(folder), "UNIFY_SIMULATE": "ascend:910B4x2,2g", **variables}
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, env={**environment, **given}, capture_output=True, text=True, check=False)
    assert finished.returncode == status, finished.stderr
    return sorted(folder.iterdir())


def test_counts_are_what_the_program_did(tmp_path: Path) -> None:
    (file,) = ran(tmp_path / "reports")
    merged = report.merge(tmp_path / "reports", 0)
    assert [one["pid"] for one in merged["processes"]] == [int(file.stem)]
    assert merged["processes"][0]["command"].startswith(sys.executable)
    copies = {name: (work["count"], work["bytes"], work["failed"]) for name, work in merged["copies"].items()}
    assert copies == {"host to device": (2, 2000, 0), "device to host": (1, 500, 0), "fill": (1, 64, 0)}
    assert merged["synchronisations"] == {"aclrtSynchronizeDevice": 1, "aclrtSynchronizeStream": 1}
    assert merged["calls"]["aclrtMemcpyAsync"] == 2
    assert [(one["call"], one["result"], one["count"]) for one in merged["failed_calls"]] == [
        ("aclrtSetDevice", 107001, 1)
    ]
    assert merged["absent_operators"] == {"Foo": 1}
    assert [(one["memory_bytes"], one["peak_bytes"] >= 1 << 20) for one in merged["devices"]] == [
        (2 << 30, True),
        (2 << 30, False),
    ]
    assert (merged["chip"], merged["estimate"]) == ("910B4", None)


def test_kernels_are_counted_as_often_as_a_graph_replays_them(tmp_path: Path, npu_environment: dict[str, str]) -> None:
    program = """
import torch
x = torch.ones(10).npu()
y = x + x
graph = torch.npu.NPUGraph()
with torch.npu.graph(graph):
    y = x + x
for _ in range(5):
    graph.replay()
print(y.cpu().sum().item())
"""
    ran(tmp_path / "reports", program, **{name: npu_environment[name] for name in ("PYTHONPATH", "LD_LIBRARY_PATH")})
    merged = report.merge(tmp_path / "reports")
    assert merged["operators"]["aclnnAdd"]["count"] == 6
    assert merged["others"]["graph"]["count"] == 5


@pytest.mark.parametrize("end", ["sys.exit(3)", "raise SystemExit(3)"])
def test_a_program_that_exits_leaves_its_report(tmp_path: Path, end: str) -> None:
    (file,) = ran(tmp_path / "reports", PROGRAM + end, status=3)
    assert json.loads(file.read_text())["calls"]["aclInit"] == 1


@pytest.mark.parametrize(
    ("end", "status"),
    [("os._exit(4)", 4), ("os.kill(os.getpid(), 9)", -9), ("os.kill(os.getpid(), 15)", -15), ("os.abort()", -6)],
)
def test_a_process_that_is_killed_leaves_what_it_did_until_shortly_before(
    tmp_path: Path, end: str, status: int
) -> None:
    wait = "import time; time.sleep(2)\n"
    (file,) = ran(tmp_path / "reports", PROGRAM + wait + end, status=status)
    merged = report.merge(tmp_path / "reports", 4)
    assert merged["calls"]["aclrtMemcpyAsync"] == 2
    assert [one["pid"] for one in merged["processes"]] == merged["processes_cut_off"] == [int(file.stem)]
    assert f"1 process(es), {file.stem}" in next(report.notes(merged))


def test_a_process_that_was_killed_at_once_is_named(tmp_path: Path) -> None:
    (tmp_path / "12.json").touch()
    merged = report.merge(tmp_path)
    assert (merged["processes"], merged["processes_cut_off"]) == ([], [12])


def test_a_trace_of_a_killed_process_is_there_until_shortly_before(tmp_path: Path) -> None:
    folder = str(tmp_path / "reports")
    end = "import time; time.sleep(2); os._exit(0)"
    ran(tmp_path / "reports", PROGRAM + end, UNIFY_SIMULATED_TRACE=folder)
    report.write_trace(tmp_path / "reports", tmp_path / "trace.json", {})
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert len([event for event in events if event["ph"] == "X"]) == 4


def test_faults_that_never_came_are_told(tmp_path: Path) -> None:
    faults = "0:aclrtMemcpyAsync:7:aicore;1:time:3600:lost;0:aclrtSynchronizeStream:0:timeout"
    ran(
        tmp_path / "reports",
        PROGRAM.replace("aclrtSynchronizeStream(stream) == 0", "aclrtSynchronizeStream(stream) >= 0"),
        UNIFY_SIMULATED_FAULTS=faults,
    )
    merged = report.merge(tmp_path / "reports", 0)
    assert merged["faults_left"] == ["0:aclrtMemcpyAsync:7:aicore", "1:time:3600:lost"]
    assert "never came: 0:aclrtMemcpyAsync:7:aicore, 1:time:3600:lost" in "\n".join(report.notes(merged))


def test_a_fault_that_came_in_one_process_came(tmp_path: Path) -> None:
    left = ["0:aclnnAdd:3:aicore", "0:aclnnMul:0:aicore"]
    merged = write(tmp_path, process(1, faults_left=left), process(2, faults_left=left[1:]), process(3))
    assert merged["faults_left"] == left[1:]


def test_a_child_of_fork_writes_nothing_over_its_parent_s(tmp_path: Path) -> None:
    program = (
        PROGRAM
        + """
if os.fork() == 0:
    sys.exit(0)
os.wait()
assert acl.aclrtSynchronizeDevice() == 0
"""
    )
    (file,) = ran(tmp_path / "reports", program)
    assert json.loads(file.read_text())["calls"]["aclrtSynchronizeDevice"] == 2


def test_each_process_has_a_file_and_they_are_added(tmp_path: Path) -> None:
    ran(tmp_path / "reports")
    ran(tmp_path / "reports")
    merged = report.merge(tmp_path / "reports")
    assert len(merged["processes"]) == 2
    assert merged["copies"]["host to device"]["bytes"] == 4000
    assert len(merged["devices"]) == 4


def test_nothing_is_written_where_nobody_asks(tmp_path: Path) -> None:
    assert ran(tmp_path / "reports", UNIFY_SIMULATED_REPORT="") == []


def test_a_folder_that_is_not_there_is_said_and_stops_nobody(tmp_path: Path) -> None:
    assert ran(tmp_path / "reports", UNIFY_SIMULATED_REPORT=str(tmp_path / "nowhere")) == []


def test_the_trace_has_a_track_for_each_stream_and_copies_with_bytes(tmp_path: Path) -> None:
    folder = str(tmp_path / "reports")
    files = ran(tmp_path / "reports", UNIFY_SIMULATED_TRACE=folder)
    process = int(files[0].stem)
    report.write_trace(tmp_path / "reports", tmp_path / "trace.json", {process: "program"})
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert f"npu:0 of process {process} (program)" in names
    assert "calls that do their work at once" in names
    assert any(re.fullmatch(r"stream \d+", name) for name in names)
    done = [event for event in events if event["ph"] == "X"]
    assert sorted((event["name"], event["args"]["bytes"]) for event in done) == [
        ("device to host", 500),
        ("fill", 64),
        ("host to device", 1000),
        ("host to device", 1000),
    ]
    assert min(event["ts"] for event in done) == 0
    first, second = sorted(event["ts"] for event in done if event["name"] == "host to device")
    assert second >= first + next(event["dur"] for event in done if event["ts"] == first)  # one stream, in order


def test_a_trace_of_a_killed_process_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    line = {"name": 'a"b', "device": 1, "stream": 3, "begin": 5000, "ns": 2000}
    (tmp_path / "12.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line)[:30])
    report.write_trace(tmp_path, tmp_path / "trace.json", {})
    done = [one for one in json.loads((tmp_path / "trace.json").read_text())["traceEvents"] if one["ph"] == "X"]
    assert [(one["name"], one["ts"], one["dur"]) for one in done] == [('a"b', 0.0, 2.0)]


def work(count: int, bytes_: int = 0, failed: int = 0) -> dict[str, int]:
    return {"count": count, "failed": failed, "bytes": bytes_, "nanoseconds": 10}


def process(pid: int, **changes: Any) -> dict[str, Any]:
    """What a process writes."""
    usual: dict[str, Any] = {
        "pid": pid, "command": "python p.py", "chip": "910C", "kernels": {},
        "devices": [{"memory_bytes": 1 << 36, "peak_bytes": 3 << 29}],
        "copies": {}, "others": {}, "calls": {}, "failures": [], "ended": 1,
    }  # fmt: skip
    return {**usual, **changes}


def write(folder: Path, *processes: dict[str, Any]) -> dict[str, Any]:
    for one in processes:
        (folder / f"{one['pid']}.json").write_text(json.dumps(one))
    return report.merge(folder, 0)


def test_work_is_told_apart_by_whose_it_is(tmp_path: Path) -> None:
    kernels = {"aclnnAdd": work(2), "add_kernel": work(3), "HcclAllReduce": work(1)}
    merged = write(
        tmp_path, process(1, kernels=kernels), process(2, kernels={"aclnnMul": work(9), "aclnnAdd": work(1)})
    )
    assert [(name, one["count"]) for name, one in merged["operators"].items()] == [("aclnnMul", 9), ("aclnnAdd", 3)]
    assert list(merged["kernels"]) == ["add_kernel"]
    assert list(merged["collectives"]) == ["HcclAllReduce"]


def test_an_estimate_is_made_only_where_a_figure_is_cited(tmp_path: Path) -> None:
    merged = write(
        tmp_path, process(1, kernels={"aclnnAdd": work(1, 10**9)}, copies={"host to device": work(1, 6 * 10**8)})
    )
    assert merged["estimate"]["memory_seconds"] == pytest.approx(1e-3)
    assert "Estimate: 1 ms" in "\n".join(report.notes(merged))
    assert "2506.12708" in "\n".join(report.notes(merged))
    merged = write(tmp_path, process(1, chip="910B3"))
    assert merged["estimate"] is None
    assert "No estimate" in "\n".join(report.notes(merged))


def test_the_figure_is_the_one_of_the_roofline() -> None:
    assert report.BANDWIDTH["910C"][0] == of_target("ascend:910C").bytes


def test_the_tables_have_it_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failures = [
        {"call": "aclrtMalloc", "result": 207001, "reason": "memory allocation error", "count": 2},
        {"call": "operator Foo", "result": 207000, "reason": "the feature is not supported", "count": 1},
        {"call": "aclmdlInitDump", "result": 207000, "reason": "the feature is not supported", "count": 1},
    ]
    (tmp_path / "3.json").touch()
    merged = write(
        tmp_path,
        process(1, kernels={"aclnnAdd": work(12345, 2048, failed=1), "aclopMish": work(1, 4)}, failures=failures),
        process(2, calls={"aclrtSynchronizeStream": 7}),
    )
    report.show(merged)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [" ".join(line.split()) for line in captured.err.splitlines()]
    assert lines[0].startswith("simulated Ascend 910C, 2 processes")
    assert "aclnnAdd 12,345 1 2.0 KiB" in lines
    assert "Foo 1" in lines
    assert "aclrtSynchronizeStream 7" in lines
    assert "aclrtMalloc 2 207001 memory allocation error" in lines
    assert "aclmdlInitDump 1 207000 the simulated device does not have it" in lines
    assert set(merged["operators"]) == {"aclnnAdd", "aclopMish"}  # the older ones too
    assert "npu:0 1 1.5 GiB 64.0 GiB" in lines
    note = "Killed, or ended by os._exit: 1 process(es), 3; what they did in their last 0.2 s may be missing."
    assert note in lines
