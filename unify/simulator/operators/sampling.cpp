// Which words of a vocabulary may follow.
#include <ATen/Functions.h>

#include <algorithm>
#include <limits>

#include "wide.h"

using namespace unify::operators;

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// The k largest of each row, and of them those that are the likelier share p; the others are no choice.
Tensor top_k_top_p(const Tensor& logits, const optional<Tensor>& p, const optional<Tensor>& k) {
  const auto [ascending, order] = at::sort(wide(logits), true, -1, false);
  Tensor sorted = ascending;
  if (k.has_value()) {
    const Tensor place = sorted.size(1) - k->to(ScalarType::Long).unsqueeze(1);
    sorted = sorted.masked_fill(sorted.lt(sorted.gather(1, place)), kNever);
  }
  if (p.has_value()) {
    Tensor is_unlikely = at::softmax(sorted, -1).cumsum(-1).le(1 - wide(*p).unsqueeze(1));
    is_unlikely.select(1, -1).fill_(false);
    sorted = sorted.masked_fill(is_unlikely, kNever);
  }
  return at::empty_like(sorted).scatter_(1, order, sorted);
}

struct Sampling {
  Tensor k, p;  // of each row; a k of none or more than `most`, or a p of 1 or more, is no bound
  optional<Tensor> q, min_p;
  double eps = 0;
  int64_t most = 1024;
  bool is_logits = true;
};

// Choices of each row, the likeliest first; without bounds in the vocabulary's order.
struct Choices {
  Tensor words, shares, are_kept;
};

Choices choices_of(const Tensor& logits, const Sampling& given) {
  const int64_t size = logits.size(1), most = std::min({(given.most + 7) / 8 * 8, int64_t{1024}, size});
  const Tensor k = given.k.to(ScalarType::Long).unsqueeze(1), p = wide(given.p).unsqueeze(1);
  const Tensor is_k = k.ge(1).logical_and(k.le(most)), is_p = p.lt(1);
  const Tensor ranks = at::arange(size).unsqueeze(0);
  const Tensor words = at::where(is_k.logical_or(is_p), at::argsort(logits, true, -1, true), ranks);
  const Tensor values = logits.gather(1, words);
  Tensor kept = is_k.logical_not().logical_or(ranks.lt(k));
  const Tensor shares = given.is_logits ? at::softmax(values.masked_fill(kept.logical_not(), kNever), -1)
                                        : values.masked_fill(kept.logical_not(), 0);
  const Tensor is_likely = (shares.cumsum(-1) - shares).lt(p).logical_or(ranks.eq(0));
  kept = kept.logical_and(is_p.logical_not().logical_or(is_likely));
  if (given.min_p.has_value()) {
    const Tensor least = wide(*given.min_p).clamp_max(1).unsqueeze(1);
    kept = kept.logical_and(least.le(0).logical_or(shares.ge(shares.amax(-1, true) * least)));
  }
  return {words, shares.masked_fill(kept.logical_not(), 0), kept};
}

// The choice whose share over q is largest; without q the likeliest.
void sample(const Tensor& logits, const Sampling& given, bool are_logits_wanted, const Out& word, const Out& selected,
            const optional<Choices>& found = {}) {
  TORCH_CHECK(!given.q.has_value() || !given.min_p.has_value(), "q with minPs is not simulated.");
  const Choices choices = found.has_value() ? *found : choices_of(logits, given);
  const Tensor worth = given.q.has_value() ? choices.shares / (at::abs(*given.q) + given.eps) : choices.shares;
  const Tensor best = at::argmax(worth.masked_fill(choices.are_kept.logical_not(), -1), -1, true);
  write_reshaped(choices.words.gather(1, best), word);
  if (!are_logits_wanted) return;
  const Tensor values = logits.gather(1, choices.words);
  selected = at::empty_like(values).scatter_(
      1, choices.words, values.masked_fill(choices.are_kept.logical_not(), given.is_logits ? kNever : 0));
}

}  // namespace

OPERATOR(aclnnTopKTopPSample,
         (Tensor logits, Tensor k, Tensor p, optional<Tensor> q, double eps, bool are_logits_wanted, int64_t, Out word,
          Out selected),
         sample(wide(logits), {k, p, q, {}, eps}, are_logits_wanted, word, selected))
// For somebody else to draw from, the choices and their shares are wanted in place of a word.
OPERATOR(
    aclnnTopKTopPSampleV2,
    (Tensor logits, Tensor k, Tensor p, optional<Tensor> q, optional<Tensor> min_p, double eps, bool are_logits_wanted,
     int64_t, int64_t most, bool is_logits, bool are_choices_wanted, Out word, Out selected, Out words, Out shares),
    const Tensor values = wide(logits);
    const Sampling given{k, p, q, min_p, eps, most, is_logits}; const Choices choices = choices_of(values, given);
    sample(values, given, are_logits_wanted, word, selected, choices); if (are_choices_wanted) {
      words = choices.words.masked_fill(choices.are_kept.logical_not(), 0);
      shares = choices.shares;
    })
OPERATOR(aclnnApplyTopKTopP, (Tensor logits, optional<Tensor> p, optional<Tensor> k, Out out),
         out = top_k_top_p(logits, p, k))
