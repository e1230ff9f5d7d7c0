#include "registry.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <set>

#include "allocator.h"
#include "device.h"
#include "error.h"
#include "layers/layer.h"

extern "C" const unify_backend* unify_host_backend_get(unify_backend_get_args* args);
extern "C" const unify_backend* unify_cuda_backend_get(unify_backend_get_args* args);
extern "C" const unify_backend* unify_ascend_backend_get(unify_backend_get_args* args);

namespace unify {
namespace {

// The backends that are linked in. All but the first look for a driver, so each waits until somebody asks for it.
const std::pair<const char*, unify_backend_get_function> kBuiltin[] = {
    {"cpu", unify_host_backend_get},
    {"cuda", unify_cuda_backend_get},
    {"ascend", unify_ascend_backend_get},
};
constexpr char kOwnLibrary[] = "built in";  // what stands for their library

// A function of the table, by name and place.
struct Entry {
  const char* name;
  size_t offset;
};
#define ENTRY(name) \
  Entry { #name, offsetof(unify_backend, name) }

// The functions without which nothing works.
constexpr Entry kRequired[] = {
    ENTRY(device_count),
    ENTRY(device_open),
    ENTRY(device_close),
    ENTRY(device_info),
    ENTRY(device_synchronize),
    ENTRY(memory_allocate),
    ENTRY(memory_free),
    ENTRY(memory_info),
    ENTRY(copy),
    ENTRY(fill),
    ENTRY(stream_create),
    ENTRY(stream_destroy),
    ENTRY(stream_synchronize),
    ENTRY(stream_query),
    ENTRY(stream_wait_event),
    ENTRY(event_create),
    ENTRY(event_destroy),
    ENTRY(event_record),
    ENTRY(event_synchronize),
    ENTRY(event_query),
    ENTRY(module_load),
    ENTRY(module_unload),
    ENTRY(function_get),
    ENTRY(launch),
    ENTRY(last_error),
};

// The optional functions that are there together or not at all: the core asks for the first and uses the others.
constexpr Entry kVirtualMemory[] = {ENTRY(virtual_reserve), ENTRY(virtual_commit), ENTRY(virtual_decommit),
                                    ENTRY(virtual_release)};
constexpr Entry kGraphs[] = {ENTRY(capture_begin), ENTRY(capture_end), ENTRY(graph_launch), ENTRY(graph_destroy)};
constexpr Entry kIpc[] = {ENTRY(ipc_export), ENTRY(ipc_import), ENTRY(ipc_close)};
#undef ENTRY

bool has(const unify_backend& table, const Entry& entry) {
  void* pointer = nullptr;
  std::memcpy(&pointer, reinterpret_cast<const char*>(&table) + entry.offset, sizeof pointer);
  return pointer != nullptr;
}

// Empty if all are there, or none.
template <size_t N>
std::string why_half(const unify_backend& table, const Entry (&group)[N]) {
  std::string present;
  std::string absent;
  for (const Entry& entry : group) (has(table, entry) ? present : absent) += std::string(" ") + entry.name;
  if (present.empty() || absent.empty()) return {};
  return "it has" + present + " and lacks" + absent + ", which are there together or not at all";
}

using Get = unify_backend_get_function;

// Asks for the table and checks it. A table of an older minor version is shorter: what it lacks is null. Returns why
// it cannot be used; out_is_absent: the backend itself said so.
std::string open_table(Get get, const std::string& vendor_library, unify_backend& out, bool& out_is_absent) {
  unify_backend_get_args args{};
  args.struct_size = sizeof args;
  args.abi_major = UNIFY_ABI_MAJOR;
  args.abi_minor = UNIFY_ABI_MINOR;
  args.library = vendor_library.empty() ? nullptr : vendor_library.c_str();
  const unify_backend* table = get(&args);
  out_is_absent = table == nullptr;
  if (table == nullptr) return args.why != nullptr ? args.why : "it gave no reason";
  constexpr size_t kHead = offsetof(unify_backend, device_count);
  if (table->struct_size < kHead) return "its table is cut off: " + std::to_string(table->struct_size) + " bytes";
  if (table->abi_major != UNIFY_ABI_MAJOR) {
    return "it was made for version " + std::to_string(table->abi_major) +
           " of the backend interface, this is version " + std::to_string(UNIFY_ABI_MAJOR) +
           ". Build it again with this unify's header.";
  }
  out = unify_backend{};
  std::memcpy(&out, table, std::min(table->struct_size, sizeof out));
  if (out.name == nullptr || *out.name == 0) return "it has no name";
  for (const Entry& function : kRequired) {
    if (!has(out, function)) return std::string("it lacks the required function ") + function.name;
  }
  for (const std::string& why : {why_half(out, kVirtualMemory), why_half(out, kGraphs), why_half(out, kIpc)}) {
    if (!why.empty()) return why;
  }
  return {};
}

// The backend's own words for its last failure, ": driver too old (TOY_ERROR, 7009). Update it", as far as it has any.
std::string words_of(const unify_backend& table) {
  unify_error error{};
  error.struct_size = sizeof error;
  table.last_error(&error);
  std::string text;
  if (error.message != nullptr) text += std::string(": ") + error.message;
  if (error.native_name != nullptr) {
    text += std::string(" (") + error.native_name + ", " + std::to_string(error.native_code) + ")";
  }
  if (error.advice != nullptr) text += std::string(". ") + error.advice;
  return text;
}

// Letters to change to make one word of the other; for "did you mean".
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

// A slip of the finger, or another form of the word: "leak", "validation".
bool is_near(const std::string& name, const std::string& known) {
  constexpr size_t kStem = 4;
  return edit_distance(name, known) <= 2 || (name.size() >= kStem && name.substr(0, kStem) == known.substr(0, kStem));
}

}  // namespace

struct Registry::State {
  std::mutex mutex;
  std::deque<Backend> backends;      // addresses stay
  std::deque<unify_backend> tables;  // likewise; wrapped by layers
  std::deque<unify_backend> plain;   // as the backends gave them, in the same order
  std::map<std::string, std::string> options;
  std::map<std::string, std::shared_ptr<Device>> devices;
  std::vector<std::string> layers;
  bool is_expandable = false;
  std::mutex opening;            // of `opened`. Before the other
  std::set<std::string> opened;  // of kBuiltin

