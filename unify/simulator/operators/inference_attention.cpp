// Attention as inference calls it: lengths of each sequence, keys and values in blocks, grouped heads.
#include <ATen/Functions.h>

#include <limits>

#include "attention.h"

using namespace unify::operators;

namespace {

struct Call {
  Tensor query;
  Tensors keys, values;  // one for all sequences, or one for each
  optional<Tensor> pse, mask, block_table, query_rope, key_rope, sink;
  optional<Ints> query_lengths, key_lengths;  // in TND the ends of the sequences
  int64_t heads = 0, key_heads = 0;
  double scale = 1;
  int64_t before = 0, after = 0;
  std::string layout;
  int64_t sparse_mode = 0;
};

int64_t length_of(const optional<Ints>& lengths, int64_t sequence, int64_t whole) {
  if (!lengths.has_value() || lengths->empty()) return whole;
  return lengths->size() == 1 ? lengths->front() : lengths->at(static_cast<size_t>(sequence));
}

struct Range {
  int64_t begin, end;
};

Range range_of(const optional<Ints>& ends, int64_t sequence) {
  TORCH_CHECK(ends.has_value() && !ends->empty(), "TND needs the ends of its sequences.");
  const auto at = static_cast<size_t>(sequence);
  return {at == 0 ? 0 : (*ends)[at - 1], ends->at(at)};
}

// The rows that a block table names, [1, heads, length, size], of blocks [count, heads, block, size] or
// [count, block, heads * size].
Tensor in_blocks(const Tensor& blocks, const Tensor& table, int64_t sequence, int64_t length, int64_t heads) {
  const Tensor all = blocks.dim() == 4 ? blocks : blocks.unflatten(2, {heads, -1}).transpose(1, 2);
  const int64_t count = (length + all.size(2) - 1) / all.size(2);
  const Tensor chosen = all.index_select(0, table.select(0, sequence).slice(0, 0, count).to(ScalarType::Long));
  return chosen.transpose(0, 1).flatten(1, 2).slice(1, 0, length).unsqueeze(0);
}

Tensor key_of(const Call& call, const Tensors& tensors, int64_t sequence, const std::string& layout) {
  const int64_t length = length_of(call.key_lengths, sequence, std::numeric_limits<int64_t>::max());
  if (call.block_table.has_value()) {
    TORCH_CHECK(call.key_lengths.has_value(), "a block table needs the lengths of the keys.");
    return in_blocks(tensors.front(), *call.block_table, sequence, length, call.key_heads);
  }
  if (layout == "TND") {
    const Range range = range_of(call.key_lengths, sequence);
    return tensors.front().slice(0, range.begin, range.end).transpose(0, 1).unsqueeze(0);
  }
  const bool is_each = tensors.size() > 1;
  const Tensor all = to_bnsd(tensors.at(is_each ? static_cast<size_t>(sequence) : 0), layout, call.key_heads);
  return all.slice(0, is_each ? 0 : sequence, is_each ? 1 : sequence + 1).slice(2, 0, std::min(length, all.size(2)));
}

optional<Tensor> part_of(const optional<Tensor>& tensor, int64_t sequence, int64_t sequences) {
  const bool is_each = tensor.has_value() && tensor->dim() >= 2 && tensor->size(0) == sequences && sequences > 1;
  return is_each && (tensor->dim() > 2 || tensor->size(0) != tensor->size(1))
             ? optional<Tensor>(tensor->slice(0, sequence, sequence + 1))
             : tensor;
}

void attend(Call call, const Out& out, const Out& lse) {
  const std::string split = "BNSD_BSND";  // queries in the one, results in the other
  const std::string layout = call.layout == split ? "BNSD" : call.layout;
  const std::string out_layout = call.layout == split ? "BSND" : call.layout;
  const bool is_tnd = layout == "TND";
  if (call.key_heads == 0) call.key_heads = call.heads;
  const AttentionOptions options{call.scale, 1, call.before, call.after, call.heads, layout, call.sparse_mode};
  const Tensor query = is_tnd ? call.query : to_bnsd(call.query, layout, call.heads);
  const int64_t sequences = is_tnd ? static_cast<int64_t>(call.query_lengths.value_or(Ints{}).size()) : query.size(0);
  TORCH_CHECK(!is_tnd || sequences > 0, "TND needs the ends of its sequences.");

  Tensor result = at::zeros(is_tnd ? out->sizes() : to_bnsd(out, out_layout, call.heads).sizes());
  Tensor logs = at::full({result.size(0), result.size(1), is_tnd ? 1 : result.size(2), 1},
                         std::numeric_limits<double>::infinity());
  for (int64_t i = 0; i < sequences; ++i) {
    const Range range = is_tnd ? range_of(call.query_lengths, i)
                               : Range{0, std::min(length_of(call.query_lengths, i, query.size(2)), query.size(2))};
    const auto queries_of = [&](const Tensor& tensor) {
      return is_tnd ? tensor.slice(0, range.begin, range.end).transpose(0, 1).unsqueeze(0)
                    : tensor.slice(0, i, i + 1).slice(2, range.begin, range.end);
    };
    AttentionInputs inputs;
    inputs.query = queries_of(query);
    inputs.key = key_of(call, call.keys, i, layout);
    inputs.value = key_of(call, call.values, i, layout);
    if (call.query_rope.has_value()) {
      TORCH_CHECK(call.key_rope.has_value(), "query_rope without key_rope.");
      const Tensor rope = is_tnd ? *call.query_rope : to_bnsd(*call.query_rope, layout, call.heads);
      inputs.query = at::cat({inputs.query, queries_of(rope)}, -1);
      inputs.key = at::cat({inputs.key, key_of(call, {*call.key_rope}, i, layout)}, -1);
    }
    inputs.mask = part_of(call.mask, i, sequences);
    inputs.sink = call.sink;
    if (call.pse.has_value()) {  // added to what is scaled already
      inputs.pse =
          wide(*part_of(call.pse, i, sequences)).slice(2, 0, inputs.query.size(2)).slice(3, 0, inputs.key.size(2)) /
          call.scale;
    }
    const AttentionScores scores = attention_scores(inputs, options);
    queries_of(result).copy_(attention_result(inputs, scores, options));
    const Tensor log = at::log(scores.sum) + scores.largest;
    const Tensor seen = at::where(scores.sum == 0, std::numeric_limits<double>::infinity(), log);
    if (is_tnd) {
      logs.squeeze(2).slice(0, range.begin, range.end).copy_(seen.squeeze(0).transpose(0, 1));
    } else {
      queries_of(logs).copy_(seen);
    }
  }
  out = is_tnd ? result : from_bnsd(result, out_layout);
  if (lse.is_wanted() && lse->numel() > 0) write_reshaped(logs, lse);
}

template <typename... Each>
void refuse_quantized(const Each&... each) {
  TORCH_CHECK((!each.has_value() && ...), "quantized queries, keys, values or results are not simulated.");
}

void refuse_prefix(const optional<Tensor>& key, const optional<Tensor>& value, const optional<Tensor>& query_padding,
                   const optional<Tensor>& key_padding) {
  TORCH_CHECK(!key.has_value() && !value.has_value(), "shared prefixes are not simulated.");
  TORCH_CHECK(!query_padding.has_value() && !key_padding.has_value(), "padding on the left is not simulated.");
}

void refuse_integers(const Tensor& query) {
  TORCH_CHECK(query.is_floating_point() && query.element_size() > 1, "queries of ", query.scalar_type(),
              " are not simulated.");
}

}  // namespace

