// Which experts a token goes to, and its copies in the experts' order, quantised or not.
#include <ATen/Functions.h>

#include <limits>

#include "grouped.h"

using namespace unify::operators;

namespace {

// Scores of which the largest k are taken: of the best groups of experts only, ties to the first.
Tensor best_experts(const Tensor& scores, int64_t k, int64_t groups, int64_t best_groups, int64_t select_mode) {
  Tensor open = scores;
  if (groups > 1) {
    TORCH_CHECK(select_mode == 0 || select_mode == 1, "groupSelectMode is ", select_mode, ", not 0 or 1.");
    const Tensor grouped = scores.unflatten(1, {groups, -1});
    const Tensor worth = select_mode == 0 ? grouped.amax(-1) : std::get<0>(grouped.topk(2)).sum(-1);
    const Tensor best = at::argsort(worth, true, -1, true).slice(1, 0, best_groups);
    const Tensor is_shut = at::ones_like(worth).scatter(1, best, 0).to(ScalarType::Bool).unsqueeze(-1);
    open = grouped.masked_fill(is_shut, -std::numeric_limits<float>::infinity()).flatten(1);
  }
  return at::argsort(open, true, -1, true).slice(1, 0, k);
}

struct Gating {
  int64_t k, best_groups, groups, select_mode, renorm, norm;
  bool is_norm_wanted;
  double scale, eps;
};

// A table gives the experts of what a token is.
struct Table {
  optional<Tensor> tokens, experts;
};

void gating_top_k(const Tensor& x, const optional<Tensor>& bias, const Table& table, const Gating& gating,
                  const Out& out, const Out& experts, const Out& norm) {
  constexpr int64_t kSoftmax = 0, kSigmoid = 1;
  TORCH_CHECK(gating.renorm == 0, "renorm ", gating.renorm, " is not simulated: 0 is.");
  TORCH_CHECK(gating.norm == kSoftmax || gating.norm == kSigmoid, "normType ", gating.norm,
              " is not simulated: 0 (softmax) and 1 (sigmoid) are.");
  const Tensor shares = gating.norm == kSoftmax ? at::softmax(wide(x), -1) : at::sigmoid(wide(x));
  const Tensor scores = bias.has_value() ? shares + wide(*bias) : shares;
  const Tensor chosen = table.tokens.has_value()
                            ? table.experts->index_select(0, table.tokens->to(ScalarType::Long)).to(ScalarType::Long)
                            : best_experts(scores, gating.k, gating.groups, gating.best_groups, gating.select_mode);
  Tensor y = shares.gather(1, chosen);
  if (gating.norm == kSigmoid) y = y / (y.sum(-1, true) + gating.eps);
  out = y * gating.scale;
  experts = chosen;
  if (gating.is_norm_wanted) norm = shares;
}

// A token's copies, k each, sorted by their experts; only those of the experts in [begin, end).
struct Copies {
  Tensor order;    // all copies' numbers, those in range first
  Tensor experts;  // of those in range
  int64_t count;   // of those in range
  int64_t per_token;
};

Copies copies_of(const Tensor& experts, int64_t begin, int64_t end) {
  const Tensor flat = experts.flatten().to(ScalarType::Long);
  const Tensor is_out = flat.lt(begin).logical_or(flat.ge(end));
  const auto [sorted, order] = at::sort(flat.masked_fill(is_out, std::numeric_limits<int64_t>::max()), true, 0, false);
  const int64_t count = flat.numel() - is_out.sum().item<int64_t>();
  return {order, sorted.slice(0, 0, count), count, experts.size(1)};
}

enum Quantity : int64_t { kCumulated = 0, kCounted = 1, kKeyed = 2 };

// How many copies each expert has.
Tensor tokens_of(const Copies& copies, int64_t begin, int64_t end, int64_t quantity, const Out& out) {
  const Tensor counts = at::bincount(copies.experts - begin, {}, end - begin);
  if (quantity == kCounted) return counts;
  if (quantity == kCumulated) return counts.cumsum(0);
  TORCH_CHECK(quantity == kKeyed, "expertTokensNumType is ", quantity, ", not 0 to 2.");
  const Tensor present = counts.nonzero().squeeze(1);
  const Tensor pairs = at::stack({present + begin, counts.index_select(0, present)}, 1);
  Tensor result = at::zeros(out->sizes(), pairs.options());
  result.slice(0, 0, pairs.size(0)).copy_(pairs);
  return result;
}

struct Expansion {
  int64_t active = 0, capacity = 0, experts = 0;
  bool is_padded = false;
  int64_t quant_mode = -1, begin = 0, end = 0;
  bool is_scatter = false;  // rows: the copy in each place, or the place of each copy
};

constexpr int64_t kNone = -1, kStatic = 0, kDynamic = 1;

// Rows of the experts in `experts`: their numbers, and a scale of each.
void expand(const Tensor& rows, const Tensor& experts, const optional<Tensor>& scale, const optional<Tensor>& offset,
            const Expansion& given, const Tensor& out, const Tensor& scale_out) {
  if (given.quant_mode == kNone) {
    out.copy_(rows);
    return;
  }
  const bool is_each = scale.has_value() && scale->dim() == 2 && scale->size(0) > 1;
  Tensor y = wide(rows);
  if (scale.has_value()) y = y * wide(is_each ? scale->index_select(0, experts - given.begin) : *scale);
  if (given.quant_mode == kStatic) {
    TORCH_CHECK(scale.has_value() && offset.has_value(), "quantMode 0 needs scale and offset.");
    out.copy_(rounded(y + wide(*offset), Out(out)));
    return;
  }
  TORCH_CHECK(given.quant_mode == kDynamic, "quantMode ", given.quant_mode, " is not simulated: -1, 0 and 1 are.");
  const Quantized each = by_row(y, Out(out));
  out.copy_(rounded(each.scaled, Out(out)));
  if (scale_out.defined()) scale_out.copy_(each.scale.squeeze(-1));
}

// Where each copy in range lies; beyond an expert's capacity nowhere.
Tensor places_of(const Copies& copies, const Expansion& given) {
  const Tensor ranks = at::arange(copies.count);
  if (!given.is_padded) return ranks;
  const Tensor begins = at::searchsorted(copies.experts, at::arange(given.experts));
  const Tensor rank = ranks - begins.index_select(0, copies.experts);
  return (copies.experts * given.capacity + rank).masked_fill(rank.ge(given.capacity), -1);
}

void init_routing(const Tensor& x, const Copies& copies, const optional<Tensor>& scale, const optional<Tensor>& offset,
                  const Expansion& given, const Out& expanded, const Out& rows, const Out& scale_out) {
  TORCH_CHECK(!given.is_padded || (given.begin == 0 && given.end == given.experts),
              "dropPadMode 1 with a part of the experts is not simulated.");
  const Tensor places = places_of(copies, given), in_range = copies.order.slice(0, 0, copies.count);
  if (given.is_scatter) {
    rows = copies.order;
  } else {
    rows = at::full({copies.order.numel()}, -1, ScalarType::Long).scatter(0, in_range, places);
  }
  Tensor out = expanded->view({-1, x.size(1)});
  Tensor kept = places.ge(0).nonzero().squeeze(1);
  if (!given.is_padded) kept = kept.slice(0, 0, given.active > 0 ? given.active : copies.count);
  const Tensor tokens = at::floor_divide(in_range.index_select(0, kept), copies.per_token);
  const Tensor to = places.index_select(0, kept), experts = copies.experts.index_select(0, kept);
  const bool is_scale_wanted = scale_out.is_wanted() && scale_out->numel() > 0;
  Tensor part = at::empty({kept.numel(), x.size(1)}, out.options()), scales = at::zeros({kept.numel()});
  expand(x.index_select(0, tokens), experts, scale, offset, given, part, scales);
  if (given.quant_mode == kNone && scale.has_value()) {  // the rows are numbers already, with scales of their own
    TORCH_CHECK(scale->dim() == 1, "scales of ", scale->sizes(), " are not simulated: one for each token is.");
    scales = scale->index_select(0, tokens);
  }
  if (given.is_padded) out.zero_();
  out.index_copy_(0, to, part);
  if (!is_scale_wanted) return;
  Tensor all = scale_out->view({-1});
  if (given.is_padded) all.zero_();
  all.index_copy_(0, to, scales.to(all.scalar_type()));
}

// 0: none are wanted, 1: cumulated, 2: counted.
void write_tokens(const Copies& copies, int64_t experts, int64_t flag, const Out& out) {
  TORCH_CHECK(flag >= 0 && flag <= 2, "expertTokensCountOrCumsumFlag is ", flag, ", not 0 to 2.");
  if (flag > 0) out = tokens_of(copies, 0, experts, flag == 1 ? kCumulated : kCounted, out);
}

// Tokens that came from several ranks, each rank's by experts, as each expert's by ranks. counts: [ranks, experts].
Tensor by_expert(const Tensor& counts) {
  const Tensor sizes = counts.to(ScalarType::Long).contiguous();
  const Tensor ends = sizes.flatten().cumsum(0).view_as(sizes);
  Tensors rows;
  for (int64_t expert = 0; expert < sizes.size(1); ++expert) {
    for (int64_t rank = 0; rank < sizes.size(0); ++rank) {
      const auto end = ends[rank][expert].item<int64_t>(), size = sizes[rank][expert].item<int64_t>();
      rows.push_back(at::arange(end - size, end));
    }
  }
  return at::cat(rows);
}

}  // namespace

