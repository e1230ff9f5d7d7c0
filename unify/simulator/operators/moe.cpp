// Mixtures of experts: which experts a token goes to, its copies in their order, and their results together again.
#include <ATen/Functions.h>

#include "wide.h"

using namespace unify::operators;

namespace {

Tensor integers(const Tensor& tensor) { return tensor.to(ScalarType::Long); }

// Of tokens that are finished the expert is the number of experts: none.
Tensor unless_finished(const Tensor& experts, const optional<Tensor>& finished, int64_t count) {
  return finished.has_value() ? experts.masked_fill(finished->to(ScalarType::Bool).unsqueeze(-1), count) : experts;
}

// Rows by their numbers; one that is none of them is zero.
Tensor rows_at(const Tensor& rows, const Tensor& numbers) {
  const Tensor flat = numbers.flatten(), is_there = flat.ge(0).logical_and(flat.lt(rows.size(0)));
  const Tensor kept = is_there.nonzero().squeeze(1), values = wide(rows);
  return at::zeros({flat.numel(), rows.size(1)}, values.options())
      .index_copy(0, kept, values.index_select(0, flat.index_select(0, kept)))
      .unflatten(0, numbers.sizes());
}

// Each token's result: [tokens, experts of it, size] weighted and summed. Modes 0 and 1 number the copies expert by
// expert, 2 and 3 token by token; in 1 and 3 each expert has room for so many tokens.
void finalize(const Tensor& rows, const Tensor& numbers, const optional<Tensor>& skip1, const optional<Tensor>& skip2,
              const optional<Tensor>& bias, const optional<Tensor>& scales, const optional<Tensor>& experts,
              int64_t mode, const Out& out) {
  TORCH_CHECK(mode >= 0 && mode <= 3, "drop_pad_mode ", mode, " is not 0 to 3.");
  const int64_t tokens = out->size(0), per_token = numbers.numel() / std::max<int64_t>(tokens, 1);
  const Tensor flat = integers(numbers).flatten();
  const Tensor by_token = mode < 2 ? flat.view({per_token, tokens}).transpose(0, 1) : flat.view({tokens, per_token});
  Tensor each = rows_at(rows.reshape({-1, rows.size(-1)}), by_token);
  if (bias.has_value()) {
    TORCH_CHECK(experts.has_value(), "a bias needs each row's expert.");
    each = each + wide(*bias).index_select(0, integers(*experts).flatten()).view_as(each);
  }
  if (scales.has_value()) each = each * wide(*scales).unsqueeze(-1);
  Tensor result = each.sum(1);
  if (skip1.has_value()) result = result + wide(*skip1);
  if (skip2.has_value()) result = result + wide(*skip2);
  out = result;
}

void refuse_padding(bool is_padded) { TORCH_CHECK(!is_padded, "padded_mode is not simulated."); }

}  // namespace

OPERATOR(aclnnMoeGatingTopKSoftmax, (Tensor x, optional<Tensor> finished, int64_t k, Out out, Out experts, Out rows),
         const auto [largest, places] = at::softmax(wide(x), -1).topk(k);
         out = largest; experts = unless_finished(places, finished, x.size(-1));
         const int64_t tokens = places.numel() / k;
         write_reshaped(at::arange(tokens * k).view({k, tokens}).transpose(0, 1), rows))
OPERATOR(aclnnMoeGatingTopKSoftmaxV2,
         (Tensor x, optional<Tensor> finished, int64_t k, int64_t renorm, bool is_softmax_wanted, Out out, Out experts,
          Out softmax),
         const Tensor shares = at::softmax(wide(x), -1);
         const auto [largest, places] = (renorm == 0 ? shares : wide(x)).topk(k);
         out = renorm == 0 ? largest : at::softmax(largest, -1);
         experts = unless_finished(places, finished, x.size(-1));
         if (is_softmax_wanted && renorm == 0) softmax = shares)
OPERATOR(aclnnMoeInitRouting,
         (Tensor x, Tensor rows, Tensor experts, int64_t active, Out expanded, Out expanded_rows, Out expanded_experts),
         const auto [sorted, order] = at::sort(experts.flatten(), true, 0, false);
         const Tensor sources = integers(rows).flatten().index_select(0, order); expanded_experts = sorted;
         write_reshaped(at::empty_like(sources).scatter_(0, sources, at::arange(sources.numel())), expanded_rows);
         const int64_t count = std::min(active, x.size(0)) * experts.size(-1);
         expanded = x.index_select(0, sources.slice(0, 0, count).remainder(x.size(0))))
