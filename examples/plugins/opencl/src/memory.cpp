// Memory, copies and fills: shared virtual memory, whose addresses are those of the device.
#include "opencl.h"

namespace opencl {
namespace {

void* pointer_to(unify_address address) { return reinterpret_cast<void*>(static_cast<uintptr_t>(address)); }

}  // namespace

unify_status memory_allocate(unify_device device, const unify_allocate_args* args, unify_address* out_address) {
  if (is_forked()) return fail(UNIFY_DEVICE_LOST, "OpenCL cannot be used in a child of fork()");
  cl_svm_mem_flags flags = CL_MEM_READ_WRITE;
  if (args->kind != UNIFY_MEMORY_DEVICE) {  // the host may touch it while the device does
    const auto svm = value_of<cl_device_svm_capabilities>(device->id, CL_DEVICE_SVM_CAPABILITIES);
    if ((svm & CL_DEVICE_SVM_FINE_GRAIN_BUFFER) == 0) {
      return fail(UNIFY_UNSUPPORTED, "the device has no fine-grained shared virtual memory");
    }
    flags |= CL_MEM_SVM_FINE_GRAIN_BUFFER;
  }
  const auto most = value_of<cl_ulong>(device->id, CL_DEVICE_MAX_MEM_ALLOC_SIZE);
  if (args->bytes > most) {
    return fail(UNIFY_OUT_OF_MEMORY, "the device allocates at most " + std::to_string(most) + " bytes at a time");
  }
  void* pointer = clSVMAlloc(device->context, flags, args->bytes, kAlignment);
  if (pointer == nullptr) {
    return fail(UNIFY_OUT_OF_MEMORY, "clSVMAlloc has no memory", CL_MEM_OBJECT_ALLOCATION_FAILURE);
  }
  *out_address = reinterpret_cast<uintptr_t>(pointer);
  const std::lock_guard<std::mutex> lock(device->mutex);
  device->blocks[*out_address] = args->bytes;
  if (args->kind == UNIFY_MEMORY_DEVICE) device->allocated_bytes += args->bytes;
  return UNIFY_OK;
}

unify_status memory_free(unify_device device, unify_memory_kind kind, unify_address address) {
  {
    const std::lock_guard<std::mutex> lock(device->mutex);
    const auto found = device->blocks.find(address);
    if (found == device->blocks.end()) return fail(UNIFY_INVALID_ARGUMENT, "no memory was allocated at this address");
    if (kind == UNIFY_MEMORY_DEVICE) device->allocated_bytes -= found->second;
    device->blocks.erase(found);
  }
  if (!is_forked()) clSVMFree(device->context, pointer_to(address));
  return UNIFY_OK;
}

// OpenCL does not say what other processes use: this is what this one leaves.
unify_status memory_info(unify_device device, uint64_t* out_free_bytes, uint64_t* out_total_bytes) {
  *out_total_bytes = value_of<cl_ulong>(device->id, CL_DEVICE_GLOBAL_MEM_SIZE);
  const std::lock_guard<std::mutex> lock(device->mutex);
  *out_free_bytes = *out_total_bytes > device->allocated_bytes ? *out_total_bytes - device->allocated_bytes : 0;
  return UNIFY_OK;
}

unify_status copy(unify_stream stream, const unify_copy_args* args) {
  if (is_forked()) return fail(UNIFY_DEVICE_LOST, "OpenCL cannot be used in a child of fork()");
  cl_event event = nullptr;
  const cl_int code = clEnqueueSVMMemcpy(stream->queue, CL_FALSE, pointer_to(args->dst), pointer_to(args->src),
                                         args->bytes, 0, nullptr, &event);
  return enqueued(stream, code, event, "clEnqueueSVMMemcpy", args->operation);
}

// OpenCL copies rectangles between buffers only: rows one by one, and at once where nothing lies between them.
unify_status copy_rows(unify_stream stream, const unify_copy_rows_args* args) {
  unify_copy_args one{};
  one.struct_size = sizeof one;
  one.dst_device = args->dst_device;
  one.src_device = args->src_device;
  one.operation = args->operation;
  const bool is_whole = args->dst_pitch == args->bytes && args->src_pitch == args->bytes;
  one.bytes = is_whole ? args->bytes * args->rows : args->bytes;
  for (size_t row = 0; row < (is_whole ? 1 : args->rows); ++row) {
    one.dst = args->dst + row * args->dst_pitch;
    one.src = args->src + row * args->src_pitch;
    if (const unify_status status = copy(stream, &one)) return status;
  }
  return UNIFY_OK;
}

unify_status fill(unify_stream stream, const unify_fill_args* args) {
  if (is_forked()) return fail(UNIFY_DEVICE_LOST, "OpenCL cannot be used in a child of fork()");
  cl_event event = nullptr;
  const cl_int code = clEnqueueSVMMemFill(stream->queue, pointer_to(args->dst), &args->value, args->value_bytes,
                                          args->value_bytes * args->count, 0, nullptr, &event);
  return enqueued(stream, code, event, "clEnqueueSVMMemFill", args->operation);
}

}  // namespace opencl
