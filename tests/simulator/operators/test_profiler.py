"""torch_npu's profiler on simulated chips: the operators of the host, and no times of a chip that is not there."""

from __future__ import annotations

import pytest

STEPS = """
import csv, json
from pathlib import Path
from torch_npu import profiler
x = torch.ones(4, 4).npu()
def names(path):
    read = json.loads(Path(path).read_text())
    return {each["name"] for each in (read["traceEvents"] if isinstance(read, dict) else read)}
def steps(profile):
    for _ in range(3):
        torch.sin(x + x).cpu()
        profile.step()
"""
WROTE = """
(written,) = Path("written").glob("*/ASCEND_PROFILER_OUTPUT")
found = names(written / "trace_view.json")
assert {"aten::add", "aten::sin", "ProfilerStep#1"} <= found, found
rows = list(csv.DictReader((written / "operator_details.csv").open()))
assert {"aten::add", "aten::sin"} <= {row["Name"] for row in rows}
assert all(float(value or 0) == 0 for row in rows for name, value in row.items() if name.startswith("Device")), rows
"""
BOTH = "activities=[profiler.ProfilerActivity.CPU, profiler.ProfilerActivity.NPU]"


def test_torch_s_profiler_names_the_operators(run) -> None:
    run(
        STEPS
        + """
from torch.profiler import ProfilerActivity, profile
with profile(activities=[ProfilerActivity.CPU]) as p:
    steps(p)
count = {each.key: each.count for each in p.key_averages()}
assert count["aten::add"] == count["aten::sin"] == count["aclnnAdd"] == 3, count
"""
    )


@pytest.mark.parametrize("activities", ["activities=[profiler.ProfilerActivity.CPU]", BOTH], ids=["cpu", "npu"])
def test_torch_npu_s_profiler_writes_the_host_s_part(run, activities: str) -> None:
    told = run(
        STEPS
        + f"""
waits = profiler.schedule(wait=0, warmup=1, active=2, repeat=1)
handler = profiler.tensorboard_trace_handler("written")
with profiler.profile({activities}, schedule=waits, on_trace_ready=handler) as p:
    steps(p)
"""
        + WROTE
    )
    assert ("CANN Profiling data does not exist" in told) == (activities is BOTH)


def test_a_trace_is_exported_without_a_handler(run) -> None:
    run(
        STEPS
        + f"""
with profiler.profile({BOTH}) as p:
    steps(p)
p.export_chrome_trace("trace.json")
assert {{"aten::add", "aten::sin"}} <= names("trace.json")
"""
    )


def test_marks_and_ranges_do_nothing_that_is_heard_of(run) -> None:
    """Huawei's tool for them is not there; torch_npu asks for it before each."""
    run(
        STEPS
        + """
mstx = torch_npu.npu.mstx
mstx.mark("here")
mstx.mark("in the stream", torch.npu.current_stream())
mstx.range_end(mstx.range_start("a range", torch.npu.current_stream()))
with profiler.profile(experimental_config=profiler._ExperimentalConfig(mstx=True)) as p:
    mstx.range_end(mstx.range_start("a range"))
    steps(p)
assert (x + x).cpu().sum() == 32
"""
    )
