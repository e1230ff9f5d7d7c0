// Modules from OpenCL C or SPIR-V, their kernels, and launches.
//
// A launch gets its arguments as one C struct, a kernel of OpenCL takes them one by one: their sizes come from what the
// compiler noted of the kernel's parameters.
#include <cstring>

#include "opencl.h"

struct unify_module_s {
  unify_device device = nullptr;
  cl_program program = nullptr;
  std::vector<std::unique_ptr<unify_function_s>> functions;
  std::mutex mutex;
};

namespace opencl {
namespace {

struct Parameter {
  enum class Kind { kValue, kGlobal, kLocal } kind;
  size_t offset;
  size_t bytes;
};

}  // namespace
}  // namespace opencl

struct unify_function_s {
  cl_kernel kernel = nullptr;
  unify_device device = nullptr;
  std::vector<opencl::Parameter> parameters;
  size_t args_bytes = 0;
  size_t max_threads = 0;
  std::mutex mutex;  // a kernel object holds the arguments of its next launch
  ~unify_function_s() {
    if (kernel != nullptr && !opencl::is_forked()) opencl::clReleaseKernel(kernel);
  }
};

namespace opencl {
namespace {

constexpr uint32_t kSpirv = 0x07230203;
constexpr uint32_t kSpirvSwapped = 0x03022307;

bool is_spirv(const unify_module_args* args) {
  uint32_t magic = 0;
  if (args->bytes >= sizeof magic) std::memcpy(&magic, args->image, sizeof magic);
  return magic == kSpirv || magic == kSpirvSwapped;
}

std::string build_log(cl_program program, cl_device_id device) {
  size_t bytes = 0;
  clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, 0, nullptr, &bytes);
  std::string log(bytes, '\0');
  clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, bytes, log.data(), nullptr);
  log = log.c_str();
  constexpr size_t kMost = 4000;
  return log.size() > kMost ? log.substr(0, kMost) + " …" : log;
}

// Bytes of a type of OpenCL C by its name, "uint4" or "unsigned int"; 0 if it is none of a known size.
size_t size_of(std::string type) {
  struct Scalar {
    const char* name;
    size_t bytes;
  };
  static constexpr Scalar kScalars[] = {{"char", 1},      {"uchar", 1},    {"short", 2},    {"ushort", 2},
                                        {"half", 2},      {"int", 4},      {"uint", 4},     {"float", 4},
                                        {"long", 8},      {"ulong", 8},    {"double", 8},   {"size_t", 8},
                                        {"ptrdiff_t", 8}, {"intptr_t", 8}, {"uintptr_t", 8}};
  if (type.rfind("unsigned ", 0) == 0) type = "u" + type.substr(9);
  const size_t end = type.find_last_not_of("0123456789") + 1;
  const size_t lanes = end == type.size() ? 1 : std::stoul(type.substr(end));
  for (const Scalar& scalar : kScalars) {
    if (type.compare(0, end, scalar.name) == 0) return scalar.bytes * (lanes == 3 ? 4 : lanes);
  }
  return 0;
}

std::string text_of(cl_kernel kernel, cl_uint index, cl_kernel_arg_info what) {
  size_t bytes = 0;
  if (clGetKernelArgInfo(kernel, index, what, 0, nullptr, &bytes) != CL_SUCCESS) return {};
  std::string text(bytes, '\0');
  clGetKernelArgInfo(kernel, index, what, bytes, text.data(), nullptr);
  return text.c_str();
}

