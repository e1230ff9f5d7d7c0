// A step of an optimizer, in place; and the scale of a loss in mixed precision.
#include <ATen/Functions.h>

#include <cmath>

#include "operator.h"

using namespace unify::operators;

namespace {

double number(const Tensor& value) { return value.reshape({}).item<double>(); }

Tensor as_float(const Tensor& tensor) { return tensor.scalar_type() == at::kDouble ? tensor : tensor.to(at::kFloat); }

struct Moments {
  // Both, after this gradient: written, and returned before they are rounded to the memory's type.
  Moments(const Out& m, const Out& v, const Tensor& grad, double beta1, double beta2)
      : first(at::add(at::mul(as_float(m), beta1), grad, 1 - beta1)),
        second(at::addcmul(at::mul(as_float(v), beta2), grad, grad, 1 - beta2)) {
    m = first;
    v = second;
  }
  Tensor first, second;
};

// Kingma & Ba 2015, with the corrections of the moments in the step's size, as TensorFlow has it.
void adam(const Out& var, const Out& m, const Out& v, double power1, double power2, double lr, double beta1,
          double beta2, double eps, const Tensor& given, bool is_nesterov) {
  const Tensor grad = as_float(given);
  const Moments moments(m, v, grad, beta1, beta2);
  const Tensor direction = is_nesterov ? at::add(at::mul(moments.first, beta1), grad, 1 - beta1) : moments.first;
  const double size = lr * std::sqrt(1 - power2) / (1 - power1);
  var = at::sub(as_float(var), at::div(direction, at::add(at::sqrt(moments.second), eps)), size);
}

// Loshchilov & Hutter 2019. power: of beta, for this step.
void adam_w(const Out& var, const Out& m, const Out& v, const Out& max_v, const Tensor& given, double power1,
            double power2, double lr, double beta1, double beta2, double decay, double eps, bool is_amsgrad,
            bool is_maximized) {
  const Tensor grad = is_maximized ? at::neg(as_float(given)) : as_float(given);
  const Moments moments(m, v, grad, beta1, beta2);
  Tensor second = moments.second;
  if (is_amsgrad) {
    TORCH_CHECK(max_v.is_wanted(), "AMSGrad needs the largest second moments so far.");
    second = at::maximum(as_float(max_v), second);
    max_v = second;
  }
  const Tensor divisor = at::add(at::div(at::sqrt(second), std::sqrt(1 - power2)), eps);
  var = at::sub(at::mul(as_float(var), 1 - lr * decay), at::div(moments.first, divisor), lr / (1 - power1));
}

// The step in memory is the one before.
void adam_w_by_step(const Out& var, const Out& m, const Out& v, const Out& max_v, const Tensor& grad,
                    const Tensor& step, double lr, double beta1, double beta2, double decay, double eps,
                    bool is_amsgrad, bool is_maximized) {
  const double now = number(step) + 1;
  adam_w(var, m, v, max_v, grad, std::pow(beta1, now), std::pow(beta2, now), lr, beta1, beta2, decay, eps, is_amsgrad,
         is_maximized);
}

struct Sgd {
  double decay, momentum, lr, dampening;
  bool is_nesterov, is_maximized, is_first;
};

void sgd(const Outs& vars, const Outs& grads, const Outs& buffers, const optional<Tensor>& scale, const Sgd& how) {
  TORCH_CHECK(grads.size() == vars.size() && (buffers.empty() || buffers.size() == vars.size()), grads.size(),
              " gradients and ", buffers.size(), " momenta for ", vars.size(), " variables.");
  for (size_t i = 0; i < vars.size(); ++i) {
    const Tensor var = as_float(vars[i]);
    Tensor grad = as_float(grads[i]);
    if (scale) {
      grad = at::div(grad, number(*scale));
      grads[i] = grad;
    }
    if (how.is_maximized) grad = at::neg(grad);
    grad = at::add(grad, var, how.decay);
    if (!buffers.empty()) {
      const Tensor moment =
          how.is_first ? grad : at::add(at::mul(as_float(buffers[i]), how.momentum), grad, 1 - how.dampening);
      buffers[i] = moment;
      grad = how.is_nesterov ? at::add(grad, moment, how.momentum) : moment;
    }
    vars[i] = at::sub(var, grad, how.lr);
  }
}

// Smaller after numbers that are not finite, larger after `interval` steps without.
void update_scale(const Tensor& scale, const Tensor& steps, const Tensor& found, double growth, double backoff,
                  int64_t interval, const Out& out_scale, const Out& out_steps) {
  Tensor new_scale = scale.clone(), new_steps = steps.clone();
  at::_amp_update_scale_(new_scale, new_steps, found, growth, backoff, interval);
  out_scale = new_scale;
  out_steps = new_steps;
}

}  // namespace

OPERATOR(aclnnApplyAdam,
         (Out var, Out m, Out v, Tensor power1, Tensor power2, Tensor lr, Tensor beta1, Tensor beta2, Tensor eps,
          Tensor grad, bool, bool is_nesterov),
         adam(var, m, v, number(power1), number(power2), number(lr), number(beta1), number(beta2), number(eps), grad,
              is_nesterov))
OPERATOR(aclnnApplyAdamW,
         (Out var, Out m, Out v, Tensor power1, Tensor power2, Tensor lr, Tensor decay, Tensor beta1, Tensor beta2,
          Tensor eps, Tensor grad, optional<Tensor>, bool is_amsgrad, bool is_maximized),
         TORCH_CHECK(!is_amsgrad, "aclnnApplyAdamW with amsgrad is not simulated.");
         adam_w(var, m, v, Out(), grad, number(power1) * number(beta1), number(power2) * number(beta2), number(lr),
                number(beta1), number(beta2), number(decay), number(eps), is_amsgrad, is_maximized))
OPERATOR(aclnnApplyAdamWV2,
         (Out var, Out m, Out v, Out max_v, Tensor grad, Tensor step, float lr, float beta1, float beta2, float decay,
          float eps, bool is_amsgrad, bool is_maximized),
         adam_w_by_step(var, m, v, max_v, grad, step, lr, beta1, beta2, decay, eps, is_amsgrad, is_maximized))
OPERATOR(aclnnFusedSgd,
         (Outs vars, Outs grads, Outs buffers, optional<Tensor> scale, float decay, float momentum, float lr,
          float dampening, bool is_nesterov, bool is_maximized, bool is_first),
         sgd(vars, grads, buffers, scale, Sgd{decay, momentum, lr, dampening, is_nesterov, is_maximized, is_first}))
OPERATOR(aclnnAmpUpdateScale,
         (Tensor scale, Tensor steps, Tensor found, double growth, double backoff, int64_t interval, Out out_scale,
          Out out_steps),
         update_scale(scale, steps, found, growth, backoff, interval, out_scale, out_steps))
