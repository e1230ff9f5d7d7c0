// Attention of sequences of several lengths, one after the other: layout TND, [tokens, heads, size].
#include <ATen/Functions.h>

#include "attention.h"

namespace unify::operators {
namespace {

constexpr int64_t kColumns = 8;  // of equal values in softmax_max and softmax_sum

// One sequence of a TND batch: its part of the tokens and of what has a place for each of its scores.
struct Sequence {
  int64_t query_begin, query_end, key_begin, key_end;
};

// The lengths are sums of all up to there; what follows them is 0 and not computed.
std::vector<Sequence> sequences(const Ints& query_ends, const Ints& key_ends) {
  TORCH_CHECK(query_ends.size() == key_ends.size(), query_ends.size(), " sequences of queries for ", key_ends.size(),
              " of keys.");
  std::vector<Sequence> found;
  Sequence last{0, 0, 0, 0};
  for (size_t i = 0; i < query_ends.size() && query_ends[i] >= last.query_end; ++i) {
    last = {last.query_end, query_ends[i], last.key_end, key_ends[i]};
    found.push_back(last);
  }
  return found;
}

AttentionInputs of_sequence(const AttentionInputs& given, const Sequence& sequence, int64_t& scores_before) {
  const auto part = [](const Tensor& tensor, int64_t begin, int64_t end) {
    return tensor.slice(0, begin, end).transpose(0, 1).unsqueeze(0);
  };
  AttentionInputs inputs = given;
  inputs.query = part(given.query, sequence.query_begin, sequence.query_end);
  inputs.key = part(given.key, sequence.key_begin, sequence.key_end);
  inputs.value = part(given.value, sequence.key_begin, sequence.key_end);
  const int64_t scores = inputs.query.size(1) * inputs.query.size(2) * inputs.key.size(2);
  if (given.drop.has_value()) {
    TORCH_CHECK(scores_before % 8 == 0, "dropout of sequences that begin within a byte of the mask is not simulated.");
    inputs.drop = given.drop->flatten().slice(0, scores_before / 8);
  }
  scores_before += scores;
  return inputs;
}

void check_tnd(const AttentionInputs& given, const AttentionOptions& options) {
  TORCH_CHECK(options.layout == "TND", "layout ", options.layout, " has no sequence lengths: TND has.");
  TORCH_CHECK(!given.pse.has_value(), "pse with TND is not simulated.");
}

}  // namespace

void forward_tnd(const AttentionInputs& given, const Ints& query_ends, const Ints& key_ends,
                 const AttentionOptions& options, bool is_tnd_softmax, const Out& largest, const Out& sum,
                 const Out& out) {
  check_tnd(given, options);
  const int64_t tokens = given.query.size(0), heads = given.query.size(1);
  Tensor result = at::zeros(out->sizes());
  Tensor all_largest = at::zeros({tokens, heads, kColumns});
  Tensor all_sums = at::zeros({tokens, heads, kColumns});
  int64_t scores_before = 0;
  for (const Sequence& sequence : sequences(query_ends, key_ends)) {
    const AttentionInputs inputs = of_sequence(given, sequence, scores_before);
    const AttentionScores scores = attention_scores(inputs, options);
    const int64_t begin = sequence.query_begin, end = sequence.query_end;
    const auto put = [](const Tensor& place, const Tensor& part) { place.copy_(part.squeeze(0).transpose(0, 1)); };
    const auto statistics = [&](const Tensor& whole) {
      return is_tnd_softmax ? whole.slice(0, begin, end) : statistics_of(whole, begin, end);
    };
    put(result.slice(0, begin, end), attention_result(inputs, scores, options));
    put(statistics(all_largest), scores.largest);
    put(statistics(all_sums), scores.sum);
  }
  out = result;
  largest = all_largest;
  sum = all_sums;
}

void backward_tnd(const AttentionInputs& given, const Tensor& grad, const Ints& query_ends, const Ints& key_ends,
                  const AttentionOptions& options, const GradientOuts& outs) {
  check_tnd(given, options);
  Tensor by_query = at::zeros(given.query.sizes());
  Tensor by_key = at::zeros(given.key.sizes());
  Tensor by_value = at::zeros(given.value.sizes());
  Tensor by_sink = at::zeros({given.query.size(1)});
  int64_t scores_before = 0;
  for (const Sequence& sequence : sequences(query_ends, key_ends)) {
    const AttentionInputs inputs = of_sequence(given, sequence, scores_before);
    const Tensor part = grad.slice(0, sequence.query_begin, sequence.query_end).transpose(0, 1).unsqueeze(0);
    const AttentionGradients gradients = attention_backward(inputs, attention_scores(inputs, options), part, options);
    const auto put = [](Tensor& whole, int64_t begin, int64_t end, const Tensor& piece) {
      whole.slice(0, begin, end).copy_(piece.squeeze(0).transpose(0, 1));
    };
    put(by_query, sequence.query_begin, sequence.query_end, gradients.query);
    put(by_key, sequence.key_begin, sequence.key_end, gradients.key);
    put(by_value, sequence.key_begin, sequence.key_end, gradients.value);
    if (gradients.sink.defined()) by_sink.add_(gradients.sink);
  }
  outs.query = by_query;
  outs.key = by_key;
  outs.value = by_value;
  if (given.sink.has_value()) outs.sink = by_sink;
}

Tensor statistics_of(const Tensor& whole, int64_t begin, int64_t end) {
  return whole.slice(0, begin, end).view({whole.size(1), end - begin, whole.size(2)}).transpose(0, 1);
}

bool is_tnd(const std::string& softmax_layout) {
  TORCH_CHECK(softmax_layout.empty() || softmax_layout == "same_as_input", "softmax layout ", softmax_layout,
              " is not simulated.");
  return !softmax_layout.empty();
}

void refuse_rope(const optional<Tensor>& query_rope, const optional<Tensor>& key_rope) {
  TORCH_CHECK(!query_rope.has_value() && !key_rope.has_value(), "rotary parts beside query and key are not simulated.");
}

}  // namespace unify::operators