unify_status read_parameter(unify_function_s& function, cl_uint index, size_t& end) {
  cl_kernel_arg_address_qualifier space = CL_KERNEL_ARG_ADDRESS_PRIVATE;
  const cl_int code =
      clGetKernelArgInfo(function.kernel, index, CL_KERNEL_ARG_ADDRESS_QUALIFIER, sizeof space, &space, nullptr);
  if (code != CL_SUCCESS) return check(code, "asking for a kernel's parameters");
  Parameter parameter{Parameter::Kind::kValue, 0, sizeof(unify_address)};
  const std::string type = text_of(function.kernel, index, CL_KERNEL_ARG_TYPE_NAME);
  if (space == CL_KERNEL_ARG_ADDRESS_LOCAL) {
    for (const Parameter& other : function.parameters) {
      if (other.kind != Parameter::Kind::kLocal) continue;
      return fail(UNIFY_UNSUPPORTED, "the kernel takes two pointers to local memory: a launch says one size");
    }
    parameter.kind = Parameter::Kind::kLocal;
    parameter.bytes = 0;
    function.parameters.push_back(parameter);
    return UNIFY_OK;
  }
  if (space == CL_KERNEL_ARG_ADDRESS_PRIVATE) {
    parameter.bytes = size_of(type);
  } else {
    parameter.kind = Parameter::Kind::kGlobal;
    if (type.find('*') == std::string::npos) parameter.bytes = 0;  // an image
  }
  if (parameter.bytes == 0) {
    return fail(UNIFY_UNSUPPORTED, "parameter " + std::to_string(index) + " is of type '" + type +
                                       "': only numbers, their vectors and pointers can be passed");
  }
  parameter.offset = (end + parameter.bytes - 1) / parameter.bytes * parameter.bytes;
  end = parameter.offset + parameter.bytes;
  function.parameters.push_back(parameter);
  return UNIFY_OK;
}

cl_int set(const unify_function_s& function, cl_uint index, const unify_launch_args& args) {
  const Parameter& parameter = function.parameters[index];
  const char* value = static_cast<const char*>(args.args) + parameter.offset;
  if (parameter.kind == Parameter::Kind::kLocal) {
    return clSetKernelArg(function.kernel, index, args.shared_bytes == 0 ? 1 : args.shared_bytes, nullptr);
  }
  if (parameter.kind == Parameter::Kind::kValue) return clSetKernelArg(function.kernel, index, parameter.bytes, value);
  unify_address address = 0;
  std::memcpy(&address, value, sizeof address);
  return clSetKernelArgSVMPointer(function.kernel, index, reinterpret_cast<void*>(static_cast<uintptr_t>(address)));
}

unify_status check_launch(const unify_function_s& function, const unify_launch_args& args) {
  const uint64_t operation = args.operation;
  if (args.cluster[0] > 1 || args.cluster[1] > 1 || args.cluster[2] > 1 || args.flags != 0) {
    return fail(UNIFY_UNSUPPORTED, "OpenCL has no clusters, cooperative or overlapping launches", 0, operation);
  }
  if (args.args_bytes != function.args_bytes) {
    return fail(UNIFY_INVALID_ARGUMENT,
                "the kernel takes " + std::to_string(function.args_bytes) + " bytes of arguments, " +
                    std::to_string(args.args_bytes) + " are given",
                0, operation);
  }
  if (args.threads == 0 || args.threads > function.max_threads) {
    return fail(UNIFY_INVALID_ARGUMENT,
                std::to_string(args.threads) + " threads, but the kernel runs with 1 to " +
                    std::to_string(function.max_threads),
                CL_INVALID_WORK_GROUP_SIZE, operation);
  }
  const auto local = value_of<cl_ulong>(function.device->id, CL_DEVICE_LOCAL_MEM_SIZE);
  if (args.shared_bytes > local) {
    return fail(UNIFY_INVALID_ARGUMENT,
                std::to_string(args.shared_bytes) + " bytes of local memory, the device has " + std::to_string(local),
                0, operation);
  }
  return UNIFY_OK;
}

}  // namespace