OPERATOR(aclnnPromptFlashAttentionV3,
         (Tensor query, Tensor key, Tensor value, optional<Tensor> pse, optional<Tensor> mask,
          optional<Ints> query_lengths, optional<Ints> key_lengths, optional<Tensor> scale1, optional<Tensor> scale2,
          optional<Tensor> scale3, optional<Tensor> scale4, optional<Tensor> offset, int64_t heads, double scale,
          int64_t before, int64_t after, std::string layout, int64_t key_heads, int64_t sparse_mode, int64_t, Out out),
         refuse_quantized(scale1, scale2, scale3, scale4, offset);
         refuse_integers(query); attend({query,
                                         {key},
                                         {value},
                                         pse,
                                         mask,
                                         {},
                                         {},
                                         {},
                                         {},
                                         query_lengths,
                                         key_lengths,
                                         heads,
                                         key_heads,
                                         scale,
                                         before,
                                         after,
                                         layout,
                                         sparse_mode},
                                        out, {}))
OPERATOR(aclnnIncreFlashAttentionV4,
         (Tensor query, Tensors keys, Tensors values, optional<Tensor> pse, optional<Tensor> mask,
          optional<Ints> key_lengths, optional<Tensor> scale1, optional<Tensor> scale2, optional<Tensor> scale3,
          optional<Tensor> scale4, optional<Tensor> offset, optional<Tensor> scale5, optional<Tensor> offset2,
          optional<Tensor> block_table, optional<Tensor> padding, int64_t heads, double scale, std::string layout,
          int64_t key_heads, int64_t, int64_t, Out out),
         refuse_quantized(scale1, scale2, scale3, scale4, offset, scale5, offset2);
         refuse_integers(query); refuse_prefix({}, {}, {}, padding);
         attend({query, keys, values, pse, mask, block_table, std::nullopt, std::nullopt, std::nullopt, std::nullopt,
                 key_lengths, heads, key_heads, scale, 0, 0, layout, 0},
                out, {}))