using namespace unify::operators;

OPERATOR(aclnnFlashAttentionVarLenScore,
         (Tensor query, Tensor key, Tensor value, optional<Tensor> pse, optional<Tensor> drop, optional<Tensor> padding,
          optional<Tensor> mask, optional<Ints> prefix, Ints query_ends, Ints key_ends, double scale, double keep_prob,
          int64_t before, int64_t after, int64_t heads, std::string layout, int64_t, int64_t sparse_mode, Out largest,
          Out sum, Out, Out out),
         forward_tnd({query, key, value, pse, drop, mask, {}}, query_ends, key_ends,
                     options_of(scale, keep_prob, before, after, heads, layout, sparse_mode, 1, padding, prefix), false,
                     largest, sum, out))
OPERATOR(aclnnFlashAttentionVarLenScoreV2,
         (Tensor query, Tensor key, Tensor value, optional<Tensor> pse, optional<Tensor> drop, optional<Tensor> padding,
          optional<Tensor> mask, optional<Ints> prefix, Ints query_ends, Ints key_ends, optional<Ints> query_start,
          optional<Ints> key_start, double scale, double keep_prob, int64_t before, int64_t after, int64_t heads,
          std::string layout, int64_t, int64_t sparse_mode, int64_t pse_type, Out largest, Out sum, Out, Out out),
         refuse_starts(query_start, key_start);
         forward_tnd({query, key, value, pse, drop, mask, {}}, query_ends, key_ends,
                     options_of(scale, keep_prob, before, after, heads, layout, sparse_mode, pse_type, padding, prefix),
                     false, largest, sum, out))
