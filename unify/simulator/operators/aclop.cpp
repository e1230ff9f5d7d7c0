// Calls of the vendor's older operators become work of a stream, like those of the others.
#include "aclop.h"

#include <ATen/ops/from_blob.h>

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

// Formats that are served: aclFormat, acl_base_rt.h. All lie in the order of their sizes here, as in format_cast.cpp.
bool is_served(int format) {
  switch (format) {
    case -1:  // UNDEFINED
    case 0:   // NCHW
    case 1:   // NHWC
    case 2:   // ND
    case 16:  // HWCN
    case 27:  // NDHWC
    case 29:  // FRACTAL_NZ
    case 30:  // NCDHW
    case 47:  // NCL
      return true;
    default:
      return false;
  }
}

// A tensor as an executor keeps it.
struct Operand {
  Operand(const aclTensorDesc& given, const aclDataBuffer* buffer, Operands& operands)
      : sizes(given.sizes), kept(nullptr, operands) {
    if (given.acl_type == -1 || buffer == nullptr) return;
    aclTensor tensor;
    tensor.type = type_of(given.acl_type);
    TORCH_CHECK(tensor.type != ScalarType::Undefined, "aclDataType ", given.acl_type, " is none of torch's.");
    TORCH_CHECK(is_served(given.stored_format), "aclFormat ", given.stored_format,
                " is not served by the simulated device.");
    tensor.sizes = given.sizes;
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

  [[nodiscard]] Tensor at(void* const* where) const { return constant.defined() ? constant : kept.at(where); }

  c10::SmallVector<int64_t, 5> sizes;
  Kept kept;
  Tensor constant;
  std::shared_ptr<c10::SmallVector<int64_t, 5>> found;
};

struct AclopExecutor final : aclOpExecutor {
  void run(void* const* where) const override {
    Tensors tensors;
    for (const Operand& each : inputs) tensors.push_back(each.at(where));
    std::vector<AclopResult> results;
    for (const Operand& each : outputs) results.push_back({each.at(where), each.found});
    AclopCall call(std::move(tensors), std::move(results), attributes);
    work(call);
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
