// Older operators that compute: what torch_npu's own functions call, and torch's where there is no newer one.
#include <ATen/Functions.h>

#include "aclop.h"
#include "wide.h"

using namespace unify::operators;

namespace {

// The gradient of distances, of all pairs: the tensors are [..., R1, R2, C], of which the result is the sum over R2.
// p of -1 is infinity.
Tensor cdist_grad(const Tensor& grad, const Tensor& one, const Tensor& other, const Tensor& distance, double p) {
  const Tensor difference = one - other, sign = at::sgn(difference), size = at::abs(difference);
  if (p == 0) return at::zeros_like(difference);
  if (p == 1) return grad * sign;
  if (p < 0) return grad * sign * (size == distance);
  const Tensor each = grad * sign * at::pow(size / distance, p - 1);
  return at::where((distance == 0) | (size == 0), at::zeros_like(each), each);
}

// first, second: the attributes that say whether a matrix is transposed.
Tensor matmul(const Tensor& one, const Tensor& other, const optional<Tensor>& bias, const Attributes& with,
              const char* first, const char* second) {
  const auto turned = [&](const Tensor& tensor, const char* name) {
    return with.get<bool>(name, false) ? wide(tensor).transpose(-2, -1) : wide(tensor);
  };
  const Tensor product = turned(one, first).matmul(turned(other, second));
  return bias.has_value() ? product + wide(*bias) : product;
}

// Attributes of a convolution are of all dimensions; those of the batch and the channels are 1.
Ints of_space(const Ints& all) { return {all.begin() + 2, all.end()}; }

Tensor convolution(const Tensor& input, const Tensor& weight, const optional<Tensor>& bias, const Attributes& with) {
  const auto layout = with.get<std::string>("data_format");
  TORCH_CHECK(layout == "NCHW" || layout == "NCDHW", "data_format ", layout, " is not simulated.");
  const Ints pads = with.get<Ints>("pads");  // before and after, of each dimension
  Ints padding;
  for (size_t i = 0; i + 1 < pads.size(); i += 2) {
    TORCH_CHECK(pads[i] == pads[i + 1], "pads that differ before and after are not simulated.");
    padding.push_back(pads[i]);
  }
  const Ints none(padding.size(), 0);
  return at::convolution(wide(input), wide(weight), wide(bias), of_space(with.get<Ints>("strides")), padding,
                         of_space(with.get<Ints>("dilations")), false, none, with.get<int64_t>("groups", 1));
}

void softmax_cross_entropy(const Tensor& input, const Tensor& labels, const Out& loss, const Out& grad) {
  const Tensor log = at::log_softmax(wide(input), 1);
  loss = -(wide(labels) * log).sum(1);
  grad = log.exp() - wide(labels);
}

}  // namespace

ACLOP(CdistGrad, (Tensor grad, Tensor one, Tensor other, Tensor distance, const Attributes& with, Out out),
      out = cdist_grad(wide(grad), wide(one), wide(other), wide(distance), with.get<double>("p")).sum(-2))
ACLOP(Mish, (Tensor x, Out y), y = at::mish(wide(x)))
ACLOP(MishGrad, (Tensor grad, Tensor x, Out y), y = at::mish_backward(wide(grad), wide(x)))
ACLOP(Swish, (Tensor x, const Attributes& with, Out y),
      y = wide(x) * at::sigmoid(wide(x) * with.get<double>("scale", 1.0)))
ACLOP(SwishGrad, (Tensor grad, Tensor x, Tensor, Out y), y = at::silu_backward(wide(grad), wide(x)))
ACLOP(ArgMaxWithValue, (Tensor x, const Attributes& with, Out indices, Out values),
      write(at::max(x, with.get<int64_t>("dimension"), with.get<bool>("keep_dims", false)), values, indices))
ACLOP(ArgMinWithValue, (Tensor x, const Attributes& with, Out indices, Out values),
      write(at::min(x, with.get<int64_t>("dimension"), with.get<bool>("keep_dims", false)), values, indices))
ACLOP(BatchMatMul, (Tensor one, Tensor other, optional<Tensor> bias, const Attributes& with, Out out),
      out = matmul(one, other, bias, with, "adj_x1", "adj_x2"))
ACLOP(MatMul, (Tensor one, Tensor other, optional<Tensor> bias, const Attributes& with, Out out),
      out = matmul(one, other, bias, with, "transpose_x1", "transpose_x2"))
ACLOP(SoftmaxCrossEntropyWithLogits, (Tensor input, Tensor labels, Out loss, Out grad),
      softmax_cross_entropy(input, labels, loss, grad))
ACLOP(SortV2, (Tensor x, const Attributes& with, Out y),
      y = std::get<0>(at::sort(x, with.get<int64_t>("axis", -1), with.get<bool>("descending", false))))
ACLOP(Conv2D, (Tensor x, Tensor filter, optional<Tensor> bias, const Attributes& with, Out y),
      y = convolution(x, filter, bias, with))
ACLOP(Conv3D, (Tensor x, Tensor filter, optional<Tensor> bias, const Attributes& with, Out y),
      y = convolution(x, filter, bias, with))
ACLOP(ReduceSum, (Tensor x, Tensor axes, const Attributes& with, Out y),
      y = at::sum(wide(x), numbers_of(axes), with.get<bool>("keep_dims", false)))
ACLOP(ReduceMean, (Tensor x, Tensor axes, const Attributes& with, Out y),
      y = at::mean(wide(x), numbers_of(axes), with.get<bool>("keep_dims", false)))
ACLOP(SoftmaxV2, (Tensor x, const Attributes& with, Out y), y = at::softmax(wide(x), with.get<Ints>("axes").at(0)))
