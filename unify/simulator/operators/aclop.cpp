// Calls of the vendor's older operators become work of a stream, like those of the others.
#include "aclop.h"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include "aclop_describe.h"

extern "C" int32_t aclrtSynchronizeStream(void* stream);  // of libascendcl.so

namespace unify::operators {

void AclopCall::finish() const {
  TORCH_CHECK(next_input_ == inputs_.size() && next_result_ == results_.size(), "it has ", next_input_, " inputs and ",
              next_result_, " outputs; the call has ", inputs_.size(), " and ", results_.size(), ".");
}

Ints numbers_of(const Tensor& tensor) {
  const Tensor longs = tensor.to(ScalarType::Long).contiguous();
  return {longs.const_data_ptr<int64_t>(), longs.const_data_ptr<int64_t>() + longs.numel()};
}

namespace {

constexpr int32_t kNotSupported = 207000;  // ACL_ERROR_RT_FEATURE_NOT_SUPPORT

struct Known {
  const char* name;
  AclopWork work;
};

std::map<std::string, Known>& known() {
  static auto* const made = new std::map<std::string, Known>;  // for static objects of any file, before and after
  return *made;
}

constexpr int kFractalNz = 29;  // ACL_FORMAT_FRACTAL_NZ

// Whether elements lie in the order of their sizes: aclFormat, acl_base_rt.h.
bool is_plain(int format) {
  switch (format) {
    case -1:  // UNDEFINED
    case 0:   // NCHW
    case 1:   // NHWC
    case 2:   // ND
    case 16:  // HWCN
    case 27:  // NDHWC
    case 30:  // NCDHW
    case 47:  // NCL
      return true;
    default:
      return false;
  }
}

constexpr int64_t kBlock = 16;

// A matrix in blocks of 16 x 16, which lie one under another: memory [..., W / 16, H / 16, 16, 16] as [..., H, W].
Tensor from_blocks(const Tensor& blocks, at::IntArrayRef sizes) {
  const int64_t rows = sizes[sizes.size() - 2], columns = sizes.back();
  const Tensor matrix = blocks.movedim(-4, -2).flatten(-4, -3).flatten(-2, -1);
  return matrix.narrow(-2, 0, rows).narrow(-1, 0, columns).reshape(sizes);
}

Tensor to_blocks(const Tensor& matrix) {
  const auto missing = [&](int64_t dim) { return (kBlock - matrix.size(dim) % kBlock) % kBlock; };
  const Tensor padded = at::constant_pad_nd(matrix, {0, missing(-1), 0, missing(-2)});
  return padded.unflatten(-1, {-1, kBlock}).unflatten(-3, {-1, kBlock}).movedim(-2, -4);
}

// A tensor as an executor keeps it.
struct Operand {
  Operand(const aclTensorDesc& given, const aclDataBuffer* buffer, Operands& operands)
      : sizes(given.sizes), is_in_blocks(given.stored_format == kFractalNz), kept(nullptr, operands) {
    if (given.acl_type == -1 || buffer == nullptr) return;
    aclTensor tensor;
    tensor.type = type_of(given.acl_type);
    TORCH_CHECK(tensor.type != ScalarType::Undefined, "aclDataType ", given.acl_type, " is none of torch's.");
    TORCH_CHECK(is_plain(given.stored_format) || is_in_blocks, "aclFormat ", given.stored_format,
                " is not served by the simulated device.");
    tensor.sizes = is_in_blocks ? given.stored_sizes : given.sizes;
    tensor.strides.resize(tensor.sizes.size());
    int64_t stride = 1;
    for (size_t i = tensor.sizes.size(); i-- > 0; stride *= tensor.sizes[i]) tensor.strides[i] = stride;
    const uint64_t bytes = tensor.bytes();
    TORCH_CHECK(bytes <= buffer->bytes, "a tensor of ", bytes, " bytes in a buffer of ", buffer->bytes, ".");
    tensor.address = reinterpret_cast<uintptr_t>(buffer->data);
    if (given.is_on_host) {  // the caller's, until the call returns
      constant = at::from_blob(buffer->data, tensor.sizes, at::TensorOptions(tensor.type)).clone();
    } else {
      kept = Kept(&tensor, operands);
    }
  }

