// Attention as training calls it, and its gradients.
#include <ATen/Functions.h>

#include "attention.h"

namespace unify::operators {
namespace {

AttentionInputs padded(const AttentionInputs& given, const AttentionOptions& options) {
  AttentionInputs inputs = given;
  inputs.query = to_bnsd(given.query, options.layout, options.heads);
  const int64_t size = inputs.query.size(3);
  TORCH_CHECK(size > 0, "heads of no size: the query is ", given.query.sizes(), " in layout ", options.layout, ".");
  const int64_t heads = given.key.size(2) / size;  // where a layout has them flat
  inputs.key = to_bnsd(given.key, options.layout, heads);
  inputs.value = to_bnsd(given.value, options.layout, heads);
  return inputs;
}

}  // namespace

void forward_padded(const AttentionInputs& given, const AttentionOptions& options, const Out& largest, const Out& sum,
                    const Out& out) {
  const AttentionInputs inputs = padded(given, options);
  const AttentionScores scores = attention_scores(inputs, options);
  out = from_bnsd(attention_result(inputs, scores, options), options.layout);
  if (largest.is_wanted()) largest = scores.largest.expand_as(static_cast<const Tensor&>(largest));
  if (sum.is_wanted()) sum = scores.sum.expand_as(static_cast<const Tensor&>(sum));
}

void backward_padded(const AttentionInputs& given, const Tensor& grad, const AttentionOptions& options,
                     const GradientOuts& outs) {
  const AttentionInputs inputs = padded(given, options);
  const AttentionScores scores = attention_scores(inputs, options);
  const AttentionGradients gradients =
      attention_backward(inputs, scores, to_bnsd(grad, options.layout, options.heads), options);
  outs.query = from_bnsd(gradients.query, options.layout);
  outs.key = from_bnsd(gradients.key, options.layout);
  outs.value = from_bnsd(gradients.value, options.layout);
  write_defined(gradients.pse, outs.pse);
  write_defined(gradients.sink, outs.sink);
}

}  // namespace unify::operators

using namespace unify::operators;

OPERATOR(aclnnFlashAttentionScore,
         (Tensor query, Tensor key, Tensor value, optional<Tensor> pse, optional<Tensor> drop, optional<Tensor> padding,
          optional<Tensor> mask, optional<Ints> prefix, double scale, double keep_prob, int64_t before, int64_t after,
          int64_t heads, std::string layout, int64_t, int64_t sparse_mode, Out largest, Out sum, Out, Out out),
         forward_padded({query, key, value, pse, drop, mask, {}},
                        options_of(scale, keep_prob, before, after, heads, layout, sparse_mode, 1, padding, prefix),
                        largest, sum, out))
OPERATOR(aclnnFlashAttentionScoreGrad,
         (Tensor query, Tensor key, Tensor value, Tensor grad, optional<Tensor> pse, optional<Tensor> drop,
          optional<Tensor> padding, optional<Tensor> mask, optional<Tensor>, optional<Tensor>, optional<Tensor>,
          optional<Tensor>, optional<Ints> prefix, double scale, double keep_prob, int64_t before, int64_t after,
          int64_t heads, std::string layout, int64_t, int64_t sparse_mode, Out by_query, Out by_key, Out by_value,
          Out by_pse),
         backward_padded({query, key, value, pse, drop, mask, {}}, grad,
                         options_of(scale, keep_prob, before, after, heads, layout, sparse_mode, 1, padding, prefix),
                         {by_query, by_key, by_value, by_pse, {}}))
OPERATOR(aclnnFlashAttentionScoreV2,
         (Tensor query, Tensor key, Tensor value, optional<Tensor> pse, optional<Tensor> drop, optional<Tensor> padding,
          optional<Tensor> mask, optional<Ints> prefix, optional<Ints> query_start, optional<Ints> key_start,
          double scale, double keep_prob, int64_t before, int64_t after, int64_t heads, std::string layout, int64_t,
          int64_t sparse_mode, int64_t pse_type, Out largest, Out sum, Out, Out out),
         refuse_starts(query_start, key_start);
         forward_padded({query, key, value, pse, drop, mask, {}},
                        options_of(scale, keep_prob, before, after, heads, layout, sparse_mode, pse_type, padding,
                                   prefix),
                        largest, sum, out))
OPERATOR(aclnnFlashAttentionScoreGradV2,
         (Tensor query, Tensor key, Tensor value, Tensor grad, optional<Tensor> pse, optional<Tensor> drop,
          optional<Tensor> padding, optional<Tensor> mask, optional<Tensor>, optional<Tensor>, optional<Tensor>,
          optional<Tensor>, optional<Ints> prefix, optional<Ints> query_start, optional<Ints> key_start, double scale,
          double keep_prob, int64_t before, int64_t after, int64_t heads, std::string layout, int64_t,
          int64_t sparse_mode, int64_t pse_type, Out by_query, Out by_key, Out by_value, Out by_pse),
         refuse_starts(query_start, key_start);
         backward_padded({query, key, value, pse, drop, mask, {}}, grad,
                         options_of(scale, keep_prob, before, after, heads, layout, sparse_mode, pse_type, padding,
                                    prefix),
                         {by_query, by_key, by_value, by_pse, {}}))
OPERATOR(aclnnFlashAttentionScoreV3,
         (Tensor query, Tensor key, Tensor value, optional<Tensor> pse, optional<Tensor> drop, optional<Tensor> padding,
          optional<Tensor> mask, optional<Tensor> sink, optional<Ints> prefix, optional<Ints> query_start,
          optional<Ints> key_start, double scale, double keep_prob, int64_t before, int64_t after, int64_t heads,
          std::string layout, int64_t, int64_t sparse_mode, int64_t pse_type, Out largest, Out sum, Out, Out out),
         refuse_starts(query_start, key_start);
         forward_padded({query, key, value, pse, drop, mask, sink},
                        options_of(scale, keep_prob, before, after, heads, layout, sparse_mode, pse_type, padding,
                                   prefix),
                        largest, sum, out))
OPERATOR(aclnnFlashAttentionScoreGradV3,
         (Tensor query, Tensor key, Tensor value, Tensor grad, optional<Tensor> pse, optional<Tensor> drop,
          optional<Tensor> padding, optional<Tensor> mask, optional<Tensor>, optional<Tensor>, optional<Tensor>,
          optional<Tensor>, optional<Tensor> sink, optional<Ints> prefix, optional<Ints> query_start,
          optional<Ints> key_start, double scale, double keep_prob, int64_t before, int64_t after, int64_t heads,
          std::string layout, int64_t, int64_t sparse_mode, int64_t pse_type, Out by_query, Out by_key, Out by_value,
          Out by_pse, Out by_sink),
         refuse_starts(query_start, key_start);
         backward_padded({query, key, value, pse, drop, mask, sink}, grad,
                         options_of(scale, keep_prob, before, after, heads, layout, sparse_mode, pse_type, padding,
                                    prefix),
                         {by_query, by_key, by_value, by_pse, by_sink}))
