// Modules, functions and launches.
//
// The arguments as the vendor's launcher packs them (triton-ascend 3.2.0, backends/ascend/driver.py), and the calls as
// torch_npu makes them (torch_npu/_inductor/codegen/npu/device_op_overrides.py).
#include "ascend_backend.h"

namespace unify::ascend {
namespace {

constexpr uint64_t kMostPrograms = INT32_MAX - 65535;  // the loop of a block counts in 32 bits, to one step beyond
constexpr uint64_t kMostBlocks = 65535;                // coreDim is of 16 bits: triton-ascend's migration guide
constexpr size_t kSyncOffset = 0;
constexpr size_t kLockOffset = 8;
constexpr size_t kGridBytes = 12;

bool has_kernels() {
  return driver.aclrtBinaryLoadFromData != nullptr && driver.aclrtBinaryUnLoad != nullptr &&
         driver.aclrtBinaryGetFunction != nullptr && driver.aclrtLaunchKernelWithHostArgs != nullptr;
}

aclError load(Module& module, const Image& image) {
  aclrtBinaryLoadOption options[2]{};
  options[0].type = ACL_RT_BINARY_LOAD_OPT_LAZY_LOAD;
  options[1].type = ACL_RT_BINARY_LOAD_OPT_MAGIC;
  options[1].value.magic =
      image.mode == Mode::kVector ? ACL_RT_BINARY_MAGIC_ELF_VECTOR_CORE : ACL_RT_BINARY_MAGIC_ELF_AICORE;
  const aclrtBinaryLoadOptions all = {options, 2};
  return driver.aclrtBinaryLoadFromData(image.object, image.object_bytes, &all, &module.handle);
}

// Puts into device memory what a lock's words hold before a launch.
aclError prepare_lock(Module& module) {
  const uint64_t bytes = module.image.lock_count * sizeof(int64_t);
  if (bytes == 0) return ACL_SUCCESS;
  const std::vector<int64_t> words(module.image.lock_count, module.image.lock_init);
  aclError code = driver.aclrtMalloc(&module.lock.address, bytes, ACL_MEM_MALLOC_HUGE_FIRST);
  if (code != ACL_SUCCESS) return code;
  module.lock.bytes = bytes;
  code = driver.aclrtMemcpy(module.lock.address, bytes, words.data(), bytes, ACL_MEMCPY_HOST_TO_DEVICE);
  if (code != ACL_SUCCESS) driver.aclrtFree(std::exchange(module.lock.address, nullptr));
  return code;
}

unify_status module_load(unify_device handle, const unify_module_args* args, unify_module* out) {
  Device& device = *of(handle);
  if (!has_kernels()) {
    return refuse(UNIFY_UNSUPPORTED,
                  "this CANN does not load kernels from memory (aclrtBinaryLoadFromData, "
                  "aclrtLaunchKernelWithHostArgs): install a newer one, 8.5 for example");
  }
  auto module = std::make_unique<Module>();
  module->device = &device;
  std::string why;
  if (const unify_status status = read_image(args->image, args->bytes, module->image, why); status != UNIFY_OK) {
    return refuse(status, why);
  }
  const char* soc = driver.aclrtGetSocName();
  if (soc != nullptr && !is_for(module->image, soc)) {
    return refuse(UNIFY_INVALID_ARGUMENT, "it is for chips of the " + module->image.chip + "'s kind, and this is " +
                                              soc + ". Compile the kernel for this device");
  }
  const unify_status status = run(device, [&] {
    aclError code = load(*module, module->image);
    if (code != ACL_SUCCESS) return code;
    code = prepare_lock(*module);
    if (code != ACL_SUCCESS) driver.aclrtBinaryUnLoad(module->handle);
    // Chips that have no such address take none.
    const bool can_meet = code == ACL_SUCCESS && driver.aclrtGetHardwareSyncAddr != nullptr;
    if (can_meet && !succeeds(driver.aclrtGetHardwareSyncAddr(&module->sync_address))) {
      module->sync_address = nullptr;
    }
    return code;
  });
  if (status != UNIFY_OK) return status;
  module->image.object = nullptr;
  *out = reinterpret_cast<unify_module>(module.release());
  return UNIFY_OK;
}

unify_status module_unload(unify_module handle) {
  const std::unique_ptr<Module> module(of(handle));
  return run(*module->device, [&] {
    if (module->lock.address != nullptr) driver.aclrtFree(module->lock.address);
    return driver.aclrtBinaryUnLoad(module->handle);
  });
}

// The module's function over ACL's, made at its first use.
Function& function_over(Module& module, aclrtFuncHandle handle) {
  const std::lock_guard<std::mutex> lock(module.mutex);
  for (const std::unique_ptr<Function>& known : module.functions) {
    if (known->handle == handle) return *known;
  }
  module.functions.push_back(std::make_unique<Function>());
  Function& function = *module.functions.back();
  function.module = &module;
  function.handle = handle;
  return function;
}

unify_status refuse_shared(const Device& device, uint64_t bytes) {
  return refuse(UNIFY_INVALID_ARGUMENT, std::to_string(bytes) + " bytes of scratch memory; a core of this device has " +
                                            std::to_string(device.shared_bytes));
}

unify_status function_get(unify_module handle, unify_function_args* args, unify_function* out) {
  Module& module = *of(handle);
  Device& device = *module.device;
  if (args->shared_bytes > device.shared_bytes) return refuse_shared(device, args->shared_bytes);
  aclrtFuncHandle found = nullptr;
  aclError code = ACL_SUCCESS;
  const unify_status status = run(device, [&] {
    code = driver.aclrtBinaryGetFunction(module.handle, args->name, &found);
    return code;
  });
  // For a name that is not there ACL answers as for an error of its own.
  if (code == ACL_ERROR_RT_INTERNAL_ERROR || code == ACL_ERROR_RT_KERNEL_LOOKUP) {
    return refuse_after(code, UNIFY_NOT_FOUND, std::string("the object has no kernel '") + args->name + "'");
  }
  if (status != UNIFY_OK) return status;
  args->max_threads = 1;
  args->registers = 0;
  args->local_bytes = 0;
  *out = reinterpret_cast<unify_function>(&function_over(module, found));
  return UNIFY_OK;
}

// A lock for the next launch on the stream. The stream's own, since its launches run one after another; a graph, which
// may be launched elsewhere at the same time, has one for each launch.
aclError lock_for(Stream& stream, uint64_t bytes, bool records, aclmdlRI graph, void*& out) {
  if (!records) return stream.locks.take(stream, bytes, out);
  const aclError code = driver.aclrtMalloc(&out, bytes, ACL_MEM_MALLOC_HUGE_FIRST);
  const std::lock_guard<std::mutex> lock(stream.device->mutex);
  if (code == ACL_SUCCESS) stream.device->recorded_locks[graph].push_back(out);
  return code;
}

// The arguments of a launch, as it changes them.
class Arguments {
 public:
  explicit Arguments(const unify_launch_args& args) : bytes_(args.args_bytes) {
    if (bytes_ > sizeof near_) far_.resize(bytes_);
    if (bytes_ > 0) std::memcpy(data(), args.args, bytes_);
  }
  [[nodiscard]] char* data() { return far_.empty() ? near_ : far_.data(); }
  [[nodiscard]] size_t bytes() const { return bytes_; }
  void put(size_t offset, const void* value) { std::memcpy(data() + offset, &value, sizeof value); }
  void put_grid(size_t offset, uint32_t x, uint32_t y, uint32_t z) {
    const uint32_t grid[] = {x, y, z};
    std::memcpy(data() + offset, grid, sizeof grid);
  }