OPERATOR(aclnnFlashAttentionVarLenScoreV3,
         (Tensor query, optional<Tensor> query_rope, Tensor key, optional<Tensor> key_rope, Tensor value,
          optional<Tensor> pse, optional<Tensor> drop, optional<Tensor> padding, optional<Tensor> mask,
          optional<Ints> prefix, Ints query_ends, Ints key_ends, optional<Ints> query_start, optional<Ints> key_start,
          double scale, double keep_prob, int64_t before, int64_t after, int64_t heads, std::string layout, int64_t,
          int64_t sparse_mode, int64_t pse_type, Out largest, Out sum, Out, Out out),
         refuse_rope(query_rope, key_rope);
         refuse_starts(query_start, key_start);
         forward_tnd({query, key, value, pse, drop, mask, {}}, query_ends, key_ends,
                     options_of(scale, keep_prob, before, after, heads, layout, sparse_mode, pse_type, padding, prefix),
                     false, largest, sum, out))
OPERATOR(aclnnFlashAttentionVarLenScoreV4,
         (Tensor query, Tensor key, Tensor value, optional<Tensor> pse, optional<Tensor> drop, optional<Tensor> padding,
          optional<Tensor> mask, optional<Ints> prefix, Ints query_ends, Ints key_ends, double scale, double keep_prob,
          int64_t before, int64_t after, int64_t heads, std::string layout, int64_t, int64_t sparse_mode,
          std::string softmax_layout, Out largest, Out sum, Out, Out out),
         forward_tnd({query, key, value, pse, drop, mask, {}}, query_ends, key_ends,
                     options_of(scale, keep_prob, before, after, heads, layout, sparse_mode, 1, padding, prefix),
                     is_tnd(softmax_layout), largest, sum, out))
OPERATOR(aclnnFlashAttentionVarLenScoreV5,
         (Tensor query, optional<Tensor> query_rope, Tensor key, optional<Tensor> key_rope, Tensor value,
          optional<Tensor> pse, optional<Tensor> drop, optional<Tensor> padding, optional<Tensor> mask,
          optional<Tensor> sink, optional<Ints> prefix, Ints query_ends, Ints key_ends, optional<Ints> query_start,
          optional<Ints> key_start, double scale, double keep_prob, int64_t before, int64_t after, int64_t heads,
          std::string layout, int64_t, int64_t sparse_mode, int64_t pse_type, std::string softmax_layout, Out largest,
          Out sum, Out, Out out),
         refuse_rope(query_rope, key_rope);
         refuse_starts(query_start, key_start);
         forward_tnd({query, key, value, pse, drop, mask, sink}, query_ends, key_ends,
                     options_of(scale, keep_prob, before, after, heads, layout, sparse_mode, pse_type, padding, prefix),
                     is_tnd(softmax_layout), largest, sum, out))
OPERATOR(aclnnFlashAttentionUnpaddingScoreGrad,
         (Tensor query, Tensor key, Tensor value, Tensor grad, optional<Tensor> pse, optional<Tensor> drop,
          optional<Tensor> padding, optional<Tensor> mask, optional<Tensor>, optional<Tensor>, optional<Tensor>,
          optional<Tensor>, optional<Ints> prefix, Ints query_ends, Ints key_ends, double scale, double keep_prob,
          int64_t before, int64_t after, int64_t heads, std::string layout, int64_t, int64_t sparse_mode, Out by_query,
          Out by_key, Out by_value, Out by_pse),
         backward_tnd({query, key, value, pse, drop, mask, {}}, grad, query_ends, key_ends,
                      options_of(scale, keep_prob, before, after, heads, layout, sparse_mode, 1, padding, prefix),
                      {by_query, by_key, by_value, by_pse, {}}))
OPERATOR(aclnnFlashAttentionUnpaddingScoreGradV2,
         (Tensor query, Tensor key, Tensor value, Tensor grad, optional<Tensor> pse, optional<Tensor> drop,
          optional<Tensor> padding, optional<Tensor> mask, optional<Tensor>, optional<Tensor>, optional<Tensor>,
          optional<Tensor>, optional<Ints> prefix, Ints query_ends, Ints key_ends, optional<Ints> query_start,
          optional<Ints> key_start, double scale, double keep_prob, int64_t before, int64_t after, int64_t heads,
          std::string layout, int64_t, int64_t sparse_mode, int64_t pse_type, Out by_query, Out by_key, Out by_value,
          Out by_pse),
         refuse_starts(query_start, key_start);
         backward_tnd({query, key, value, pse, drop, mask, {}}, grad, query_ends, key_ends,
                      options_of(scale, keep_prob, before, after, heads, layout, sparse_mode, pse_type, padding,
                                 prefix),
                      {by_query, by_key, by_value, by_pse, {}}))
