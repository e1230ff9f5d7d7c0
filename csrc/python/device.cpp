// unify.Device, and the registry behind unify.device().
#include "../core/device.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <unordered_map>

#include "../core/launch.h"
#include "../core/layers/layer.h"
#include "../core/registry.h"
#include "convert.h"
#include "owner.h"

namespace unify::python {
namespace {

// Devices live as long as the process, and so do their Python objects: `a.device is b.device` holds.
std::unordered_map<const Device*, PyObject*>& device_objects() {
  static auto* objects = new std::unordered_map<const Device*, PyObject*>;
  return *objects;
}

std::shared_ptr<Device>& default_device_slot() {
  static auto* slot = new std::shared_ptr<Device>;
  return *slot;
}

std::string kind_of(const Device& device) {
  const std::string& name = device.name();
  return name.substr(0, name.find(':'));
}

int index_of(const Device& device) {
  const size_t colon = device.name().find(':');
  return colon == std::string::npos ? 0 : std::stoi(device.name().substr(colon + 1));
}

const char* state_name(const Device& device) {
  switch (device.state()) {
    case UNIFY_DEVICE_HEALTHY:
      return "healthy";
    case UNIFY_DEVICE_FAULTED:
      return "faulted";
    case UNIFY_DEVICE_GONE:
      return "gone";
  }
  return "unknown";
}

py::dict properties(const Device& device) {
  const unify_device_info& info = device.info();
  py::dict result;
  result["name"] = py::str(info.name);
  result["target"] = py::str(info.target);
  result["driver_version"] = py::str(info.driver_version);
  result["bus_id"] = py::str(info.bus_id);
  result["memory_bytes"] = info.memory_bytes;
  result["cache_bytes"] = info.cache_bytes;
  result["bandwidth_bytes_s"] = info.bandwidth_bytes_s;
  result["cores"] = info.cores;
  result["clock_khz"] = info.clock_khz;
  result["warp_size"] = info.warp_size;
  result["max_threads"] = info.max_threads;
  result["max_grid"] = py::make_tuple(info.max_grid[0], info.max_grid[1], info.max_grid[2]);
  result["shared_bytes"] = info.shared_bytes;
  result["alignment"] = info.alignment;
  result["virtual_granularity"] = info.virtual_granularity;
  result["priority_least"] = info.priority_least;
  result["priority_greatest"] = info.priority_greatest;
  result["host_visible"] = (info.flags & UNIFY_DEVICE_HOST_VISIBLE) != 0;
  result["simulated"] = (info.flags & UNIFY_DEVICE_SIMULATED) != 0;
  result["integrated"] = (info.flags & UNIFY_DEVICE_INTEGRATED) != 0;
  return result;
}

py::dict capabilities(const Device& device) {
  py::dict result;
  for (const auto& [name, support] : device.capabilities()) result[py::str(name)] = support;
  return result;
}

py::tuple memory_info(Device& device) {
  uint64_t free_bytes = 0;
  uint64_t total_bytes = 0;
  const unify_status status = without_gil([&] {
    const auto call = device.call();
    return device.table().memory_info(device.handle(), &free_bytes, &total_bytes);
  });
  check(device, nullptr, status, "asking for free memory");
  return py::make_tuple(free_bytes, total_bytes);
}

void synchronize(Device& device, std::optional<double> timeout_s) {
  without_gil([&] { device.synchronize(timeout_s.value_or(-1)); });
  release_owners();
}

// Work that does not end is left alone when the user interrupts: the interpreter's handler runs only between waits.
void wait_interruptibly(Device& device) {
  constexpr double kBetween_s = 0.1;
  for (;;) {
    try {
      return without_gil([&] { device.synchronize(kBetween_s); });
    } catch (const Error& error) {
      if (error.kind != ErrorKind::kTimeout) return;  // a lost device has nothing left to wait for
    }
    if (PyErr_CheckSignals() != 0) throw_python();
  }
}

bool is_equal(const Device& device, const py::handle other) {
  if (py::isinstance<Device>(other)) return &other.cast<const Device&>() == &device;
  if (!PyUnicode_Check(other.ptr())) return false;
  const auto name = other.cast<std::string>();
  return name == device.name() || name + ":0" == device.name() || name == device.name() + ":0";
}

py::dict backend_record(const Backend& backend) {
  py::dict record;
  record["name"] = backend.name;
  record["library"] = backend.library;
  record["version"] = backend.table == nullptr || backend.table->version == nullptr
                          ? std::string()
                          : std::string(backend.table->version);
  record["device_count"] = backend.device_count;
  record["why"] = backend.why;
  return record;
}

void bind_registry(py::module_& module) {
  module.def(
      "open_builtin",
      [](const std::string& name, const std::string& library) {
        return without_gil([&] { return Registry::instance().open_builtin(name, library); });
      },
      py::arg("name"), py::arg("library") = "",
      "Looks for the driver of a backend that is built in, at `library` in place of the usual one; False: it did "
      "before.");
  module.def(
      "add_library",
      [](const std::string& path, const std::string& name) {
        return backend_record(
            without_gil([&]() -> const Backend& { return Registry::instance().add_library(path, name); }));
      },
      py::arg("path"), py::arg("name") = "",
      "Opens a backend's shared library; `why` of the result says why it cannot be used, if so.");
  module.def(
      "backends",
      [] {
        py::list result;
        for (const Backend* backend : Registry::instance().backends()) {
          result.append(backend_record(*backend));
        }
        return result;
      },
      "All backends, also those that cannot be used here.");
  module.def(
      "open_device",
      [](const std::string& name) { return without_gil([&] { return Registry::instance().device(name); }); },
      py::arg("name"), "Opens a device by its name; the same object from then on.");
  module.def(
      "device_names", [] { return Registry::instance().device_names(); },
      "The names of all devices that can be opened.");
  module.def(
      "set_open_options",
      [](const std::string& backend, const std::string& options) {
        Registry::instance().set_open_options(backend, options);
      },
      py::arg("backend"), py::arg("options"), "Options for devices that are opened later.");
  module.def(
      "set_default_device", [](std::shared_ptr<Device> device) { set_default_device(std::move(device)); },
      py::arg("device").none(true), "The device that None stands for.");
  // Work that calls back into Python must not outlive the interpreter.
  module.def(
      "shutdown",
      [] {
        for (const std::shared_ptr<Device>& device : Registry::instance().open_devices()) {
          wait_interruptibly(*device);
        }
        flush_trace();
      },
      "Waits for all devices; called when the interpreter ends.");
}

}  // namespace

PyObject* device_object(const std::shared_ptr<Device>& device) {
  PyObject*& slot = device_objects()[device.get()];
  if (slot == nullptr) slot = py::cast(device).release().ptr();
  return slot;
}

void set_default_device(std::shared_ptr<Device> device) { default_device_slot() = std::move(device); }

std::shared_ptr<Device> device_from_object(PyObject* object) {
  if (object == nullptr || object == Py_None) {
    if (default_device_slot() != nullptr) return default_device_slot();
    static PyObject* default_device = nullptr;
    PyObject* function = python_function(default_device, "unify._device", "default_device");
    const auto found =
        py::reinterpret_steal<py::object>(require(in_python([&] { return PyObject_CallNoArgs(function); })));
    return found.cast<std::shared_ptr<Device>>();
  }
  const py::handle handle(object);
  if (py::isinstance<Device>(handle)) return handle.cast<std::shared_ptr<Device>>();
  if (PyUnicode_Check(object)) {
    for (const auto& [device, known] : device_objects()) {
      if (PyUnicode_CompareWithASCIIString(object, device->name().c_str()) == 0) {
        return py::handle(known).cast<std::shared_ptr<Device>>();
      }
    }
    static PyObject* open_device = nullptr;
    PyObject* function = python_function(open_device, "unify._device", "device");
    const auto found =
        py::reinterpret_steal<py::object>(require(in_python([&] { return PyObject_CallOneArg(function, object); })));
    return found.cast<std::shared_ptr<Device>>();
  }
  throw Error(
      ErrorKind::kInvalidArgument,
      "device: a unify.Device, a name such as 'cpu' or 'cuda:0', or None is needed, not " + text_of(object) + ".");
}

void bind_device(py::module_& module) {
  PyDevice(module, "Device", "A chip that was opened. Made by unify.device(name); one object per device.")
      .def_property_readonly(
          "name", [](const Device& d) { return d.name(); }, "As in unify.device(name).")
      .def_property_readonly("kind", &kind_of, "The name of its backend: 'cpu', 'cuda', 'ascend'.")
      .def_property_readonly("index", &index_of, "Its number among the devices of its kind.")
      .def_property_readonly(
          "target", [](const Device& d) { return std::string(d.info().target); },
          "What kernels are compiled for: 'cpu:znver5', 'cuda:90'.")
      .def_property_readonly("properties", &properties, "What the chip is: memory, cores, limits.")
      .def_property_readonly("capabilities", &capabilities, "What it can do: each 'native', 'emulated' or 'absent'.")
      .def_property_readonly("is_host_visible", &Device::is_host_visible,
                             "Whether the host can read and write its memory.")
      .def_property_readonly(
          "dlpack_device", [](const Device& d) { return py::make_tuple(d.info().dlpack_type, d.info().dlpack_id); },
          "(device_type, device_id) as in DLPack.")
      .def_property_readonly("state", &state_name, "'healthy', 'faulted' (reset() helps) or 'gone'.")
      .def_property_readonly(
          "default_stream", [](Device& d) { return d.default_stream(); },
          "The stream that work goes to when nobody names one.")
      .def_property_readonly(
          "current_stream", [](Device& d) { return current_stream(d); },
          "The calling thread's: what `with stream:` set, or the default stream.")
      .def_property_readonly(
          "recent_operations", [](Device& d) { return d.operations().recent(); },
          "The last operations, a line each, newest last.")
      .def("memory_info", &memory_info, "(free, total) bytes as the device's driver reports them.")
      .def("synchronize", &synchronize, py::arg("timeout_s") = py::none(),
           "Waits for all work of all its streams. Raises its failures, or TimeoutExpired.")
      .def(
          "set_option",
          [](Device& d, const std::string& key, const std::string& value) {
            without_gil([&] { d.set_option(key, value); });
          },
          py::arg("key"), py::arg("value"), "Sets something only this backend knows, e.g. 'threads' on cpu.")
      .def(
          "reset", [](Device& d) { without_gil([&] { d.reset(); }); },
          "Brings a faulted device back. Its tensors, streams and events are lost.")
      .def("__eq__", &is_equal, py::arg("other"), py::is_operator())
      .def("__hash__", [](const Device& d) { return py::hash(py::str(d.name())); })
      .def("__str__", [](const Device& d) { return d.name(); })
      .def("__repr__", [](const Device& d) { return "unify.device('" + d.name() + "')"; })
      .def("__reduce__", [](const Device& d) {
        return py::make_tuple(py::module_::import("unify._device").attr("device"), py::make_tuple(d.name()));
      });
  bind_registry(module);
}

}  // namespace unify::python