  [[nodiscard]] Tensor stored(void* const* where) const { return constant.defined() ? constant : kept.at(where); }
  [[nodiscard]] Tensor read(void* const* where) const {
    Tensor tensor = stored(where);
    return is_in_blocks && tensor.defined() ? from_blocks(tensor, sizes) : tensor;
  }

  c10::SmallVector<int64_t, 5> sizes;
  bool is_in_blocks;
  Kept kept;
  Tensor constant;
  std::shared_ptr<c10::SmallVector<int64_t, 5>> found;
};

struct AclopExecutor final : aclOpExecutor {
  void run(void* const* where) const override {
    Tensors tensors;
    for (const Operand& each : inputs) tensors.push_back(each.read(where));
    std::vector<AclopResult> results;
    for (const Operand& each : outputs) {
      const Tensor memory = each.stored(where);
      const bool is_apart = each.is_in_blocks && memory.defined();
      results.push_back({is_apart ? at::zeros(each.sizes, memory.options()) : memory, each.found});
    }
    AclopCall call(std::move(tensors), results, attributes);
    work(call);
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (!outputs[i].is_in_blocks || !results[i].memory.defined()) continue;
      outputs[i].stored(where).copy_(to_blocks(results[i].memory));
    }
  }

  AclopWork work = nullptr;
  std::vector<Operand> inputs, outputs;
  Attributes attributes;
};

int32_t refuse_unknown(const char* type) {
  const std::string name = std::string("operator ") + type;
  const std::string why = name + " is not served by the simulated device; ACLOP(" + type +
                          ", ...) in a file that UNIFY_SIMULATED_OPERATORS names adds it (aclop.h)";
  return unify_simulator_refuse(name.c_str(), kNotSupported, why.c_str());
}

template <typename Descriptions>
int32_t execute(const char* type, int input_count, const aclTensorDesc* const* input_descriptions,
                const aclDataBuffer* const* inputs, int output_count, Descriptions output_descriptions,
                aclDataBuffer* const* outputs, const aclopAttr* attributes, void* stream) {
  if (type == nullptr) return unify_simulator_refuse("aclopCompileAndExecute", kNullPointer, "The type is null.");
  const auto found = known().find(type);
  if (found == known().end()) return refuse_unknown(type);
  try {
    auto executor = std::make_unique<AclopExecutor>();
    executor->work = found->second.work;
    if (attributes != nullptr) executor->attributes = *attributes;
    for (int i = 0; i < input_count; ++i) {
      executor->inputs.emplace_back(*input_descriptions[i], inputs[i], executor->operands);
    }
    for (int i = 0; i < output_count; ++i) {
      Operand& output = executor->outputs.emplace_back(*output_descriptions[i], outputs[i], executor->operands);
      output.found = std::make_shared<c10::SmallVector<int64_t, 5>>(output.sizes);
      if constexpr (std::is_same_v<Descriptions, aclTensorDesc* const*>) output_descriptions[i]->found = output.found;
    }
    return enqueue(found->second.name, executor.release(), stream);
  } catch (const std::exception& error) {
    return refuse(found->second.name, error);
  }
}

}  // namespace

KnownAclop::KnownAclop(const char* type, const char* name, AclopWork work) { known()[type] = {name, work}; }

}  // namespace unify::operators

using namespace unify::operators;

UNIFY_EXPORT int32_t aclopCompileAndExecute(const char* type, int input_count,
                                            const aclTensorDesc* const* input_descriptions,
                                            const aclDataBuffer* const* inputs, int output_count,
                                            const aclTensorDesc* const* output_descriptions,
                                            aclDataBuffer* const* outputs, const aclopAttr* attributes, int, int,
                                            const char*, void* stream) {
  return execute(type, input_count, input_descriptions, inputs, output_count, output_descriptions, outputs, attributes,
                 stream);
}

// It returns when the descriptions of the outputs have the sizes that the operator found.
UNIFY_EXPORT int32_t aclopCompileAndExecuteV2(const char* type, int input_count,
                                              aclTensorDesc* const* input_descriptions, aclDataBuffer* const* inputs,
                                              int output_count, aclTensorDesc* const* output_descriptions,
                                              aclDataBuffer* const* outputs, aclopAttr* attributes, int, int,
                                              const char*, void* stream) {
  const int32_t result = execute(type, input_count, input_descriptions, inputs, output_count, output_descriptions,
                                 outputs, attributes, stream);
  return result == 0 ? aclrtSynchronizeStream(stream) : result;
}
