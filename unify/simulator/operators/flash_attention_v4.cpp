// Attention as the 950 has it in training: one operator for all layouts, which makes the mask of dropout itself.
#include <ATen/Functions.h>

#include "attention.h"
#include "random.h"

using namespace unify::operators;

namespace {

struct Dropout {
  double keep_prob;
  int64_t seed, offset;
};

// The same seed and offset give the same mask, so that the gradients have it.
Tensor drop_mask(const Dropout& dropout, int64_t scores) {
  const Tensor bytes = at::empty({(scores + 7) / 8}, at::TensorOptions(ScalarType::Byte));
  return mask_of(bytes, 1 - dropout.keep_prob, Random(dropout.seed, dropout.offset).generator());
}

int64_t scores_of(const AttentionInputs& inputs, const AttentionOptions& options, const Ints& query_ends,
                  const Ints& key_ends) {
  if (options.layout != "TND") {
    const bool is_steps_first = options.layout == "SBH";
    const bool is_heads_first = options.layout == "BNSD";
    const int64_t batch = inputs.query.size(is_steps_first ? 1 : 0), dim = is_heads_first ? 2 : is_steps_first ? 0 : 1;
    return batch * options.heads * inputs.query.size(dim) * inputs.key.size(dim);
  }
  int64_t pairs = 0;
  for (size_t i = 0; i < query_ends.size(); ++i) {
    pairs += (query_ends[i] - (i > 0 ? query_ends[i - 1] : 0)) * (key_ends.at(i) - (i > 0 ? key_ends[i - 1] : 0));
  }
  return pairs * options.heads;
}

AttentionInputs with_dropout(AttentionInputs inputs, const AttentionOptions& options, const Dropout& dropout,
                             const optional<Ints>& query_ends, const optional<Ints>& key_ends) {
  const bool has_mask = inputs.drop.has_value() && inputs.drop->numel() > 0;
  if (dropout.keep_prob >= 1 || has_mask) return inputs;
  inputs.drop = drop_mask(dropout, scores_of(inputs, options, query_ends.value_or(Ints()), key_ends.value_or(Ints())));
  return inputs;
}

template <typename... Scales>
void refuse_scales(const Scales&... scales) {
  TORCH_CHECK((!scales.has_value() && ...), "quantised attention is not simulated.");
}

}  // namespace

OPERATOR(
    aclnnFlashAttentionScoreV4,
    (Tensor query, Tensor key, Tensor value, optional<Tensor> pse, optional<Tensor> drop, optional<Tensor> padding,
     optional<Tensor> mask, optional<Tensor> query_rope, optional<Tensor> key_rope, optional<Tensor> query_scale,
     optional<Tensor> key_scale, optional<Tensor> value_scale, optional<Tensor> sink, optional<Ints> prefix,
     optional<Ints> query_ends, optional<Ints> key_ends, optional<Ints> query_start, optional<Ints> key_start,
     double scale, double keep_prob, int64_t before, int64_t after, int64_t heads, std::string layout, int64_t,
     int64_t sparse_mode, int64_t, int64_t pse_type, std::string softmax_layout, int64_t seed, int64_t offset,
     Out largest, Out sum, Out, Out out),
    refuse_rope(query_rope, key_rope);
    refuse_scales(query_scale, key_scale, value_scale); refuse_starts(query_start, key_start);
    const AttentionOptions options = options_of(scale, keep_prob, before, after, heads, layout, sparse_mode, pse_type,
                                                padding, prefix);
    const AttentionInputs inputs = with_dropout({query, key, value, pse, drop, mask, sink}, options,
                                                {keep_prob, seed, offset}, query_ends, key_ends);
    if (layout == "TND") {
      forward_tnd(inputs, query_ends.value_or(Ints()), key_ends.value_or(Ints()), options, is_tnd(softmax_layout),
                  largest, sum, out);
    } else { forward_padded(inputs, options, largest, sum, out); })
OPERATOR(
    aclnnFlashAttentionScoreGradV4,
    (Tensor query, Tensor key, Tensor value, Tensor grad, optional<Tensor> pse, optional<Tensor> drop,
     optional<Tensor> padding, optional<Tensor> mask, optional<Tensor>, optional<Tensor>, optional<Tensor>,
     optional<Tensor>, optional<Tensor> sink, optional<Tensor> query_rope, optional<Tensor> key_rope,
     optional<Tensor> query_scale, optional<Tensor> key_scale, optional<Tensor> value_scale,
     optional<Tensor> grad_scale, optional<Tensor> result_scale, optional<Ints> prefix, optional<Ints> query_ends,
     optional<Ints> key_ends, optional<Ints> query_start, optional<Ints> key_start, double scale, double keep_prob,
     int64_t before, int64_t after, int64_t heads, std::string layout, std::string softmax_layout, int64_t,
     int64_t sparse_mode, int64_t pse_type, int64_t seed, int64_t offset, int64_t, Out by_query, Out by_key,
     Out by_value, Out, Out, Out by_pse, Out by_sink),
    refuse_rope(query_rope, key_rope);
    refuse_scales(query_scale, key_scale, value_scale, grad_scale, result_scale); refuse_starts(query_start, key_start);
    const AttentionOptions options = options_of(scale, keep_prob, before, after, heads, layout, sparse_mode, pse_type,
                                                padding, prefix);
    const AttentionInputs inputs = with_dropout({query, key, value, pse, drop, mask, sink}, options,
                                                {keep_prob, seed, offset}, query_ends, key_ends);
    const GradientOuts outs{by_query, by_key, by_value, by_pse, by_sink}; if (layout == "TND") {
      is_tnd(softmax_layout);
      backward_tnd(inputs, grad, query_ends.value_or(Ints()), key_ends.value_or(Ints()), options, outs);
    } else { backward_padded(inputs, grad, options, outs); })
