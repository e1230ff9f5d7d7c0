// Activation functions, and their derivatives.
#include <ATen/ExpandUtils.h>
#include <ATen/Functions.h>

#include "wide.h"

using namespace unify::operators;

#define ACTIVATION(Name, function) OPERATOR(aclnn##Name, (Tensor self, Out out), out = at::function(self))
#define ACTIVATION_OF_BOTH_FORMS(Name, function) \
  ACTIVATION(Name, function)                     \
  OPERATOR(aclnnInplace##Name, (Out self), self = at::function(self))
#define DERIVATIVE(Name, function) \
  OPERATOR(aclnn##Name, (Tensor grad, Tensor self, Out out), out = at::function(grad, self))

ACTIVATION(LogSigmoid, log_sigmoid)
ACTIVATION(Silu, silu)
ACTIVATION_OF_BOTH_FORMS(Hardsigmoid, hardsigmoid)
ACTIVATION_OF_BOTH_FORMS(Hardswish, hardswish)
ACTIVATION_OF_BOTH_FORMS(Mish, mish)
ACTIVATION_OF_BOTH_FORMS(Relu, relu)
ACTIVATION_OF_BOTH_FORMS(Sigmoid, sigmoid)
DERIVATIVE(HardsigmoidBackward, hardsigmoid_backward)
DERIVATIVE(HardswishBackward, hardswish_backward)
DERIVATIVE(HardswishBackwardV2, hardswish_backward)
DERIVATIVE(MishBackward, mish_backward)
DERIVATIVE(SigmoidBackward, sigmoid_backward)
DERIVATIVE(SiluBackward, silu_backward)
DERIVATIVE(TanhBackward, tanh_backward)

OPERATOR(aclnnCelu, (Tensor self, Scalar alpha, Out out), out = at::celu(self, alpha))
OPERATOR(aclnnInplaceCelu, (Out self, Scalar alpha), self = at::celu(self, alpha))
OPERATOR(aclnnElu, (Tensor self, Scalar alpha, Scalar scale, Scalar input_scale, Out out),
         out = at::elu(self, alpha, scale, input_scale))
OPERATOR(aclnnInplaceElu, (Out self, Scalar alpha, Scalar scale, Scalar input_scale),
         self = at::elu(self, alpha, scale, input_scale))
OPERATOR(aclnnEluBackward,
         (Tensor grad, Scalar alpha, Scalar scale, Scalar input_scale, bool is_result, Tensor self, Out out),
         out = at::elu_backward(grad, alpha, scale, input_scale, is_result, self))

#define SHRINK(NAME, FUNCTION)                                                          \
  OPERATOR(NAME, (Tensor self, Scalar bound, Out out), out = at::FUNCTION(self, bound)) \
  OPERATOR(NAME##Backward, (Tensor grad, Tensor self, Scalar bound, Out out),           \
           out = at::FUNCTION##_backward(grad, self, bound))
SHRINK(aclnnHardshrink, hardshrink)
SHRINK(aclnnSoftshrink, softshrink)

OPERATOR(aclnnHardtanh, (Tensor self, Scalar min, Scalar max, Out out), out = at::hardtanh(self, min, max))
OPERATOR(aclnnInplaceHardtanh, (Out self, Scalar min, Scalar max), self = at::hardtanh(self, min, max))
OPERATOR(aclnnHardtanhBackward, (Tensor grad, Tensor self, Scalar min, Scalar max, Out out),
         out = at::hardtanh_backward(grad, self, min, max))

OPERATOR(aclnnLeakyRelu, (Tensor self, Scalar slope, Out out), out = at::leaky_relu(self, slope))
OPERATOR(aclnnInplaceLeakyRelu, (Out self, Scalar slope), self = at::leaky_relu(self, slope))
OPERATOR(aclnnLeakyReluBackward, (Tensor grad, Tensor self, Scalar slope, bool is_result, Out out),
         out = at::leaky_relu_backward(grad, self, slope, is_result))

OPERATOR(aclnnThreshold, (Tensor self, Scalar threshold, Scalar value, Out out),
         out = at::threshold(self, threshold, value))
OPERATOR(aclnnInplaceThreshold, (Out self, Scalar threshold, Scalar value),
         self = at::threshold(self, threshold, value))
OPERATOR(aclnnThresholdBackward, (Tensor grad, Tensor self, Scalar threshold, Out out),
         out = at::threshold_backward(grad, self, threshold))

OPERATOR(aclnnSoftplus, (Tensor self, Scalar beta, Scalar threshold, Out out),
         out = at::softplus(self, beta, threshold))
OPERATOR(aclnnSoftplusBackward, (Tensor grad, Tensor self, Scalar beta, Scalar threshold, Out out),
         out = at::softplus_backward(grad, self, beta, threshold))

// torch_npu's buffer is empty: what torch's CPU operator keeps there is computed anew.
OPERATOR(aclnnLogSigmoidForward, (Tensor self, Out out, Out), out = at::log_sigmoid(self))
OPERATOR(aclnnLogSigmoidBackward, (Tensor grad, Tensor self, Tensor, Out out),
         out = at::log_sigmoid_backward(grad, self, at::exp(at::neg(at::abs(self)))))

namespace {

optional<double> bound_of(double eps) { return eps < 0 ? std::nullopt : optional<double>(eps); }

}  // namespace

OPERATOR(aclnnLogit, (Tensor self, double eps, Out out), out = at::logit(self, bound_of(eps)))
OPERATOR(aclnnLogitGrad, (Tensor self, Tensor grad, double eps, Out out),
         out = at::logit_backward(grad, self, bound_of(eps)))

namespace {

// The weight is one number, or one for each channel; so is its gradient.
void prelu_backward(const Tensor& grad, const Tensor& self, const Tensor& weight, const Out& grad_self,
                    const Out& grad_weight) {
  std::vector<int64_t> shape(std::max<int64_t>(self.dim(), 1), 1);
  shape[shape.size() > 1 ? 1 : 0] = weight.numel();
  auto [of_self, of_weight] = at::_prelu_kernel_backward(grad, self, weight.reshape(shape));
  grad_self = of_self;
  grad_weight = at::sum_to(of_weight, shape).reshape({-1});
}

}  // namespace

OPERATOR(aclnnPrelu, (Tensor self, Tensor weight, Out out), out = at::_prelu_kernel(self, weight))
OPERATOR(aclnnPreluBackward, (Tensor grad, Tensor self, Tensor weight, Out grad_self, Out grad_weight),
         prelu_backward(grad, self, weight, grad_self, grad_weight))

// Gaussian error linear units. Where the vendor's operator has no choice, it is the one with tanh.
namespace {

std::string_view approximation(int64_t mode) {
  TORCH_CHECK(mode == 0 || mode == 1, "A GELU of mode ", mode, ": there are 0 (none) and 1 (tanh).");
  return mode == 0 ? "none" : "tanh";
}

constexpr double kFast = 1.702;  // FastGelu is x * sigmoid(1.702 x)

Tensor fast_gelu(const Tensor& self) {
  const Tensor x = wide(self);
  return at::mul(x, at::sigmoid(at::mul(x, kFast)));
}

Tensor fast_gelu_backward(const Tensor& grad, const Tensor& self) {
  const Tensor x = at::mul(wide(self), kFast), s = at::sigmoid(x);
  return at::mul(grad, at::mul(s, at::add(at::mul(x, at::rsub(s, 1)), 1)));
}

}  // namespace

OPERATOR(aclnnFastGelu, (Tensor self, Out out), out = fast_gelu(self))
OPERATOR(aclnnFastGeluBackward, (Tensor grad, Tensor self, Out out), out = fast_gelu_backward(grad, self))
OPERATOR(aclnnGelu, (Tensor self, Out out), out = at::gelu(self, "tanh"))
OPERATOR(aclnnGeluBackward, (Tensor grad, Tensor self, Out out), out = at::gelu_backward(grad, self, "tanh"))
OPERATOR(aclnnGeluBackwardV2, (Tensor grad, Tensor self, std::string approximate, Out out),
         out = at::gelu_backward(grad, self, approximate))
OPERATOR(aclnnGeluV2, (Tensor self, int64_t mode, Out out), out = at::gelu(self, approximation(mode)))

// Gated units: one half of the elements scales the other.
namespace {

struct Halves {
  Halves(const Tensor& whole, int64_t dim) {
    const Tensors halves = at::chunk(wide(whole), 2, dim);
    TORCH_CHECK(halves.size() == 2 && halves[0].sizes() == halves[1].sizes(), "dimension ", dim, " of ", whole.sizes(),
                " has no halves.");
    first = halves[0];
    second = halves[1];
  }
  Tensor first, second;
};

Tensor swiglu(const Tensor& self, int64_t dim) {
  const Halves x(self, dim);
  return at::mul(at::silu(x.first), x.second);
}

Tensor swiglu_backward(const Tensor& grad, const Tensor& self, int64_t dim) {
  const Halves x(self, dim);
  const Tensor g = wide(grad);
  return at::cat({at::silu_backward(at::mul(g, x.second), x.first), at::mul(g, at::silu(x.first))}, dim);
}

void geglu(const Tensor& self, int64_t dim, int64_t mode, bool is_first_active, const Out& out, const Out& out_gelu) {
  const Halves x(self, dim);
  const Tensor active = at::gelu(is_first_active ? x.first : x.second, approximation(mode));
  out = at::mul(active, is_first_active ? x.second : x.first);
  out_gelu = active;
}

Tensor geglu_backward(const Tensor& grad, const Tensor& self, const Tensor& gelu, int64_t dim, int64_t mode,
                      bool is_first_active) {
  const Halves x(self, dim);
  const Tensor g = wide(grad), linear = at::mul(g, gelu);
  const Tensor& gate = is_first_active ? x.second : x.first;
  const Tensor active = at::gelu_backward(at::mul(g, gate), is_first_active ? x.first : x.second, approximation(mode));
  return is_first_active ? at::cat({active, linear}, dim) : at::cat({linear, active}, dim);
}

Tensor gelu_mul(const Tensor& self, const std::string& approximate) {
  const Halves x(self, -1);
  return at::mul(at::gelu(x.first, approximate), x.second);
}

}  // namespace

OPERATOR(aclnnGeGluV3, (Tensor self, int64_t dim, int64_t mode, bool is_first_active, Out out, Out out_gelu),
         geglu(self, dim, mode, is_first_active, out, out_gelu))
OPERATOR(aclnnGeGluV3Backward,
         (Tensor grad, Tensor self, Tensor gelu, int64_t dim, int64_t mode, bool is_first_active, Out out),
         out = geglu_backward(grad, self, gelu, dim, mode, is_first_active))
OPERATOR(aclnnGeluMul, (Tensor self, std::string approximate, Out out), out = gelu_mul(self, approximate))
OPERATOR(aclnnGlu, (Tensor self, int64_t dim, Out out), out = at::glu(self, dim))
OPERATOR(aclnnGluBackward, (Tensor grad, Tensor self, int64_t dim, Out out), out = at::glu_backward(grad, self, dim))
OPERATOR(aclnnSwiGlu, (Tensor self, int64_t dim, Out out), out = swiglu(self, dim))
OPERATOR(aclnnSwiGluGrad, (Tensor grad, Tensor self, int64_t dim, Out out), out = swiglu_backward(grad, self, dim))
