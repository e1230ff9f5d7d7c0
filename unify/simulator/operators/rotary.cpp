// Rotary position embedding: x * cos + rotate(x) * sin.
#include <ATen/Functions.h>

#include "wide.h"

using namespace unify::operators;

namespace {

enum Mode : int64_t { kHalf = 0, kInterleaved = 1 };

Mode mode_of(int64_t given) {
  TORCH_CHECK(given == kHalf || given == kInterleaved, "rotary mode ", given, " is not simulated: half (0) and ",
              "interleave (1) are.");
  return static_cast<Mode>(given);
}

Mode mode_of(const std::string& name) {
  TORCH_CHECK(name.empty() || name == "half" || name == "interleave", "rotary mode ", name,
              " is not simulated: half and interleave are.");
  return name == "interleave" ? kInterleaved : kHalf;
}

// (a, b) becomes (-b, a): of the halves, or of each two neighbours.
Tensor rotated(const Tensor& x, Mode mode) {
  if (mode == kInterleaved) {
    const Tensor pairs = x.unflatten(-1, {-1, 2});
    return at::stack({-pairs.select(-1, 1), pairs.select(-1, 0)}, -1).flatten(-2);
  }
  const Tensors halves = x.chunk(2, -1);
  return at::cat({-halves[1], halves[0]}, -1);
}

Tensor embedded(const Tensor& x, const Tensor& cos, const Tensor& sin, Mode mode) {
  return wide(x) * wide(cos) + rotated(wide(x), mode) * wide(sin);
}

// In place; elements past those of cos are left as they are.
void embed(const Out& x, const Tensor& cos, const Tensor& sin, Mode mode) {
  const Tensor part = x->slice(-1, 0, cos.size(-1));
  part.copy_(embedded(part, cos, sin, mode));
}

// Layouts are BSND (1), SBND (2), BNSD (3) and TND (4): cos and sin have one head, so that they fit each as they are.
void embed_both(const Out& query, const Out& key, const Tensor& cos, const Tensor& sin, int64_t layout, Mode mode) {
  TORCH_CHECK(layout >= 1 && layout <= 4, "layout ", layout, " is not simulated: BSND, SBND, BNSD and TND are.");
  embed(query, cos, sin, mode);
  embed(key, cos, sin, mode);
}

}  // namespace

OPERATOR(aclnnRotaryPositionEmbedding, (Tensor x, Tensor cos, Tensor sin, int64_t mode, Out out),
         out = embedded(x, cos, sin, mode_of(mode)))
OPERATOR(aclnnRotaryPositionEmbeddingV2,
         (Tensor x, Tensor cos, Tensor sin, int64_t mode, optional<Tensor> rotate, Out out),
         out = rotate.has_value() ? wide(x) * wide(cos) + at::matmul(wide(x), wide(*rotate)) * wide(sin)
                                  : embedded(x, cos, sin, mode_of(mode)))
OPERATOR(
    aclnnRotaryPositionEmbeddingGrad,
    (Tensor grad, Tensor cos, Tensor sin, optional<Tensor> x, int64_t mode, Out by_x, Out by_cos, Out by_sin),
    by_x = wide(grad) * wide(cos) - rotated(wide(grad) * wide(sin), mode_of(mode));
    if (x.has_value()) {
      by_cos = (wide(grad) * wide(*x)).sum_to_size(cos.sizes());
      by_sin = (wide(grad) * rotated(wide(*x), mode_of(mode))).sum_to_size(sin.sizes());
    })
OPERATOR(aclnnApplyRotaryPosEmb, (Out query, Out key, Tensor cos, Tensor sin, int64_t layout),
         embed_both(query, key, cos, sin, layout, kHalf))
OPERATOR(aclnnApplyRotaryPosEmbV2, (Out query, Out key, Tensor cos, Tensor sin, int64_t layout, std::string mode),
         embed_both(query, key, cos, sin, layout, mode_of(mode)))
