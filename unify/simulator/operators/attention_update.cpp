// Attention over parts of the keys, put together: each part's share is that of its exponentials' sum.
#include <ATen/Functions.h>

#include "wide.h"

using namespace unify::operators;

namespace {

void update(const Tensors& logs, const Tensors& parts, int64_t type, const Out& out, const Out& log) {
  TORCH_CHECK(type == 0 || type == 1, "updateType is ", type, ", not 0 or 1.");
  const Tensor each = at::stack(logs), all = at::logsumexp(each, 0);
  Tensor result = at::zeros(out->sizes());
  for (size_t i = 0; i < parts.size(); ++i) {
    result = result + wide(parts[i]) * at::exp(logs.at(i) - all).unsqueeze(-1);
  }
  out = result;
  if (type == 1) log = all;
}

struct Part {
  Tensor result, largest, sum;  // of the scores; each largest and sum is there eight times
};

// [batch, heads, length] as [length, batch, heads], where results are [length, batch, heads * size].
Tensor beside(const Tensor& factor, bool is_sbh) { return (is_sbh ? factor.permute({2, 0, 1}) : factor).unsqueeze(-1); }

void update_ring(const Part& before, const Part& now, const std::string& layout, const std::string& softmax_layout,
                 const Out& out, const Out& largest, const Out& sum) {
  TORCH_CHECK(layout == "SBH" || layout == "TND", "layout ", layout, " is not simulated: SBH and TND are.");
  TORCH_CHECK(softmax_layout.empty() || softmax_layout == layout, "inputSoftmaxLayout ", softmax_layout,
              " is not simulated with ", layout, ".");
  const bool is_sbh = layout == "SBH";
  const Tensor most = at::maximum(before.largest, now.largest);
  const Tensor old_sum = before.sum * at::exp(before.largest - most), new_sum = now.sum * at::exp(now.largest - most);
  const Tensor total = old_sum + new_sum;
  const auto part = [&](const Tensor& result, const Tensor& its_sum) {
    const Tensor heads = is_sbh ? wide(result).unflatten(-1, {its_sum.size(1), -1}) : wide(result);
    return heads * beside((its_sum / total).select(-1, 0), is_sbh);
  };
  const Tensor both = part(before.result, old_sum) + part(now.result, new_sum);
  out = both.reshape(before.result.sizes());
  largest = most;
  sum = total;
}

}  // namespace

OPERATOR(aclnnAttentionUpdate, (Tensors logs, Tensors parts, int64_t type, Out out, Out log),
         update(logs, parts, type, out, log))
// The ends of sequences in TND do not matter: each token has its own sums.
OPERATOR(aclnnRingAttentionUpdateV2,
         (Tensor result1, Tensor largest1, Tensor sum1, Tensor result2, Tensor largest2, Tensor sum2, optional<Tensor>,
          std::string layout, std::string softmax_layout, Out out, Out largest, Out sum),
         update_ring({result1, largest1, sum1}, {result2, largest2, sum2}, layout, softmax_layout, out, largest, sum))
