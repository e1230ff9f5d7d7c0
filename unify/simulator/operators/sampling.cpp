// Which words of a vocabulary may follow.
#include <ATen/Functions.h>

#include <limits>

#include "wide.h"

using namespace unify::operators;

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// The k largest of each row, and of them those that are the likelier share p; the others are no choice.
Tensor top_k_top_p(const Tensor& logits, const optional<Tensor>& p, const optional<Tensor>& k) {
  const auto [ascending, order] = at::sort(wide(logits), true, -1, false);
  Tensor sorted = ascending;
  if (k.has_value()) {
    const Tensor place = sorted.size(1) - k->to(ScalarType::Long).unsqueeze(1);
    sorted = sorted.masked_fill(sorted.lt(sorted.gather(1, place)), kNever);
  }
  if (p.has_value()) {
    Tensor is_unlikely = at::softmax(sorted, -1).cumsum(-1).le(1 - wide(*p).unsqueeze(1));
    is_unlikely.select(1, -1).fill_(false);
    sorted = sorted.masked_fill(is_unlikely, kNever);
  }
  return at::empty_like(sorted).scatter_(1, order, sorted);
}

}  // namespace

OPERATOR(aclnnApplyTopKTopP, (Tensor logits, optional<Tensor> p, optional<Tensor> k, Out out),
         out = top_k_top_p(logits, p, k))