OPERATOR(aclnnFusedInferAttentionScoreV2,
         (Tensor query, Tensors keys, Tensors values, optional<Tensor> pse, optional<Tensor> mask,
          optional<Ints> query_lengths, optional<Ints> key_lengths, optional<Tensor> scale1, optional<Tensor> scale2,
          optional<Tensor> scale3, optional<Tensor> scale4, optional<Tensor> offset, optional<Tensor> scale5,
          optional<Tensor> offset2, optional<Tensor> block_table, optional<Tensor> query_padding,
          optional<Tensor> key_padding, optional<Tensor> scale6, optional<Tensor> offset3, optional<Tensor> scale7,
          optional<Tensor> offset4, optional<Tensor> key_prefix, optional<Tensor> value_prefix, optional<Ints>,
          int64_t heads, double scale, int64_t before, int64_t after, std::string layout, int64_t key_heads,
          int64_t sparse_mode, int64_t, int64_t, int64_t, bool, int64_t, int64_t, Out out, Out lse),
         refuse_quantized(scale1, scale2, scale3, scale4, offset, scale5, offset2, scale6, offset3, scale7, offset4);
         refuse_integers(query); refuse_prefix(key_prefix, value_prefix, query_padding, key_padding);
         attend({query, keys, values, pse, mask, block_table, std::nullopt, std::nullopt, std::nullopt, query_lengths,
                 key_lengths, heads, key_heads, scale, before, after, layout, sparse_mode},
                out, lse))
OPERATOR(aclnnFusedInferAttentionScoreV3,
         (Tensor query, Tensors keys, Tensors values, optional<Tensor> pse, optional<Tensor> mask,
          optional<Ints> query_lengths, optional<Ints> key_lengths, optional<Tensor> scale1, optional<Tensor> scale2,
          optional<Tensor> scale3, optional<Tensor> scale4, optional<Tensor> offset, optional<Tensor> scale5,
          optional<Tensor> offset2, optional<Tensor> block_table, optional<Tensor> query_padding,
          optional<Tensor> key_padding, optional<Tensor> scale6, optional<Tensor> offset3, optional<Tensor> scale7,
          optional<Tensor> offset4, optional<Tensor> key_prefix, optional<Tensor> value_prefix, optional<Ints>,
          optional<Tensor> query_rope, optional<Tensor> key_rope, optional<Tensor> scale8, int64_t heads, double scale,
          int64_t before, int64_t after, std::string layout, int64_t key_heads, int64_t sparse_mode, int64_t, int64_t,
          int64_t, bool, int64_t, int64_t, Out out, Out lse),
         refuse_quantized(scale1, scale2, scale3, scale4, offset, scale5, offset2, scale6, offset3, scale7, offset4,
                          scale8);
         refuse_integers(query); refuse_prefix(key_prefix, value_prefix, query_padding, key_padding);
         attend({query, keys, values, pse, mask, block_table, query_rope, key_rope, std::nullopt, query_lengths,
                 key_lengths, heads, key_heads, scale, before, after, layout, sparse_mode},
                out, lse))
