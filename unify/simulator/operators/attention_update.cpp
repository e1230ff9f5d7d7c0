// Attention over parts of the keys, put together: each part's share is that of its exponentials' sum.
#include <ATen/Functions.h>

#include <limits>

#include "attention.h"

using namespace unify::operators;

namespace {

// A part that saw no key has an infinite logarithm, and no share. Where no part saw one, the formula gives NaN.
void update(const Tensors& logs, const Tensors& parts, int64_t type, const Out& out, const Out& log) {
  TORCH_CHECK(type == 0 || type == 1, "updateType is ", type, ", not 0 or 1.");
  TORCH_CHECK(logs.size() == parts.size(), logs.size(), " lse for ", parts.size(), " localOut.");
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const Tensor given = at::stack(logs), each = given.masked_fill(given == kInfinity, -kInfinity);
  const Tensor largest = at::amax(each, 0), all = largest + at::log(at::exp(each - largest).sum(0));
  Tensor result = at::zeros(out->sizes());
  for (size_t i = 0; i < parts.size(); ++i) {
    result = result + wide(parts[i]) * at::exp(each[static_cast<int64_t>(i)] - all).unsqueeze(-1);
  }
  out = result;
  if (type == 1) log = all;
}

struct Part {
  Tensor result, largest, sum;  // of the scores; each largest and sum is there eight times
};

// What lies by sequences, in the order of the tokens. ends: of the sequences, from 0 on.
Tensor by_token(const Tensor& statistics, const Tensor& ends) {
  TORCH_CHECK(ends[0].item<int64_t>() == 0, "actualSeqQlen begins with ", ends[0].item<int64_t>(), ", not 0.");
  Tensor result = at::zeros_like(statistics);
  for (int64_t i = 1; i < ends.numel(); ++i) {
    const auto begin = ends[i - 1].item<int64_t>(), end = ends[i].item<int64_t>();
    result.slice(0, begin, end).copy_(statistics_of(statistics, begin, end));
  }
  return result;
}

void update_ring(const Part& before, const Part& now, const optional<Tensor>& ends, const std::string& layout,
                 const std::string& softmax_layout, const Out& out, const Out& largest, const Out& sum) {
  TORCH_CHECK(layout == "SBH" || layout == "TND", "layout ", layout, " is not simulated: SBH and TND are.");
  TORCH_CHECK(softmax_layout.empty() || softmax_layout == "SBH" || softmax_layout == "TND", "inputSoftmaxLayout ",
              softmax_layout, " is neither SBH nor TND.");
  TORCH_CHECK(layout == "SBH" || ends.has_value(), "TND needs actualSeqQlen.");
  const Tensor most = at::maximum(before.largest, now.largest);
  const Tensor old_sum = before.sum * at::exp(before.largest - most), new_sum = now.sum * at::exp(now.largest - most);
  const Tensor total = old_sum + new_sum;
  const auto share = [&](const Tensor& its_sum) {  // beside the heads of its result
    const Tensor each = (its_sum / total).contiguous();
    if (layout == "SBH") return each.permute({2, 0, 1, 3}).narrow(-1, 0, 1);
    return (softmax_layout == "TND" ? each : by_token(each, *ends)).narrow(-1, 0, 1);
  };
  const auto part = [&](const Tensor& result, const Tensor& its_sum) {
    const Tensor heads = layout == "SBH" ? wide(result).unflatten(-1, {its_sum.size(1), -1}) : wide(result);
    return heads * share(its_sum);
  };
  const Tensor both = part(before.result, old_sum) + part(now.result, new_sum);
  out = both.reshape(before.result.sizes());
  largest = most;
  sum = total;
}

}  // namespace

OPERATOR(aclnnAttentionUpdate, (Tensors logs, Tensors parts, int64_t type, Out out, Out log),
         update(logs, parts, type, out, log))
OPERATOR(aclnnRingAttentionUpdateV2,
         (Tensor result1, Tensor largest1, Tensor sum1, Tensor result2, Tensor largest2, Tensor sum2,
          optional<Tensor> ends, std::string layout, std::string softmax_layout, Out out, Out largest, Out sum),
         update_ring({result1, largest1, sum1}, {result2, largest2, sum2}, ends, layout, softmax_layout, out, largest,
                     sum))
