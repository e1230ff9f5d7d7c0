// Memory: statistics, snapshot, limits.
#include "../core/allocator.h"
#include "../core/registry.h"
#include "convert.h"
#include "owner.h"

namespace unify::python {
namespace {

Allocator& allocator_of(const py::object& device) { return device_from_object(device.ptr())->allocator(); }

py::dict statistics(const py::object& device) {
  const Allocator& allocator = allocator_of(device);
  const MemoryStatistics figures = without_gil([&] { return allocator.statistics(); });
  py::dict result;
  result["allocated_bytes"] = figures.allocated_bytes;
  result["allocated_bytes_peak"] = figures.allocated_bytes_peak;
  result["reserved_bytes"] = figures.reserved_bytes;
  result["reserved_bytes_peak"] = figures.reserved_bytes_peak;
  result["waiting_bytes"] = figures.waiting_bytes;
  result["allocations"] = figures.allocations;
  result["segments"] = figures.segments;
  result["cache_hits"] = figures.cache_hits;
  result["trims"] = figures.trims;
  result["out_of_memory"] = figures.out_of_memory;
  return result;
}

py::list snapshot(const py::object& device) {
  py::list segments;
  const Allocator& allocator = allocator_of(device);
  for (const SegmentSnapshot& segment : without_gil([&] { return allocator.snapshot(); })) {
    py::list blocks;
    for (const BlockSnapshot& block : segment.blocks) {
      py::dict record;
      record["address"] = block.address;
      record["bytes"] = block.bytes;
      record["requested_bytes"] = block.requested_bytes;
      record["state"] = block.state;
      record["stream"] = block.stream;
      blocks.append(record);
    }
    py::dict record;
    record["address"] = segment.address;
    record["bytes"] = segment.bytes;
    record["blocks"] = blocks;
    segments.append(record);
  }
  return segments;
}

}  // namespace

void bind_memory(py::module_& module) {
  module.def("memory_statistics", &statistics, py::arg("device") = py::none(), "The allocator's figures.");
  module.def("memory_snapshot", &snapshot, py::arg("device") = py::none(), "Every segment and its blocks.");
  module.def(
      "trim_memory",
      [](const py::object& device) {
        release_owners();
        Allocator& allocator = allocator_of(device);
        without_gil([&] { allocator.trim(); });
      },
      py::arg("device") = py::none(), "Returns what is unused to the device.");
  module.def(
      "set_memory_limit",
      [](uint64_t bytes, const py::object& device) {
        Allocator& allocator = allocator_of(device);
        without_gil([&] { allocator.set_limit(bytes); });
      },
      py::arg("bytes"), py::arg("device") = py::none(), "The most that unify may take from the device; 0: no limit.");
  module.def(
      "set_expandable_segments",
      [](bool is_expandable) { without_gil([&] { Registry::instance().set_expandable_segments(is_expandable); }); },
      py::arg("is_expandable"), "Whether segments to come grow and shrink, on all devices with virtual memory.");
  module.def(
      "reset_memory_peaks",
      [](const py::object& device) {
        Allocator& allocator = allocator_of(device);
        without_gil([&] { allocator.reset_peaks(); });
      },
      py::arg("device") = py::none(), "Peaks count from now on.");
}

}  // namespace unify::python
