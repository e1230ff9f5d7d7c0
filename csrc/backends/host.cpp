// The CPU backend: streams as queues, kernels as functions, memory as memory.
//
// Work on the default stream runs in the thread that enqueues it while nothing is queued there, so that a launch costs
// no thread switch. Other streams, and the default stream behind something unfinished, run on a thread each.
#include <sys/mman.h>
#include <unify/backend.h>
#include <unify/host_kernel.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cores.h"
#include "host.h"
#include "host_elf.h"
#include "host_fault.h"

namespace unify::host {

struct Module {
  std::unique_ptr<LoadedObject> object;
};

namespace {

// ---- errors ----

struct LastError {
  unify_status status = UNIFY_OK;
  std::string message;
  const char* advice = nullptr;
  uint64_t operation = 0;
};

thread_local LastError last;

}  // namespace

unify_status fail(unify_status status, std::string message, const char* advice, uint64_t operation) {
  last = LastError{status, std::move(message), advice, operation};
  return status;
}

namespace {

void last_error(unify_error* out) {
  out->status = last.status;
  out->native_code = 0;
  out->native_name = nullptr;
  out->message = last.message.empty() ? nullptr : last.message.c_str();
  out->advice = last.advice;
  out->operation = last.operation;
}

constexpr uint64_t kMostScratch = uint64_t{64} << 20;
constexpr size_t kAlignment = 64;

void* pointer(unify_address address) { return reinterpret_cast<void*>(static_cast<uintptr_t>(address)); }

// ---- memory and copies ----

unify_status memory_allocate(unify_device, const unify_allocate_args* args, unify_address* out) {
  if (args->kind == UNIFY_MEMORY_MANAGED) return fail(UNIFY_UNSUPPORTED, "on the CPU all memory is managed already");
  constexpr size_t kHugePage = size_t{2} << 20;
  const size_t alignment = args->bytes >= kHugePage ? kHugePage : kAlignment;
  void* address = nullptr;
  if (args->bytes > SIZE_MAX / 2 || posix_memalign(&address, alignment, args->bytes) != 0) {
    return fail(UNIFY_OUT_OF_MEMORY, "the host has no " + std::to_string(args->bytes) + " bytes in one piece");
  }
  if (alignment == kHugePage) madvise(address, args->bytes, MADV_HUGEPAGE);
  *out = reinterpret_cast<uintptr_t>(address);
  return UNIFY_OK;
}

unify_status memory_free(unify_device, unify_memory_kind, unify_address address) {
  std::free(pointer(address));
  return UNIFY_OK;
}

unify_status memory_info(unify_device, uint64_t* out_free, uint64_t* out_total) {
  unsigned long long available_kib = 0;
  unsigned long long total_kib = 0;
  if (FILE* file = std::fopen("/proc/meminfo", "re")) {
    char line[128];
    while (std::fgets(line, sizeof line, file) != nullptr) {
      std::sscanf(line, "MemTotal: %llu", &total_kib);
      std::sscanf(line, "MemAvailable: %llu", &available_kib);
    }
    std::fclose(file);
  }
  *out_free = available_kib * 1024;
  *out_total = total_kib * 1024;
  return UNIFY_OK;
}

unify_status copy(unify_stream s, const unify_copy_args* args) {
  run_or_enqueue(*of(s), [dst = args->dst, src = args->src, bytes = args->bytes](Stream&) {
    std::memmove(pointer(dst), pointer(src), bytes);
  });
  return UNIFY_OK;
}

unify_status fill(unify_stream s, const unify_fill_args* args) {
  run_or_enqueue(*of(s), [dst = args->dst, value = args->value, width = args->value_bytes, n = args->count](Stream&) {
    if (width == 1) {
      std::memset(pointer(dst), static_cast<int>(value & 0xff), n);
    } else if (width == 2) {
      std::fill_n(static_cast<uint16_t*>(pointer(dst)), n, static_cast<uint16_t>(value));
    } else {
      std::fill_n(static_cast<uint32_t*>(pointer(dst)), n, value);
    }
  });
  return UNIFY_OK;
}

// ---- kernels ----

unify_status module_load(unify_device, const unify_module_args* args, unify_module* out) {
  std::string why;
  auto module = std::make_unique<Module>();
  module->object = LoadedObject::load(args->image, args->bytes, why);
  if (module->object == nullptr) return fail(UNIFY_INVALID_ARGUMENT, why);
  *out = reinterpret_cast<unify_module>(module.release());
  return UNIFY_OK;
}

unify_status module_unload(unify_module m) {
  delete of(m);
  return UNIFY_OK;
}

unify_status function_get(unify_module m, unify_function_args* args, unify_function* out) {
  void* entry = of(m)->object->find(args->name);
  if (entry == nullptr) return fail(UNIFY_NOT_FOUND, std::string("no function '") + args->name + "' in the image");
  if (args->shared_bytes > kMostScratch) {
    return fail(UNIFY_INVALID_ARGUMENT, "a program needs " + std::to_string(args->shared_bytes) +
                                            " bytes of scratch memory, at most " + std::to_string(kMostScratch) +
                                            " are there");
  }
  args->max_threads = 1;
  args->registers = 0;
  args->local_bytes = 0;
  *out = reinterpret_cast<unify_function>(entry);
  return UNIFY_OK;
}

// Scratch memory of the calling thread, kept for its next program.
void* scratch(uint64_t bytes) {
  struct Arena {
    ~Arena() { std::free(memory); }
    void* memory = nullptr;
    uint64_t bytes = 0;
  };
  thread_local Arena arena;
  if (bytes <= arena.bytes) return arena.memory;
  const uint64_t wanted = (std::max<uint64_t>(bytes, 64 << 10) + 4095) & ~uint64_t{4095};
  std::free(arena.memory);
  arena.bytes = 0;
  if (posix_memalign(&arena.memory, 4096, wanted) != 0) arena.memory = nullptr;
  if (arena.memory != nullptr) arena.bytes = wanted;
  return arena.memory;
}

struct Launch {
  unify_host_kernel kernel;
  const void* args;
  uint32_t grid[3];
  uint64_t shared_bytes;
  std::atomic<bool> has_failed{false};
  std::string message;
};

std::string describe(const unify_host_fault& fault) {
  std::string text = fault.kind == 2 ? "access out of bounds" : "assertion failed";
  if (fault.message != nullptr) text += std::string(": ") + fault.message;
  if (fault.kind == 2 && fault.argument >= 0) {
    text += ", at byte " + std::to_string(fault.offset) + " from its address";
  }
  if (fault.file != nullptr) text += std::string(", at ") + fault.file + ":" + std::to_string(fault.line);
  return text + ", program (" + std::to_string(fault.program[0]) + ", " + std::to_string(fault.program[1]) + ", " +
         std::to_string(fault.program[2]) + ")";
}

void run_programs(void* context, uint64_t begin, uint64_t end) {
  auto& launch = *static_cast<Launch*>(context);
  if (launch.has_failed.load(std::memory_order_relaxed)) return;
  unify_host_fault fault{};
  unify_host_call call{launch.args, {launch.grid[0], launch.grid[1], launch.grid[2]}, 0, nullptr, &fault};
  std::string message;
  if (launch.shared_bytes > 0 && (call.scratch = scratch(launch.shared_bytes)) == nullptr) {
    message = "no memory for " + std::to_string(launch.shared_bytes) + " bytes of scratch";
  } else if (!call_guarded(launch.kernel, &call, begin, end, message)) {
    message += ", in programs " + std::to_string(begin) + " to " + std::to_string(end - 1);
  } else if (fault.kind != 0) {
    message = describe(fault);
  } else {
    return;
  }
  if (!launch.has_failed.exchange(true)) launch.message = std::move(message);
}

void run_launch(Stream& stream, unify_function function, const unify_launch_args& args) {
  Launch launch{reinterpret_cast<unify_host_kernel>(function),
                args.args,
                {args.grid[0], args.grid[1], args.grid[2]},
                args.shared_bytes,
                {},
                {}};
  const uint64_t programs = uint64_t{args.grid[0]} * args.grid[1] * args.grid[2];
  stream.device->pool.run(run_programs, &launch, programs);
  if (launch.has_failed.load(std::memory_order_relaxed)) {
    note_failure(stream, {UNIFY_KERNEL_FAULT, std::move(launch.message), args.operation});
  }
}

unify_status launch(unify_stream s, unify_function function, const unify_launch_args* args) {
  Stream& stream = *of(s);
  if (args->shared_bytes > kMostScratch) return fail(UNIFY_INVALID_ARGUMENT, "too much scratch memory");
  if (runs_at_once(stream)) {
    run_launch(stream, function, *args);
    return take_failure(stream);
  }
  const auto* bytes = static_cast<const char*>(args->args);
  auto copied = std::make_shared<std::vector<char>>(bytes, bytes + args->args_bytes);
  enqueue(stream, [function, later = *args, copied](Stream& self) mutable {
    later.args = copied->data();
    run_launch(self, function, later);
  });
  return UNIFY_OK;
}

// ---- devices ----

unify_status device_count(uint32_t* out) {
  *out = 1;
  return UNIFY_OK;
}

// "key=value;key=value" → each pair in turn.
unify_status read_options(const char* options, const std::function<unify_status(std::string, std::string)>& take) {
  std::string text = options == nullptr ? "" : options;
  while (!text.empty()) {
    const size_t end = std::min(text.find(';'), text.size());
    const std::string pair = text.substr(0, end);
    text.erase(0, end + 1);
    if (pair.empty()) continue;
    const size_t equals = pair.find('=');
    if (equals == std::string::npos) return fail(UNIFY_INVALID_ARGUMENT, "option '" + pair + "' has no value");
    if (const unify_status status = take(pair.substr(0, equals), pair.substr(equals + 1)); status != UNIFY_OK) {
      return status;
    }
  }
  return UNIFY_OK;
}

unify_status read_threads(const std::string& value, uint32_t& out) {
  char* end = nullptr;
  const unsigned long threads = std::strtoul(value.c_str(), &end, 10);
  if (value.empty() || *end != 0 || threads > 4096) {
    return fail(UNIFY_INVALID_ARGUMENT, "threads='" + value + "': a number from 0 (one a core) to 4096 is needed");
  }
  out = threads == 0 ? available_cores() : static_cast<uint32_t>(threads);
  return UNIFY_OK;
}

constexpr const char* kKnownOptions = ". Known: threads (0: one a core), pin (0 or 1, only when the device is opened)";

unify_status device_open(const unify_device_open_args* args, unify_device* out) {
  if (args->index != 0) return fail(UNIFY_NOT_FOUND, "there is one CPU device, number 0");
  uint32_t threads = available_cores();
  bool is_pinned = false;
  const unify_status status = read_options(args->options, [&](const std::string& key, const std::string& value) {
    if (key == "threads") return read_threads(value, threads);
    if (key != "pin") return fail(UNIFY_INVALID_ARGUMENT, "no option '" + key + "'" + kKnownOptions);
    if (value != "0" && value != "1") return fail(UNIFY_INVALID_ARGUMENT, "pin='" + value + "': 0 or 1 is needed");
    is_pinned = value == "1";
    return UNIFY_OK;
  });
  if (status != UNIFY_OK) return status;
  *out = reinterpret_cast<unify_device>(new Device(threads, is_pinned));
  return UNIFY_OK;
}

unify_status device_set_option(unify_device d, const char* key, const char* value) {
  if (std::strcmp(key, "threads") != 0) {
    return fail(UNIFY_INVALID_ARGUMENT, std::string("no option '") + key + "'" + kKnownOptions);
  }
  uint32_t threads = 0;
  if (const unify_status status = read_threads(value, threads); status != UNIFY_OK) return status;
  of(d)->pool.resize(threads);
  return UNIFY_OK;
}

unify_status device_synchronize(unify_device d) {
  std::vector<std::shared_ptr<Stream>> streams;
  {
    const std::lock_guard<std::mutex> lock(of(d)->mutex);
    streams.assign(of(d)->streams.begin(), of(d)->streams.end());
  }
  unify_status first = UNIFY_OK;
  for (const std::shared_ptr<Stream>& stream : streams) {
    wait_until_dry(*stream);
    if (first == UNIFY_OK) first = take_failure(*stream);
  }
  return first;
}

void device_close(unify_device d) {
  {
    std::unique_lock<std::mutex> lock(of(d)->mutex);
    of(d)->left.wait(lock, [&] { return of(d)->streams.empty(); });
  }
  delete of(d);
}

unify_status device_status(unify_device, unify_device_state* out) {
  *out = UNIFY_DEVICE_HEALTHY;
  return UNIFY_OK;
}

unify_status device_info(unify_device d, unify_device_info* out) {
  std::snprintf(out->name, sizeof out->name, "CPU");
  if (FILE* file = std::fopen("/proc/cpuinfo", "re")) {
    char line[256];
    char model[128];
    while (std::fgets(line, sizeof line, file) != nullptr) {
      if (std::sscanf(line, "model name : %127[^\n]", model) != 1) continue;
      std::snprintf(out->name, sizeof out->name, "%s", model);
      break;
    }
    std::fclose(file);
  }
  std::snprintf(out->target, sizeof out->target, "cpu");
  out->flags = UNIFY_DEVICE_HOST_VISIBLE | UNIFY_DEVICE_INTEGRATED;
  out->dlpack_type = 1;
  out->dlpack_id = 0;
  uint64_t free_bytes = 0;
  memory_info(d, &free_bytes, &out->memory_bytes);
  out->cache_bytes = static_cast<uint64_t>(std::max(0L, sysconf(_SC_LEVEL3_CACHE_SIZE)));
  out->cores = of(d)->pool.threads();
  out->warp_size = 1;
  out->max_threads = 1;
  for (uint32_t& extent : out->max_grid) extent = UINT32_MAX;
  out->shared_bytes = kMostScratch;
  out->alignment = kAlignment;
  return UNIFY_OK;
}

unify_backend make_table() {
  unify_backend table{};
  table.struct_size = sizeof table;
  table.abi_major = UNIFY_ABI_MAJOR;
  table.abi_minor = UNIFY_ABI_MINOR;
  table.name = "cpu";
  table.version = "1.0";
  table.device_count = device_count;
  table.device_open = device_open;
  table.device_close = device_close;
  table.device_info = device_info;
  table.device_synchronize = device_synchronize;
  table.device_status = device_status;
  table.device_set_option = device_set_option;
  table.memory_allocate = memory_allocate;
  table.memory_free = memory_free;
  table.memory_info = memory_info;
  table.copy = copy;
  table.fill = fill;
  add_streams(table);
  add_events(table);
  table.module_load = module_load;
  table.module_unload = module_unload;
  table.function_get = function_get;
  table.launch = launch;
  table.last_error = last_error;
  return table;
}

}  // namespace
}  // namespace unify::host

// Linked in, so under a name of its own; otherwise as any backend's unify_backend_get.
extern "C" const unify_backend* unify_host_backend_get(unify_backend_get_args*) {
  static const unify_backend table = unify::host::make_table();
  return &table;
}
