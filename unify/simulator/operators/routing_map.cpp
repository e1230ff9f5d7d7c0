// Experts' tokens where a map says which go to which: [tokens, experts] of truths. Copies lie expert by expert.
#include <ATen/Functions.h>

#include "wide.h"

using namespace unify::operators;

namespace {

// Where a map is true, expert by expert: numbers in [experts, tokens].
Tensor places_in(const Tensor& map) { return map.to(ScalarType::Bool).t().flatten().nonzero().squeeze(1); }

// Tokens of each expert, its capacity of them; those it has come first.
Tensor padded_tokens(const Tensor& map, int64_t capacity) {
  const Tensor by_expert = map.to(ScalarType::Bool).to(ScalarType::Int).t();
  return at::argsort(by_expert, true, -1, true).slice(1, 0, capacity).flatten();
}

// The places in [experts, tokens] of tokens that lie expert by expert.
Tensor padded_places(const Tensor& tokens, int64_t experts, int64_t count) {
  const Tensor by_expert = tokens.to(ScalarType::Long).view({experts, -1});
  return (by_expert + at::arange(experts).unsqueeze(1) * count).flatten();
}

// Each copy's share, in the copies' order.
Tensor shares_of(const Tensor& probs, const Tensor& places) { return probs.t().flatten().index_select(0, places); }

Tensor as_probs(const Tensor& shares, const Tensor& places, int64_t tokens, int64_t experts) {
  return at::zeros({experts * tokens}, shares.options()).scatter(0, places, shares).view({experts, tokens}).t();
}

struct Permutation {
  Tensor places, tokens;
};

Permutation permutation(const Tensor& map, int64_t copies, bool is_padded) {
  const int64_t tokens = map.size(0), experts = map.size(1);
  if (is_padded) {
    const Tensor chosen = padded_tokens(map, copies / experts);
    return {padded_places(chosen, experts, tokens), chosen};
  }
  const Tensor places = places_in(map);
  return {places, places.remainder(tokens)};
}

// Each token's copies in the order of its experts, [tokens, copies of it].
Tensor rows_by_token(const Tensor& sorted, int64_t tokens) { return sorted.to(ScalarType::Long).view({tokens, -1}); }

Tensor gathered(const Tensor& rows, const Tensor& numbers) {
  return wide(rows).index_select(0, numbers.flatten()).unflatten(0, numbers.sizes());
}

void unpermute(const Tensor& permuted, const Tensor& sorted, const optional<Tensor>& map, const optional<Tensor>& probs,
               bool is_padded, const Ints& shape, const Out& out, const Out& rows, const Out& token_of,
               const Out& shares) {
  if (!is_padded) {
    const Tensor numbers = rows_by_token(sorted, shape[0]);
    Tensor each = gathered(permuted, numbers);
    if (probs.has_value()) {
      TORCH_CHECK(map.has_value(), "probs need a routingMap.");
      const Tensor chosen = probs->masked_select(map->to(ScalarType::Bool));
      shares = chosen;
      each = each * wide(chosen).view_as(numbers).unsqueeze(-1);
    }
    out = each.sum(1);
    rows = sorted;
    return;
  }
  const auto [tokens, order] = at::sort(sorted.to(ScalarType::Long), true, 0, false);
  Tensor each = wide(permuted);
  if (probs.has_value()) {
    const Tensor chosen = shares_of(*probs, padded_places(sorted, probs->size(1), probs->size(0)));
    shares = chosen;
    each = each * wide(chosen).unsqueeze(1);
  }
  out = at::zeros(shape, each.options()).index_add(0, tokens, each.index_select(0, order));
  rows = order;
  token_of = tokens;
}

void unpermute_backward(const Tensor& grad, const Tensor& rows, const Tensor& token_of, const optional<Tensor>& map,
                        const optional<Tensor>& permuted, const optional<Tensor>& probs, bool is_padded,
                        const Out& grad_permuted, const Out& grad_probs) {
  const int64_t tokens = grad.size(0), copies = rows.numel();
  const Tensor to = rows.to(ScalarType::Long);
  const Tensor from = is_padded ? token_of.to(ScalarType::Long)
                                : at::arange(tokens).repeat_interleave(copies / std::max<int64_t>(tokens, 1));
  const Tensor each = wide(grad).index_select(0, from);  // in the order of `to`
  if (!probs.has_value()) {
    grad_permuted = at::zeros({copies, grad.size(1)}, each.options()).index_copy(0, to, each);
    return;
  }
  TORCH_CHECK(map.has_value() && permuted.has_value(), "probs need a routingMap and the permuted tokens.");
  const int64_t experts = probs->size(1);
  const Tensor along = (each * gathered(*permuted, to)).sum(-1);
  Tensor shares;
  if (is_padded) {
    const Tensor sorted = at::empty_like(from).scatter_(0, to, from);
    const Tensor places = padded_places(sorted, experts, tokens).index_select(0, to);
    shares = shares_of(*probs, places);
    grad_probs = as_probs(along, places, tokens, experts);
  } else {
    const Tensor is_chosen = map->to(ScalarType::Bool);
    shares = probs->masked_select(is_chosen);
    grad_probs = at::zeros(probs->sizes(), along.options()).masked_scatter(is_chosen, along);
  }
  grad_permuted = at::zeros({copies, grad.size(1)}, each.options()).index_copy(0, to, each * wide(shares).unsqueeze(1));
}

}  // namespace

OPERATOR(aclnnMoeTokenPermuteWithRoutingMap,
         (Tensor tokens, Tensor map, optional<Tensor> probs, int64_t copies, bool is_padded, Out permuted,
          Out permuted_probs, Out sorted),
         const auto [places, from] = permutation(map, copies, is_padded);
         permuted = tokens.index_select(0, from); if (probs.has_value()) permuted_probs = shares_of(*probs, places);
         sorted = is_padded ? from : at::argsort(from, true, 0, false))
OPERATOR(aclnnMoeTokenPermuteWithRoutingMapGrad,
         (Tensor grad, optional<Tensor> grad_shares, Tensor, Tensor map, int64_t experts, int64_t tokens,
          bool is_padded, Out grad_tokens, Out grad_probs),
         const auto [places, from] = permutation(map, grad.size(0), is_padded);
         grad_tokens = at::zeros({tokens, grad.size(1)}, wide(grad).options()).index_add(0, from, wide(grad));
         if (grad_shares.has_value()) grad_probs = as_probs(*grad_shares, places, tokens, experts))
OPERATOR(aclnnMoeTokenUnpermuteWithRoutingMap,
         (Tensor permuted, Tensor sorted, optional<Tensor> map, optional<Tensor> probs, bool is_padded, Ints shape,
          Out out, Out rows, Out token_of, Out shares),
         unpermute(permuted, sorted, map, probs, is_padded, shape, out, rows, token_of, shares))
OPERATOR(aclnnMoeTokenUnpermuteWithRoutingMapGrad,
         (Tensor grad, Tensor rows, Tensor token_of, optional<Tensor> map, optional<Tensor> permuted,
          optional<Tensor> probs, bool is_padded, optional<Ints>, Out grad_permuted, Out grad_probs),
         unpermute_backward(grad, rows, token_of, map, permuted, probs, is_padded, grad_permuted, grad_probs))
