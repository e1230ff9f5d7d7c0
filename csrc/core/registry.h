// The backends of this process: built in, named by an entry point, or found on UNIFY_BACKEND_PATH.
#pragma once

#include <unify/backend.h>

#include <memory>
#include <string>
#include <vector>

namespace unify {

class Device;

// One backend, available or not. Lives as long as the process.
struct Backend {
  std::string name;
  std::string library;                   // path, or "built in"
  const unify_backend* table = nullptr;  // null when unavailable; may be wrapped by layers
  std::string why;                       // why it is unavailable, in words
  uint32_t device_count = 0;
  bool is_absent = false;  // `why` is the backend's own word: no chip or no driver, say. Else it is broken.
};

class Registry {
 public:
  static Registry& instance();

  // Adds a backend whose table is linked in (`get` is its unify_backend_get under another name).
  void add_builtin(const std::string& name, unify_backend_get_function get, const std::string& vendor_library = {});

  // Adds one of ours, "cuda" say, once; the CPU's is there from the start. `vendor_library`: what to open in place of
  // the usual driver, or empty. False, and nothing done, for a second call. Throws InvalidArgument for another name.
  bool open_builtin(const std::string& name, const std::string& vendor_library = {});

  // Opens a shared library and adds its backend. Never throws: a missing file, a missing symbol, another major
  // version, a truncated table, a table without a required function or with a part of those that belong together is a
  // Backend with `why` set.
  // A name that is taken already is refused the same way. `expected_name` may be empty.
  const Backend& add_library(const std::string& path, const std::string& expected_name = {});

  // Wraps the tables of all backends, also of those added afterwards: "validate", "leaks", "trace", "faults"; outermost
  // last. Throws InvalidArgument for another name, and once a device was opened.
  void set_layers(const std::vector<std::string>& layers);

  [[nodiscard]] std::vector<const Backend*> backends() const;

  // The device of that name ("cpu", "cuda:1"), opened at its first use; the same object from then on.
  // Throws NotFound naming near names, or the backend's `why`: Unsupported if it is absent, else Backend.
  std::shared_ptr<Device> device(const std::string& name);

  // All devices that could be opened, as names, without opening them.
  [[nodiscard]] std::vector<std::string> device_names() const;

  // The devices that are open.
  [[nodiscard]] std::vector<std::shared_ptr<Device>> open_devices() const;

  // As Allocator::set_expandable, for all devices, open or opened later.
  void set_expandable_segments(bool is_expandable);

  // Options for devices that are opened later, e.g. ("cpu", "threads=4;pin=1").
  void set_open_options(const std::string& backend, const std::string& options);

 private:
  Registry();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace unify
