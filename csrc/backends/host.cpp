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
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <system_error>
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

unify_status fail(const Failure& failure) { return fail(failure.status, failure.message, nullptr, failure.operation); }

unify_status fail_by_exception() noexcept {
  last = LastError{};
  try {
    throw;
  } catch (const std::bad_alloc&) {
    last.status = UNIFY_OUT_OF_MEMORY;
    last.advice = "The host's memory is full.";
  } catch (const std::system_error& error) {  // of std::thread: EAGAIN
    last.status = error.code() == std::errc::resource_unavailable_try_again ? UNIFY_OUT_OF_MEMORY : UNIFY_INTERNAL;
    last.advice = "The system starts no more threads for this process: see ulimit -u and -v, and pids.max.";
  } catch (...) {
    last.status = UNIFY_INTERNAL;
  }
  return last.status;
}

namespace {

void last_error(unify_error* out) {
  unify_error error{};
  error.status = last.status;
  error.message = last.message.empty() ? nullptr : last.message.c_str();
  error.advice = last.advice;
  error.operation = last.operation;
  answer(out, error);
}

constexpr uint64_t kMostScratch = uint64_t{64} << 20;
constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;

void* pointer(unify_address address) { return reinterpret_cast<void*>(static_cast<uintptr_t>(address)); }

// ---- memory and copies ----

unify_status memory_allocate(unify_device, const unify_allocate_args* args, unify_address* out) {
  if (args->kind == UNIFY_MEMORY_MANAGED) return fail(UNIFY_UNSUPPORTED, "on the CPU all memory is managed already");
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

// Addresses are pages without access, which take no memory; decommitting makes them that again.
unify_status virtual_reserve(unify_device, size_t bytes, unify_address* out) {
  // One granule more, to begin at a multiple of it.
  const size_t all = bytes + kHugePage;
  void* pages =
      all < bytes ? MAP_FAILED : mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) {
    return fail(UNIFY_OUT_OF_MEMORY, "the host has no " + std::to_string(bytes) + " addresses in one piece");
  }
  const auto begin = reinterpret_cast<uintptr_t>(pages);
  const uintptr_t address = (begin + kHugePage - 1) / kHugePage * kHugePage;
  if (address > begin) munmap(pages, address - begin);
  munmap(pointer(address + bytes), begin + all - address - bytes);
  *out = address;
  return UNIFY_OK;
}

unify_status virtual_commit(unify_device, unify_address address, size_t bytes) {
  if (mprotect(pointer(address), bytes, PROT_READ | PROT_WRITE) != 0) {
    return fail(UNIFY_OUT_OF_MEMORY, "the host has no " + std::to_string(bytes) + " bytes more");
  }
  madvise(pointer(address), bytes, MADV_HUGEPAGE);
  return UNIFY_OK;
}

unify_status virtual_decommit(unify_device, unify_address address, size_t bytes) {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  if (mmap(pointer(address), bytes, PROT_NONE, kFlags, -1, 0) != MAP_FAILED) return UNIFY_OK;
  return fail(UNIFY_INTERNAL, std::string("the system takes no memory back: ") + std::strerror(errno));
}

unify_status virtual_release(unify_device, unify_address address, size_t bytes) {
  if (munmap(pointer(address), bytes) == 0) return UNIFY_OK;
  return fail(UNIFY_INVALID_ARGUMENT, std::string("no addresses to give back: ") + std::strerror(errno));
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
  Launch(unify_function function, const unify_launch_args& launch, const void* args)
      : kernel(reinterpret_cast<unify_host_kernel>(function)),
        args(args),
        grid{launch.grid[0], launch.grid[1], launch.grid[2]},
        shared_bytes(launch.shared_bytes) {}
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

// True, or false with launch.message.
bool run_all(Stream& stream, Launch& launch) {
  const uint64_t programs = uint64_t{launch.grid[0]} * launch.grid[1] * launch.grid[2];
  stream.device->pool.run(run_programs, &launch, programs);
  return !launch.has_failed.load(std::memory_order_relaxed);
}

unify_status launch(unify_stream s, unify_function function, const unify_launch_args* args) {
  Stream& stream = *of(s);
  if (args->shared_bytes > kMostScratch) return fail(UNIFY_INVALID_ARGUMENT, "too much scratch memory");
  if (args->cluster[0] != 0 || (args->flags & UNIFY_LAUNCH_COOPERATIVE) != 0) {
    return fail(UNIFY_UNSUPPORTED, "programs here may run one after the other: no clusters, no cooperative launch");
  }
  if (runs_at_once(stream)) {
    Launch now(function, *args, args->args);
    if (run_all(stream, now)) return UNIFY_OK;
    return fail(UNIFY_KERNEL_FAULT, std::move(now.message), nullptr, args->operation);
  }
  const auto* bytes = static_cast<const char*>(args->args);
  auto copied = std::make_shared<std::vector<char>>(bytes, bytes + args->args_bytes);
  enqueue(stream, [function, args = *args, copied](Stream& self) {
    Launch later(function, args, copied->data());
    if (run_all(self, later)) return;
    note_failure(self, {UNIFY_KERNEL_FAULT, std::move(later.message), args.operation});
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
  auto device = std::make_unique<Device>(threads, is_pinned);
  watch_forks(*device);
  *out = reinterpret_cast<unify_device>(device.release());
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
  forget_device(*of(d));
  delete of(d);
}

unify_status device_status(unify_device, unify_device_state* out) {
  *out = UNIFY_DEVICE_HEALTHY;
  return UNIFY_OK;
}

void read_name(char (&name)[128]) {
  std::snprintf(name, sizeof name, "CPU");
  FILE* file = std::fopen("/proc/cpuinfo", "re");
  if (file == nullptr) return;
  char line[256];
  while (std::fgets(line, sizeof line, file) != nullptr && std::sscanf(line, "model name : %127[^\n]", name) != 1) {
  }
  std::fclose(file);
}

unify_status device_info(unify_device d, unify_device_info* out) {
  unify_device_info info{};
  read_name(info.name);
  std::snprintf(info.target, sizeof info.target, "cpu");
  info.flags = UNIFY_DEVICE_HOST_VISIBLE | UNIFY_DEVICE_INTEGRATED;
  info.dlpack_type = 1;
  uint64_t free_bytes = 0;
  memory_info(d, &free_bytes, &info.memory_bytes);
  info.cache_bytes = static_cast<uint64_t>(std::max(0L, sysconf(_SC_LEVEL3_CACHE_SIZE)));
  info.cores = of(d)->pool.threads();
  info.warp_size = 1;
  info.max_threads = 1;
  for (uint32_t& extent : info.max_grid) extent = UINT32_MAX;
  info.shared_bytes = kMostScratch;
  info.alignment = kAlignment;
  info.virtual_granularity = kHugePage;
  answer(out, info);
  return UNIFY_OK;
}

unify_backend make_table() {
  unify_backend table{};
  table.struct_size = sizeof table;
  table.abi_major = UNIFY_ABI_MAJOR;
  table.abi_minor = UNIFY_ABI_MINOR;
  table.name = "cpu";
  table.version = "1.0";
  table.device_count = Guarded<device_count>::call;
  table.device_open = Guarded<device_open>::call;
  table.device_close = device_close;
  table.device_info = Guarded<device_info>::call;
  table.device_synchronize = Guarded<device_synchronize>::call;
  table.device_status = Guarded<device_status>::call;
  table.device_set_option = Guarded<device_set_option>::call;
  table.memory_allocate = Guarded<memory_allocate>::call;
  table.memory_free = Guarded<memory_free>::call;
  table.memory_info = Guarded<memory_info>::call;
  table.virtual_reserve = Guarded<virtual_reserve>::call;
  table.virtual_commit = Guarded<virtual_commit>::call;
  table.virtual_decommit = Guarded<virtual_decommit>::call;
  table.virtual_release = Guarded<virtual_release>::call;
  table.copy = Guarded<copy>::call;
  table.fill = Guarded<fill>::call;
  add_streams(table);
  add_events(table);
  table.module_load = Guarded<module_load>::call;
  table.module_unload = Guarded<module_unload>::call;
  table.function_get = Guarded<function_get>::call;
  table.launch = Guarded<launch>::call;
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