  void wrap(unify_backend& table) const;
  const Backend& add(Backend backend, const std::string& expected_name, const std::string& why,
                     const unify_backend& table);
};

using AddLayer = void (*)(unify_backend&);
const std::map<std::string, AddLayer> kLayers = {
    {"faults", add_faults}, {"leaks", add_leaks}, {"trace", add_trace}, {"validate", add_validation}};

void Registry::State::wrap(unify_backend& table) const {
  for (const std::string& layer : layers) kLayers.at(layer)(table);
}

const Backend& Registry::State::add(Backend backend, const std::string& expected_name, const std::string& why,
                                    const unify_backend& table) {
  backend.why = why;
  if (why.empty()) {
    const std::string name = table.name;
    const auto is_taken = [&](const Backend& other) { return other.name == name && other.table != nullptr; };
    const auto is_ours = [&](const auto& entry) { return name == entry.first; };
    if (!expected_name.empty() && name != expected_name) {
      backend.why = "it calls itself '" + name + "', not '" + expected_name + "'";
    } else if (backend.library != kOwnLibrary && std::any_of(std::begin(kBuiltin), std::end(kBuiltin), is_ours)) {
      backend.why = "'" + name + "' is the name of a backend of unify's own: a plugin needs another";
    } else if (std::any_of(backends.begin(), backends.end(), is_taken)) {
      backend.why = "there is a backend '" + name + "' already";
    } else {
      backend.name = name;
      plain.push_back(table);
      tables.push_back(table);
      wrap(tables.back());
      backend.table = &tables.back();
      if (table.device_count(&backend.device_count) != UNIFY_OK) {
        backend.why = "counting its devices failed" + words_of(table);
        backend.table = nullptr;
        backend.device_count = 0;
      }
    }
  }
  backends.push_back(std::move(backend));
  return backends.back();
}

Registry::Registry() : state_(std::make_unique<State>()) { open_builtin("cpu"); }

Registry& Registry::instance() {
  static auto* registry = new Registry;  // never destroyed: devices may be used until the last moment
  return *registry;
}

void Registry::add_builtin(const std::string& name, Get get, const std::string& vendor_library) {
  Backend backend;
  backend.name = name;
  backend.library = kOwnLibrary;
  unify_backend table{};
  const std::string why = open_table(get, vendor_library, table, backend.is_absent);
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->add(std::move(backend), name, why, table);
}

bool Registry::open_builtin(const std::string& name, const std::string& vendor_library) {
  const auto known =
      std::find_if(std::begin(kBuiltin), std::end(kBuiltin), [&](const auto& entry) { return name == entry.first; });
  if (known == std::end(kBuiltin)) {
    throw Error(ErrorKind::kInvalidArgument, "no backend '" + name + "' is built in.");
  }
  const std::lock_guard<std::mutex> lock(state_->opening);
  if (!state_->opened.insert(name).second) return false;
  add_builtin(name, known->second, vendor_library);
  return true;
}

const Backend& Registry::add_library(const std::string& path, const std::string& expected_name) {
  Backend backend;
  backend.name = expected_name;
  backend.library = path;
  unify_backend table{};
  std::string why;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    why = reason != nullptr ? reason : "it cannot be opened";
  } else if (void* symbol = dlsym(library, "unify_backend_get"); symbol == nullptr) {
    why = "it does not export unify_backend_get: not a backend of unify";
  } else {
    why = open_table(reinterpret_cast<Get>(symbol), {}, table, backend.is_absent);
  }
  if (backend.name.empty()) backend.name = path.substr(path.rfind('/') + 1);
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->add(std::move(backend), expected_name, why, table);
}

void Registry::set_layers(const std::vector<std::string>& layers) {
  for (const std::string& layer : layers) {
    if (kLayers.count(layer) != 0) continue;
    std::string near;
    std::string known;
    for (const auto& entry : kLayers) {
      if (is_near(layer, entry.first)) near += " Did you mean '" + entry.first + "'?";
      known += " " + entry.first;
    }
    throw Error(ErrorKind::kInvalidArgument, "no layer '" + layer + "'." + near + " Known:" + known + ".");
  }
  const std::lock_guard<std::mutex> lock(state_->mutex);
  if (!state_->devices.empty()) {
    throw Error(ErrorKind::kInvalidArgument, "layers: " + state_->devices.begin()->first +
                                                 " is open already. Choose layers before the first use of a device.");
  }
  state_->layers = layers;
  for (size_t i = 0; i < state_->tables.size(); ++i) {
    state_->tables[i] = state_->plain[i];
    state_->wrap(state_->tables[i]);
  }
}

std::vector<const Backend*> Registry::backends() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  std::vector<const Backend*> result;
  for (const Backend& backend : state_->backends) result.push_back(&backend);
  return result;
}

