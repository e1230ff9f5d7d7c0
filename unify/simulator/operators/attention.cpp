#include "attention.h"

#include <ATen/Functions.h>

#include <limits>

namespace unify::operators {

namespace {

// Each of the queries' heads has a row of its own.
Tensor repeated(const Tensor& tensor, int64_t heads) {
  const int64_t groups = heads / tensor.size(1);
  return groups == 1 ? wide(tensor) : wide(tensor).repeat_interleave(groups, 1);
}

Tensor summed(const Tensor& gradient, int64_t heads) {
  return gradient.unflatten(1, {heads, gradient.size(1) / heads}).sum(2);
}

// What a query does not see, broadcast to [B, N, Sq, Skv]; undefined: it sees all. Modes 2 to 4 are known by their
// name; their mask is 2048 x 2048, whatever the lengths.
Tensor hidden(const AttentionInputs& inputs, const AttentionOptions& options) {
  const int64_t batch = inputs.query.size(0), queries = inputs.query.size(2), keys = inputs.key.size(2);
  const int64_t mode = options.sparse_mode;
  TORCH_CHECK(mode >= 0 && mode <= 4, "sparse_mode ", mode, " is not simulated: 0 to 4 are.");
  if (!inputs.mask.has_value() || inputs.mask->numel() == 0) return {};
  if (mode >= 2) {
    const int64_t diagonal = mode == 2 ? 0 : keys - queries;
    const Tensor ahead = at::arange(keys) - at::arange(queries).unsqueeze(1) - diagonal;
    return mode == 4 ? ahead.gt(options.after).logical_or(ahead.lt(-options.before)) : ahead.gt(0);
  }
  Tensor mask = inputs.mask->to(ScalarType::Bool);
  if (mask.dim() == 2 && queries == 1 && mask.size(0) == batch) mask = mask.unsqueeze(1);
  if (mask.dim() == 3) mask = mask.unsqueeze(1);
  TORCH_CHECK(mask.size(-2) >= queries && mask.size(-1) >= keys, "a mask of ", mask.sizes(), " for ", queries,
              " queries and ", keys, " keys.");
  return mask.slice(-2, 0, queries).slice(-1, 0, keys);
}

Tensor keep_factor(const AttentionInputs& inputs, const AttentionScores& scores, const AttentionOptions& options) {
  if (options.keep_prob >= 1) return {};
  TORCH_CHECK(inputs.drop.has_value(), "keep_prob is ", options.keep_prob, ", but no dropout mask was given.");
  const Tensor bits =
      inputs.drop->flatten().unsqueeze(1).bitwise_right_shift(at::arange(8, at::TensorOptions(ScalarType::Byte)));
  const Tensor kept = bits.bitwise_and(1).flatten().slice(0, 0, scores.shares.numel()).view_as(scores.shares);
  return kept.to(ScalarType::Float) / (options.keep_prob > 0 ? options.keep_prob : 1);
}

}  // namespace

AttentionScores attention_scores(const AttentionInputs& inputs, const AttentionOptions& options) {
  const Tensor query = wide(inputs.query);
  TORCH_CHECK(inputs.key.size(1) > 0 && query.size(1) % inputs.key.size(1) == 0, query.size(1),
              " heads of queries for ", inputs.key.size(1), " of keys.");
  Tensor scores = at::matmul(query, repeated(inputs.key, query.size(1)).transpose(2, 3));
  if (inputs.pse.has_value()) scores = scores + wide(*inputs.pse);
  scores = scores * options.scale;
  const Tensor unseen = hidden(inputs, options);
  if (unseen.defined()) scores = scores.masked_fill(unseen, -std::numeric_limits<double>::infinity());

  AttentionScores result;
  const double lowest = std::numeric_limits<float>::lowest();  // of a query that sees nothing: its result is 0
  result.largest = scores.size(-1) == 0 ? at::full({scores.size(0), scores.size(1), scores.size(2), 1}, lowest)
                                        : at::amax(scores, -1, true).clamp_min(lowest);
  Tensor sink;
  if (inputs.sink.has_value()) {
    sink = wide(*inputs.sink).view({1, -1, 1, 1});
    result.largest = at::maximum(result.largest, sink);
  }
  const Tensor exponentials = at::exp(scores - result.largest);
  result.sum = exponentials.sum(-1, true);
  if (sink.defined()) result.sum = result.sum + at::exp(sink - result.largest);
  const Tensor divisor = result.sum.masked_fill(result.sum == 0, 1);
  result.shares = exponentials / divisor;
  if (sink.defined()) result.sink_share = at::exp(sink - result.largest) / divisor;
  return result;
}

Tensor attention_result(const AttentionInputs& inputs, const AttentionScores& scores, const AttentionOptions& options) {
  const Tensor kept = keep_factor(inputs, scores, options);
  return at::matmul(kept.defined() ? scores.shares * kept : scores.shares,
                    repeated(inputs.value, inputs.query.size(1)));
}

AttentionGradients attention_backward(const AttentionInputs& inputs, const AttentionScores& scores, const Tensor& grad,
                                      const AttentionOptions& options) {
  const Tensor key = repeated(inputs.key, inputs.query.size(1));
  const Tensor value = repeated(inputs.value, inputs.query.size(1));
  const Tensor kept = keep_factor(inputs, scores, options);
  const Tensor by_result = wide(grad);
  const Tensor used = kept.defined() ? scores.shares * kept : scores.shares;
  Tensor by_share = at::matmul(by_result, value.transpose(2, 3));
  if (kept.defined()) by_share = by_share * kept;
  const Tensor along = (by_share * scores.shares).sum(-1, true);
  const Tensor by_sum = scores.shares * (by_share - along) * options.scale;  // by q k^T + pse

  AttentionGradients gradients;
  gradients.query = at::matmul(by_sum, key);
  gradients.key = summed(at::matmul(by_sum.transpose(2, 3), wide(inputs.query)), inputs.key.size(1));
  gradients.value = summed(at::matmul(used.transpose(2, 3), by_result), inputs.value.size(1));
  if (inputs.pse.has_value()) gradients.pse = by_sum.sum_to_size(inputs.pse->sizes());
  if (scores.sink_share.defined()) gradients.sink = -(scores.sink_share * along).sum({0, 2, 3});
  return gradients;
}

Tensor to_bnsd(const Tensor& tensor, const std::string& layout, int64_t heads) {
  if (layout == "BNSD") return tensor;
  if (layout == "BSND") return tensor.transpose(1, 2);
  TORCH_CHECK(layout == "BSH" || layout == "SBH", "layout ", layout,
              " is not simulated: BSH, SBH, BSND, BNSD and TND are.");
  TORCH_CHECK(heads > 0 && tensor.size(2) % heads == 0, tensor.sizes(), " in layout ", layout, " for ", heads,
              " heads.");
  const Tensor of_heads = tensor.unflatten(2, {heads, tensor.size(2) / heads});
  return layout == "BSH" ? of_heads.transpose(1, 2) : of_heads.permute({1, 2, 0, 3});
}

Tensor from_bnsd(const Tensor& tensor, const std::string& layout) {
  if (layout == "BNSD") return tensor;
  if (layout == "BSND") return tensor.transpose(1, 2);
  return layout == "BSH" ? tensor.transpose(1, 2).flatten(2) : tensor.permute({2, 0, 1, 3}).flatten(2);
}

AttentionOptions options_of(double scale, double keep_prob, int64_t before, int64_t after, int64_t heads,
                            const std::string& layout, int64_t sparse_mode, int64_t pse_type,
                            const optional<Tensor>& padding_mask, const optional<Ints>& prefix) {
  TORCH_CHECK(pse_type == 1, "pse_type ", pse_type, " is not simulated: 1 is.");
  TORCH_CHECK(!padding_mask.has_value(), "padding_mask is supported neither by the chip nor here.");
  TORCH_CHECK(!prefix.has_value() || prefix->empty(), "prefix is not simulated.");
  return {scale, keep_prob, before, after, heads, layout, sparse_mode};
}

void refuse_starts(const optional<Ints>& query, const optional<Ints>& key) {
  const auto is_zero = [](const optional<Ints>& start) {
    return !start.has_value() || start->empty() || (start->size() == 1 && start->front() == 0);
  };
  TORCH_CHECK(is_zero(query) && is_zero(key), "q_start_idx and kv_start_idx other than 0 are not simulated.");
}

}  // namespace unify::operators