unify_status module_load(unify_device device, const unify_module_args* args, unify_module* out_module) {
  if (is_forked()) return fail(UNIFY_DEVICE_LOST, "OpenCL cannot be used in a child of fork()");
  auto module = std::make_unique<unify_module_s>();
  module->device = device;
  cl_int code = CL_SUCCESS;
  if (is_spirv(args)) {
    if (text_of(device->id, CL_DEVICE_IL_VERSION).find("SPIR-V") == std::string::npos) {
      return fail(UNIFY_INVALID_ARGUMENT, "the image is SPIR-V, which this device does not take");
    }
    module->program = clCreateProgramWithIL(device->context, args->image, args->bytes, &code);
  } else if (std::memchr(args->image, 0, args->bytes) != nullptr) {
    return fail(UNIFY_INVALID_ARGUMENT, "the image is neither OpenCL C nor SPIR-V");
  } else {
    const char* text = static_cast<const char*>(args->image);
    module->program = clCreateProgramWithSource(device->context, 1, &text, &args->bytes, &code);
  }
  if (code != CL_SUCCESS) return check(code, "making a program");
  code = clBuildProgram(module->program, 1, &device->id, "-cl-kernel-arg-info", nullptr, nullptr);
  if (code != CL_SUCCESS) {
    const std::string log = build_log(module->program, device->id);
    clReleaseProgram(module->program);
    const unify_status status = check(code, "building a program");
    return fail(status, "it does not build:\n" + log, code);
  }
  *out_module = module.release();
  return UNIFY_OK;
}

unify_status module_unload(unify_module module) {
  module->functions.clear();
  if (!is_forked()) clReleaseProgram(module->program);
  delete module;
  return UNIFY_OK;
}

unify_status function_get(unify_module module, unify_function_args* args, unify_function* out_function) {
  if (is_forked()) return fail(UNIFY_DEVICE_LOST, "OpenCL cannot be used in a child of fork()");
  const cl_device_id device = module->device->id;
  if (args->shared_bytes > value_of<cl_ulong>(device, CL_DEVICE_LOCAL_MEM_SIZE)) {
    return fail(UNIFY_INVALID_ARGUMENT, "the device has less local memory than the kernel needs");
  }
  auto function = std::make_unique<unify_function_s>();
  function->device = module->device;
  cl_int code = CL_SUCCESS;
  function->kernel = clCreateKernel(module->program, args->name, &code);
  if (code != CL_SUCCESS) {
    function->kernel = nullptr;
    return fail(UNIFY_NOT_FOUND, std::string("the program has no kernel '") + args->name + "'", code);
  }
  cl_uint count = 0;
  clGetKernelInfo(function->kernel, CL_KERNEL_NUM_ARGS, sizeof count, &count, nullptr);
  for (cl_uint index = 0; index < count; ++index) {
    if (const unify_status status = read_parameter(*function, index, function->args_bytes)) return status;
  }
  clGetKernelWorkGroupInfo(function->kernel, device, CL_KERNEL_WORK_GROUP_SIZE, sizeof function->max_threads,
                           &function->max_threads, nullptr);
  cl_ulong spilled = 0;
  clGetKernelWorkGroupInfo(function->kernel, device, CL_KERNEL_PRIVATE_MEM_SIZE, sizeof spilled, &spilled, nullptr);
  args->max_threads = static_cast<uint32_t>(function->max_threads);
  args->local_bytes = spilled;
  *out_function = function.get();
  const std::lock_guard<std::mutex> lock(module->mutex);
  module->functions.push_back(std::move(function));
  return UNIFY_OK;
}

unify_status launch(unify_stream stream, unify_function function, const unify_launch_args* given) {
  if (is_forked()) return fail(UNIFY_DEVICE_LOST, "OpenCL cannot be used in a child of fork()");
  unify_launch_args args{};  // an older core's struct is shorter
  std::memcpy(&args, given, given->struct_size < sizeof args ? given->struct_size : sizeof args);
  if (const unify_status status = check_launch(*function, args)) return status;
  size_t local[3] = {args.threads, 1, 1};
  size_t global[3];
  for (size_t axis = 0; axis < 3; ++axis) {
    if (args.block[0] != 0) local[axis] = args.block[axis];
    global[axis] = size_t{args.grid[axis]} * local[axis];
  }
  cl_event event = nullptr;
  const std::lock_guard<std::mutex> lock(function->mutex);
  for (cl_uint index = 0; index < function->parameters.size(); ++index) {
    const cl_int code = set(*function, index, args);
    if (code != CL_SUCCESS) return check(code, "setting an argument", args.operation);
  }
  const cl_int code =
      clEnqueueNDRangeKernel(stream->queue, function->kernel, 3, nullptr, global, local, 0, nullptr, &event);
  return enqueued(stream, code, event, "clEnqueueNDRangeKernel", args.operation);
}

}  // namespace opencl