std::vector<std::string> Registry::device_names() const {
  std::vector<std::string> names;
  for (const Backend* backend : backends()) {
    if (backend->table == nullptr) continue;
    for (uint32_t index = 0; index < backend->device_count; ++index) {
      names.push_back(backend->name == "cpu" ? "cpu" : backend->name + ":" + std::to_string(index));
    }
  }
  return names;
}

std::vector<std::shared_ptr<Device>> Registry::open_devices() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  std::vector<std::shared_ptr<Device>> open;
  for (const auto& [name, device] : state_->devices) {
    if (device != nullptr) open.push_back(device);
  }
  return open;
}

void Registry::set_expandable_segments(bool is_expandable) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->is_expandable = is_expandable;
  for (const auto& [name, device] : state_->devices) {
    if (device != nullptr) device->allocator().set_expandable(is_expandable);
  }
}

void Registry::set_open_options(const std::string& backend, const std::string& options) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->options[backend] = options;
}

namespace {

[[noreturn]] void throw_unknown(const std::string& name, const std::vector<std::string>& known, bool has_backend) {
  std::string near;
  std::string all;
  size_t nearest = 3;
  for (const std::string& other : known) {
    all += " " + other;
    const size_t distance = edit_distance(name, other);
    if (distance >= nearest) continue;
    nearest = distance;
    near = " Did you mean '" + other + "'?";
  }
  const bool is_strange = !has_backend && near.empty();
  throw Error(ErrorKind::kNotFound,
              "no device '" + name + "'" + (is_strange ? ": no backend of that name is installed." : ".") + near +
                  " Devices here:" + all + ". `unify info` " +
                  (is_strange ? "lists the backends that were found; others come as plugins: docs/abi.md."
                              : "says why others are absent."));
}

}  // namespace

std::shared_ptr<Device> Registry::device(const std::string& name) {
  const size_t colon = name.find(':');
  const std::string kind = name.substr(0, colon);
  const std::string digits = colon == std::string::npos ? "0" : name.substr(colon + 1);
  const bool is_number = !digits.empty() && digits.size() < 6 &&
                         std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
  const std::vector<std::string> known = device_names();
  std::lock_guard<std::mutex> lock(state_->mutex);
  const Backend* found = nullptr;
  for (const Backend& backend : state_->backends) {
    if (backend.name == kind && (found == nullptr || backend.table != nullptr)) found = &backend;
  }
  if (found == nullptr || !is_number) throw_unknown(name, known, found != nullptr);
  if (found->table == nullptr) {
    throw Error(
        found->is_absent ? ErrorKind::kUnsupported : ErrorKind::kBackend,
        "device '" + name + "': the backend '" + kind + "' (" + found->library + ") cannot be used: " + found->why);
  }
  const auto index = static_cast<uint32_t>(std::stoul(digits));
  if (index >= found->device_count) throw_unknown(name, known, true);
  std::shared_ptr<Device>& device = state_->devices[kind + ":" + std::to_string(index)];
  if (device == nullptr) {
    device = std::make_shared<Device>(*found, index, state_->options[kind]);
    device->allocator().set_expandable(state_->is_expandable);
  }
  return device;
}

}  // namespace unify