OPERATOR(aclnnMoeGatingTopK,
         (Tensor x, optional<Tensor> bias, int64_t k, int64_t best_groups, int64_t groups, int64_t select_mode,
          int64_t renorm, int64_t norm_type, bool is_norm_wanted, double scale, double eps, Out out, Out experts,
          Out norm),
         gating_top_k(x, bias, {}, {k, best_groups, groups, select_mode, renorm, norm_type, is_norm_wanted, scale, eps},
                      out, experts, norm))
OPERATOR(aclnnMoeGatingTopKV2,
         (Tensor x, optional<Tensor> bias, optional<Tensor> tokens, optional<Tensor> table, int64_t k,
          int64_t best_groups, int64_t groups, int64_t select_mode, int64_t renorm, int64_t norm_type,
          bool is_norm_wanted, double scale, double eps, Out out, Out experts, Out norm),
         TORCH_CHECK(tokens.has_value() == table.has_value(), "inputIds and tid2eid come together.");
         gating_top_k(x, bias, {tokens, table},
                      {k, best_groups, groups, select_mode, renorm, norm_type, is_norm_wanted, scale, eps}, out,
                      experts, norm))

OPERATOR(aclnnMoeInitRoutingV2,
         (Tensor x, Tensor experts, int64_t active, int64_t capacity, int64_t count, int64_t pad_mode, int64_t flag,
          bool is_before_wanted, Out expanded, Out rows, Out tokens, Out before),
         const Copies copies = copies_of(experts, 0, count);
         init_routing(x, copies, {}, {}, {active, capacity, count, pad_mode == 1, kNone, 0, count}, expanded, rows, {});
         if (pad_mode == 0) write_tokens(copies, count, flag, tokens);
         if (pad_mode == 1 && is_before_wanted) before = tokens_of(copies, 0, count, kCounted, before))