OPERATOR(aclnnFlashAttentionUnpaddingScoreGradV3,
         (Tensor query, optional<Tensor> query_rope, Tensor key, optional<Tensor> key_rope, Tensor value, Tensor grad,
          optional<Tensor> pse, optional<Tensor> drop, optional<Tensor> padding, optional<Tensor> mask,
          optional<Tensor>, optional<Tensor>, optional<Tensor>, optional<Tensor>, optional<Ints> prefix,
          Ints query_ends, Ints key_ends, optional<Ints> query_start, optional<Ints> key_start, double scale,
          double keep_prob, int64_t before, int64_t after, int64_t heads, std::string layout, int64_t,
          int64_t sparse_mode, int64_t pse_type, Out by_query, Out, Out by_key, Out, Out by_value, Out by_pse),
         refuse_rope(query_rope, key_rope);
         refuse_starts(query_start, key_start);
         backward_tnd({query, key, value, pse, drop, mask, {}}, grad, query_ends, key_ends,
                      options_of(scale, keep_prob, before, after, heads, layout, sparse_mode, pse_type, padding,
                                 prefix),
                      {by_query, by_key, by_value, by_pse, {}}))
OPERATOR(aclnnFlashAttentionUnpaddingScoreGradV4,
         (Tensor query, Tensor key, Tensor value, Tensor grad, optional<Tensor> pse, optional<Tensor> drop,
          optional<Tensor> padding, optional<Tensor> mask, optional<Tensor>, optional<Tensor>, optional<Tensor>,
          optional<Tensor>, optional<Ints> prefix, Ints query_ends, Ints key_ends, double scale, double keep_prob,
          int64_t before, int64_t after, int64_t heads, std::string layout, int64_t, int64_t sparse_mode, Out by_query,
          Out by_key, Out by_value, Out by_pse, std::string softmax_layout),
         is_tnd(softmax_layout);
         backward_tnd({query, key, value, pse, drop, mask, {}}, grad, query_ends, key_ends,
                      options_of(scale, keep_prob, before, after, heads, layout, sparse_mode, 1, padding, prefix),
                      {by_query, by_key, by_value, by_pse, {}}))
OPERATOR(aclnnFlashAttentionUnpaddingScoreGradV5,
         (Tensor query, optional<Tensor> query_rope, Tensor key, optional<Tensor> key_rope, Tensor value, Tensor grad,
          optional<Tensor> pse, optional<Tensor> drop, optional<Tensor> padding, optional<Tensor> mask,
          optional<Tensor>, optional<Tensor>, optional<Tensor>, optional<Tensor>, optional<Tensor> sink,
          optional<Ints> prefix, Ints query_ends, Ints key_ends, optional<Ints> query_start, optional<Ints> key_start,
          double scale, double keep_prob, int64_t before, int64_t after, int64_t heads, std::string layout, int64_t,
          int64_t sparse_mode, int64_t pse_type, std::string softmax_layout, Out by_query, Out, Out by_key, Out,
          Out by_value, Out by_pse, Out by_sink),
         refuse_rope(query_rope, key_rope);
         refuse_starts(query_start, key_start); is_tnd(softmax_layout);
         backward_tnd({query, key, value, pse, drop, mask, sink}, grad, query_ends, key_ends,
                      options_of(scale, keep_prob, before, after, heads, layout, sparse_mode, pse_type, padding,
                                 prefix),
                      {by_query, by_key, by_value, by_pse, by_sink}))

ALSO_MAX_WORKSPACE(aclnnFlashAttentionVarLenScoreV5)
ALSO_MAX_WORKSPACE(aclnnFlashAttentionUnpaddingScoreGradV5)