 private:
  size_t bytes_;
  char near_[1024] = {};  // ACL refuses null, also for a kernel without arguments
  std::vector<char> far_;
};

// What a launch asks for that no Ascend chip has.
unify_status check(const Device& device, const unify_launch_args& args) {
  if (args.cluster[0] != 0) return refuse(UNIFY_UNSUPPORTED, "an Ascend chip has no clusters");
  if (args.flags != 0) return refuse(UNIFY_UNSUPPORTED, "no cooperative or overlapping launches on an Ascend chip");
  if (args.threads > 1) {
    return refuse(UNIFY_INVALID_ARGUMENT,
                  "a program is one thread on an Ascend chip, not " + std::to_string(args.threads));
  }
  return args.shared_bytes > device.shared_bytes ? refuse_shared(device, args.shared_bytes) : UNIFY_OK;
}

// How many blocks run. One that loops over the grid has no more than there are cores.
uint64_t blocks_of(const Module& module, uint64_t programs) {
  if (module.image.logical_grid_offset == 0) return programs;
  const uint32_t cores = module.image.mode == Mode::kVector ? module.device->vector_cores : module.device->ai_cores;
  return std::min<uint64_t>(programs, std::max(cores, 1u));
}

// How many programs a grid has; what does not fit is too large for any kernel.
uint64_t programs_of(const uint32_t* grid) {
  uint64_t programs = uint64_t{grid[0]} * grid[1];
  return __builtin_mul_overflow(programs, uint64_t{grid[2]}, &programs) ? UINT64_MAX : programs;
}

unify_status refuse_grid(const Module& module, const uint32_t* grid) {
  const std::string text =
      "a grid of " + std::to_string(grid[0]) + " x " + std::to_string(grid[1]) + " x " + std::to_string(grid[2]);
  const uint64_t programs = programs_of(grid);
  const std::string count = programs == UINT64_MAX ? "more than 2^64" : std::to_string(programs);
  if (module.image.logical_grid_offset != 0) {
    return refuse(UNIFY_INVALID_ARGUMENT, text + " is " + count + " programs; this kernel loops over " +
                                              std::to_string(kMostPrograms) + " at most. Use larger tiles");
  }
  return refuse(UNIFY_INVALID_ARGUMENT, text + " is " + count + " programs; an Ascend chip starts " +
                                            std::to_string(kMostBlocks) +
                                            " at most. Use larger tiles, or a kernel that loops over its grid");
}

// The launch, with the lock that its blocks wait by set anew.
aclError enqueue(Stream& stream, const Function& function, uint32_t blocks, aclrtLaunchKernelCfg* config,
                 Arguments& arguments) {
  const LockMemory& initial = function.module->lock;
  bool records = false;
  aclError code = ACL_SUCCESS;
  if (initial.address != nullptr) {
    aclmdlRI graph = nullptr;
    void* lock = nullptr;
    code = is_recording(stream, records, &graph);
    if (code == ACL_SUCCESS) code = lock_for(stream, initial.bytes, records, graph, lock);
    if (code != ACL_SUCCESS) return code;
    code = driver.aclrtMemcpyAsync(lock, initial.bytes, initial.address, initial.bytes, ACL_MEMCPY_DEVICE_TO_DEVICE,
                                   stream.handle);
    if (code != ACL_SUCCESS) return code;
    arguments.put(kLockOffset, lock);
  }
  code = driver.aclrtLaunchKernelWithHostArgs(function.handle, blocks, stream.handle, config, arguments.data(),
                                              arguments.bytes(), nullptr, 0);
  const bool has_lock = code == ACL_SUCCESS && initial.address != nullptr && !records;
  return has_lock ? stream.locks.note_launch(stream) : code;
}

unify_status launch(unify_stream handle, unify_function f, const unify_launch_args* args) {
  Stream& stream = *of(handle);
  const Function& function = *of(f);
  const Module& module = *function.module;
  const Image& image = module.image;
  if (const unify_status status = check(*stream.device, *args); status != UNIFY_OK) return status;
  const uint64_t programs = programs_of(args->grid);
  const uint64_t blocks = blocks_of(module, programs);
  if (programs > kMostPrograms || blocks > kMostBlocks) return refuse_grid(module, args->grid);
  Arguments arguments(*args);
  if (image.has_prefix) {
    if (args->args_bytes < image.grid_offset + kGridBytes) {
      return refuse(UNIFY_INVALID_ARGUMENT, "the arguments have " + std::to_string(args->args_bytes) +
                                                " bytes; the kernel takes " +
                                                std::to_string(image.grid_offset + kGridBytes));
    }
    arguments.put(kSyncOffset, module.sync_address);
    const auto count = static_cast<uint32_t>(blocks);
    if (image.logical_grid_offset == 0) {
      arguments.put_grid(image.grid_offset, args->grid[0], args->grid[1], args->grid[2]);
    } else {
      arguments.put_grid(image.logical_grid_offset, args->grid[0], args->grid[1], args->grid[2]);
      arguments.put_grid(image.grid_offset, count, 1, 1);
    }
  }
  aclrtLaunchKernelAttr scratch{};
  scratch.id = ACL_RT_LAUNCH_KERNEL_ATTR_DYN_UBUF_SIZE;
  scratch.value.dynUBufSize = static_cast<uint32_t>(args->shared_bytes);
  aclrtLaunchKernelCfg config{&scratch, 1};
  return enqueue(
      stream,
      [&] {
        return enqueue(stream, function, static_cast<uint32_t>(blocks), args->shared_bytes != 0 ? &config : nullptr,
                       arguments);
      },
      args->operation);
}

bool is_done(const RetiredLocks& locks) {
  int state = ACL_EVENT_RECORDED_STATUS_COMPLETE;
  return locks.last_launch == nullptr || driver.aclrtQueryEventStatus(locks.last_launch, &state) != ACL_SUCCESS ||
         state != ACL_EVENT_RECORDED_STATUS_NOT_READY;
}

// Frees what launches of streams that ended used, once they have ended too.
void sweep_locks(Device& device) {
  const std::lock_guard<std::mutex> lock(device.mutex);
  auto& retired = device.retired_locks;
  const auto done = std::partition(retired.begin(), retired.end(), [](const auto& one) { return !is_done(one); });
  std::for_each(done, retired.end(), release);
  retired.erase(done, retired.end());
}

}  // namespace

void release(const RetiredLocks& locks) {
  for (void* memory : locks.memory) driver.aclrtFree(memory);
  if (locks.last_launch != nullptr) driver.aclrtDestroyEvent(locks.last_launch);
}

aclError StreamLocks::take(Stream& stream, uint64_t bytes, void*& out) {
  device_ = stream.device;
  sweep_locks(*device_);
  if (memory_.bytes < bytes) {
    void* larger = nullptr;
    const aclError code = driver.aclrtMalloc(&larger, bytes, ACL_MEM_MALLOC_HUGE_FIRST);
    if (code != ACL_SUCCESS) return code;
    if (memory_.address != nullptr) outgrown_.push_back(memory_.address);  // a launch may still use it
    memory_ = {larger, bytes};
  }
  out = memory_.address;
  return ACL_SUCCESS;
}

aclError StreamLocks::note_launch(const Stream& stream) {
  if (stream.is_owned) return ACL_SUCCESS;
  aclError code = ACL_SUCCESS;
  if (last_launch_ == nullptr) code = driver.aclrtCreateEventExWithFlag(&last_launch_, ACL_EVENT_SYNC);
  return code == ACL_SUCCESS ? driver.aclrtRecordEvent(last_launch_, stream.handle) : code;
}

StreamLocks::~StreamLocks() {
  if (device_ == nullptr || device_->context == nullptr) return;
  if (memory_.address != nullptr) outgrown_.push_back(memory_.address);
  const RetiredLocks retired{std::move(outgrown_), last_launch_};
  const Entered entered(*device_);
  if (is_done(retired)) {
    release(retired);
    return;
  }
  const std::lock_guard<std::mutex> lock(device_->mutex);
  device_->retired_locks.push_back(retired);
}

void add_kernels(unify_backend& table) {
  table.module_load = module_load;
  table.module_unload = module_unload;
  table.function_get = function_get;
  table.launch = launch;
}

}  // namespace unify::ascend