OPERATOR(aclnnMoeInitRoutingQuantV2,
         (Tensor x, Tensor experts, optional<Tensor> scale, optional<Tensor> offset, int64_t active, int64_t capacity,
          int64_t count, int64_t pad_mode, int64_t flag, bool is_before_wanted, int64_t quant_mode, Out expanded,
          Out rows, Out tokens, Out before, Out scale_out),
         const Copies copies = copies_of(experts, 0, count);
         init_routing(x, copies, scale, offset, {active, capacity, count, pad_mode == 1, quant_mode, 0, count},
                      expanded, rows, scale_out);
         if (pad_mode == 0) write_tokens(copies, count, flag, tokens);
         if (pad_mode == 1 && is_before_wanted) before = tokens_of(copies, 0, count, kCounted, before))
OPERATOR(aclnnMoeInitRoutingV3,
         (Tensor x, Tensor experts, optional<Tensor> scale, optional<Tensor> offset, int64_t active, int64_t capacity,
          int64_t count, int64_t pad_mode, int64_t quantity, bool are_tokens_wanted, int64_t quant_mode,
          optional<Ints> range, int64_t row_type, Out expanded, Out rows, Out tokens, Out scale_out),
         const bool is_part = range.has_value() && range->size() == 2;
         const int64_t begin = is_part ? range->at(0) : 0; const int64_t end = is_part ? range->at(1) : count;
         const Copies copies = copies_of(experts, begin, end);
         init_routing(x, copies, scale, offset,
                      {active, capacity, count, pad_mode == 1, quant_mode, begin, end, row_type == 1}, expanded, rows,
                      scale_out);
         if (are_tokens_wanted) tokens = tokens_of(copies, begin, end, quantity, tokens))

OPERATOR(aclnnMoeReRouting,
         (Tensor tokens, Tensor counts, optional<Tensor> scales, int64_t count_type, int64_t row_type, Out out,
          Out out_scales, Out rows, Out totals),
         TORCH_CHECK(count_type == 1, "expertTokenNumType ", count_type, " is not simulated: 1 (counts) is.");
         TORCH_CHECK(row_type == 0, "idxType ", row_type, " is not simulated: 0 is.");
         const Tensor from = by_expert(counts); const int64_t count = from.numel();
         out->slice(0, 0, count).copy_(tokens.index_select(0, from));
         if (scales.has_value()) out_scales->slice(0, 0, count).copy_(scales->index_select(0, from));
         rows->slice(0, 0, count).copy_(from); totals = counts.sum(0))