OPERATOR(aclnnMoeComputeExpertTokens, (Tensor sorted, int64_t experts, Out out),
         out = at::searchsorted(integers(sorted), at::arange(experts), false, true))
OPERATOR(aclnnMoeFinalizeRouting,
         (Tensor rows, optional<Tensor> skip1, optional<Tensor> skip2, optional<Tensor> bias, optional<Tensor> scales,
          Tensor numbers, optional<Tensor> experts, Out out),
         finalize(rows, numbers, skip1, skip2, bias, scales, experts, 0, out))
OPERATOR(aclnnMoeFinalizeRoutingV2,
         (Tensor rows, Tensor numbers, optional<Tensor> skip1, optional<Tensor> skip2, optional<Tensor> bias,
          optional<Tensor> scales, optional<Tensor> experts, int64_t mode, Out out),
         finalize(rows, numbers, skip1, skip2, bias, scales, experts, mode, out))
OPERATOR(aclnnMoeFinalizeRoutingV4,
         (Tensor rows, Tensor numbers, optional<Tensor> skip1, optional<Tensor> skip2, optional<Tensor> bias,
          optional<Tensor> scales, optional<Tensor> experts, optional<Tensor> x, optional<Tensor> alpha1,
          optional<Tensor> alpha2, optional<Tensor> constant, int64_t mode, optional<Ints> zeros, optional<Ints> copies,
          optional<Ints> constants, int64_t, Out out),
         TORCH_CHECK(!x && !alpha1 && !alpha2 && !constant && !zeros && !copies && !constants,
                     "experts that are zero, copies or constants are not simulated.");
         finalize(rows, numbers, skip1, skip2, bias, scales, experts, mode, out))
OPERATOR(aclnnMoeTokenPermute,
         (Tensor tokens, Tensor indices, int64_t count, bool is_padded, Out permuted, Out sorted_indices),
         refuse_padding(is_padded);
         const Tensor order = at::argsort(indices.flatten(), true, 0, false);
         const int64_t per_token = indices.dim() == 1 ? 1 : indices.size(1);
         const Tensor sources = at::floor_divide(order, per_token);
         permuted = tokens.index_select(0, sources.slice(0, 0, permuted.is_wanted() ? permuted->size(0) : count));
         sorted_indices = at::argsort(order))
OPERATOR(aclnnMoeTokenPermuteGrad,
         (Tensor grad, Tensor sorted_indices, int64_t per_token, bool is_padded, Out grad_tokens),
         refuse_padding(is_padded);
         grad_tokens = rows_at(grad, integers(sorted_indices)).unflatten(0, {-1, per_token}).sum(1))
OPERATOR(aclnnMoeTokenUnpermute,
         (Tensor permuted, Tensor sorted_indices, optional<Tensor> probs, bool is_padded, optional<Ints>, Out out),
         refuse_padding(is_padded);
         const int64_t per_token = probs.has_value() && probs->dim() == 2 ? probs->size(1) : 1;
         Tensor each = rows_at(permuted, integers(sorted_indices)).unflatten(0, {-1, per_token});
         if (probs.has_value()) each = each * wide(*probs).reshape({-1, per_token, 1}); out = each.sum(1))
OPERATOR(
    aclnnMoeTokenUnpermuteGrad,
    (Tensor permuted, Tensor grad, Tensor sorted_indices, optional<Tensor> probs, bool is_padded, optional<Ints>,
     Out grad_permuted, Out grad_probs),
    refuse_padding(is_padded);
    const int64_t per_token = probs.has_value() && probs->dim() == 2 ? probs->size(1) : 1;
    Tensor each = wide(grad).unsqueeze(1).expand({-1, per_token, -1}); if (probs.has_value()) {
      const Tensor rows = rows_at(permuted, integers(sorted_indices)).unflatten(0, {-1, per_token});
      write_reshaped((rows * each).sum(-1), grad_probs);
      each = each * wide(*probs).reshape({-1, per_token, 1});
    } const Tensor flat = each.flatten(0, 1);
    const Tensor numbers = integers(sorted_indices);
    const Tensor kept = numbers.lt(permuted.size(0)).nonzero().squeeze(1);
    grad_permuted =
        at::zeros_like(wide(permuted)).index_add(0, numbers.index_select(0, kept), flat.index_select(0, kept)))