OPERATOR(aclnnFusedInferAttentionScoreV4,
         (Tensor query, Tensors keys, Tensors values, optional<Tensor> pse, optional<Tensor> mask,
          optional<Ints> query_lengths, optional<Ints> key_lengths, optional<Tensor> scale1, optional<Tensor> scale2,
          optional<Tensor> scale3, optional<Tensor> scale4, optional<Tensor> offset, optional<Tensor> scale5,
          optional<Tensor> offset2, optional<Tensor> block_table, optional<Tensor> query_padding,
          optional<Tensor> key_padding, optional<Tensor> scale6, optional<Tensor> offset3, optional<Tensor> scale7,
          optional<Tensor> offset4, optional<Tensor> key_prefix, optional<Tensor> value_prefix, optional<Ints>,
          optional<Tensor> query_rope, optional<Tensor> key_rope, optional<Tensor> scale8, optional<Tensor> scale9,
          optional<Tensor> sink, int64_t heads, double scale, int64_t before, int64_t after, std::string layout,
          int64_t key_heads, int64_t sparse_mode, int64_t, int64_t, int64_t, bool, int64_t, int64_t, int64_t, Out out,
          Out lse),
         refuse_quantized(scale1, scale2, scale3, scale4, offset, scale5, offset2, scale6, offset3, scale7, offset4,
                          scale8, scale9);
         refuse_integers(query); refuse_prefix(key_prefix, value_prefix, query_padding, key_padding);
         attend({query, keys, values, pse, mask, block_table, query_rope, key_rope, sink, query_lengths, key_lengths,
                 heads, key_heads, scale, before, after, layout, sparse_mode},
                out, lse))
OPERATOR(aclnnFusedInferAttentionScoreV5,
         (Tensor query, Tensors keys, Tensors values, optional<Tensor> pse, optional<Tensor> mask,
          optional<Ints> query_lengths, optional<Ints> key_lengths, optional<Tensor> scale1, optional<Tensor> scale2,
          optional<Tensor> scale3, optional<Tensor> scale4, optional<Tensor> offset, optional<Tensor> scale5,
          optional<Tensor> offset2, optional<Tensor> block_table, optional<Tensor> query_padding,
          optional<Tensor> key_padding, optional<Tensor> scale6, optional<Tensor> offset3, optional<Tensor> scale7,
          optional<Tensor> offset4, optional<Tensor> key_prefix, optional<Tensor> value_prefix, optional<Ints>,
          optional<Tensor> query_rope, optional<Tensor> key_rope, optional<Tensor> scale8, optional<Tensor> scale9,
          optional<Tensor> sink, optional<Ints> query_start, optional<Ints> key_start, int64_t heads, double scale,
          int64_t before, int64_t after, std::string layout, int64_t key_heads, int64_t sparse_mode, int64_t, int64_t,
          int64_t, bool, int64_t, int64_t, int64_t, int64_t pse_type, Out out, Out lse),
         refuse_quantized(scale1, scale2, scale3, scale4, offset, scale5, offset2, scale6, offset3, scale7, offset4,
                          scale8, scale9);
         refuse_integers(query); refuse_starts(query_start, key_start);
         TORCH_CHECK(pse_type == 0, "pse_type ", pse_type, " is not simulated.");
         refuse_prefix(key_prefix, value_prefix, query_padding, key_padding);
         attend({query, keys, values, pse, mask, block_table, query_rope, key_rope, sink, query_lengths, key_lengths,
                 heads, key_heads, scale, before, after, layout, sparse_mode},
                out, lse))

ALSO_MAX_WORKSPACE(aclnnFusedInferAttentionScoreV3)
ALSO_MAX_WORKSPACE(aclnnFusedInferAttentionScoreV4)
ALSO_MAX_WORKSPACE(aclnnFusedInferAttentionScoreV5)
