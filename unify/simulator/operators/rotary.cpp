// Rotary position embedding: x * cos + rotate(x) * sin.
#include "rotary.h"

#include <ATen/Functions.h>

namespace unify::operators {

namespace {

// (a, b) becomes (-b, a): of the halves, or of each two neighbours.
Tensor rotated(const Tensor& x, RotaryMode mode) {
  if (mode == kInterleaved) {
    const Tensor pairs = x.unflatten(-1, {-1, 2});
    return at::stack({-pairs.select(-1, 1), pairs.select(-1, 0)}, -1).flatten(-2);
  }
  const Tensors halves = x.chunk(2, -1);
  return at::cat({-halves[1], halves[0]}, -1);
}

}  // namespace

Tensor embedded(const Tensor& x, const Tensor& cos, const Tensor& sin, RotaryMode mode) {
  return wide(x) * wide(cos) + rotated(wide(x), mode) * wide(sin);
}

Tensor halves_of_pairs(const Tensor& x) { return x.unflatten(-1, {-1, 2}).transpose(-1, -2).flatten(-2); }

}  // namespace unify::operators

using namespace unify::operators;

namespace {

RotaryMode mode_of(int64_t given) {
  TORCH_CHECK(given == kHalf || given == kInterleaved, "rotary mode ", given, " is not simulated: half (0) and ",
              "interleave (1) are.");
  return static_cast<RotaryMode>(given);
}

RotaryMode mode_of(const std::string& name) {
  TORCH_CHECK(name.empty() || name == "half" || name == "interleave", "rotary mode ", name,
              " is not simulated: half and interleave are.");
  return name == "interleave" ? kInterleaved : kHalf;
}

// In place; elements past those of cos are left as they are.
void embed(const Out& x, const Tensor& cos, const Tensor& sin, RotaryMode mode) {
  const Tensor part = x->slice(-1, 0, cos.size(-1));
  part.copy_(embedded(part, cos, sin, mode));
}

// Layouts are BSND (1), SBND (2), BNSD (3) and TND (4): cos and sin have one head, so that they fit each as they are.
void embed_both(const Out& query, const Out& key, const Tensor& cos, const Tensor& sin, int64_t layout,
                RotaryMode mode) {
  TORCH_CHECK(layout >= 1 && layout <= 4, "layout ", layout, " is not simulated: BSND, SBND, BNSD and TND are.");
  embed(query, cos, sin, mode);
  embed(key, cos, sin, mode);
}

// cos and sin of half the rotated elements for each token; positions are one for each, or three of which each has a
// section of the elements: one behind the other (0), or every third element (1).
Tensors cos_and_sin(const Tensor& positions, const Tensor& cache, const Ints& sections, int64_t cache_mode) {
  const Tensor rows = cache.index_select(0, positions.flatten().to(ScalarType::Long)).unflatten(0, positions.sizes());
  const Tensors both = wide(rows).chunk(2, -1);
  if (positions.dim() == 1) return both;
  TORCH_CHECK(positions.size(0) == 3 && sections.size() == 3, "positions of ", positions.sizes(), " with ",
              sections.size(), " sections.");
  Tensors chosen;
  for (const Tensor& each : both) {  // [3, tokens, elements]
    if (cache_mode == 0) {
      const Tensors parts = each.split_with_sizes(sections, -1);
      chosen.push_back(at::cat({parts[0][0], parts[1][1], parts[2][2]}, -1));
      continue;
    }
    Tensor mixed = each[0].clone();
    for (int64_t i = 1; i < 3; ++i) {
      mixed.slice(-1, i, 3 * sections[1], 3).copy_(each[i].slice(-1, i, 3 * sections[1], 3));
    }
    chosen.push_back(mixed);
  }
  return chosen;
}

// Elements past the rotated ones are left as they are.
Tensor embedded_heads(const Tensor& x, const Tensors& both, int64_t head_size, bool is_half) {
  Tensor heads = wide(x).reshape({x.size(0), -1, head_size}).clone();
  const auto doubled = [is_half](const Tensor& each) {
    return (is_half ? at::cat({each, each}, -1) : each.repeat_interleave(2, -1)).unsqueeze(1);
  };
  const Tensor cos = doubled(both[0]), sin = doubled(both[1]);
  Tensor part = heads.slice(-1, 0, cos.size(-1));
  part.copy_(embedded(part, cos, sin, is_half ? kHalf : kInterleaved));
  return heads.view_as(x);
}

void rope_with_cache(const Tensor& positions, const Tensor& query, const Tensor& key, const Tensor& cache,
                     const Ints& sections, int64_t head_size, bool is_half, int64_t cache_mode, const Out& query_out,
                     const Out& key_out) {
  TORCH_CHECK(cache_mode == 0 || cache_mode == 1, "cacheMode is ", cache_mode, ", not 0 or 1.");
  const Tensors both = cos_and_sin(positions, cache, sections, cache_mode);
  query_out = embedded_heads(query, both, head_size, is_half);
  key_out = embedded_heads(key, both, head_size, is_half);
}

}  // namespace

OPERATOR(aclnnInterleaveRope, (Tensor x, Tensor cos, Tensor sin, Out out),
         out = embedded(halves_of_pairs(x), cos, sin, kHalf))
OPERATOR(aclnnRopeWithSinCosCache,
         (Tensor positions, Tensor query, Tensor key, Tensor cache, Ints sections, int64_t head_size, bool is_half,
          Out query_out, Out key_out),
         rope_with_cache(positions, query, key, cache, sections, head_size, is_half, 0, query_out, key_out))
OPERATOR(aclnnRopeWithSinCosCacheV2,
         (Tensor positions, Tensor query, Tensor key, Tensor cache, Ints sections, int64_t head_size, bool is_half,
          int64_t cache_mode, Out query_out, Out key_out),
         rope_with_cache(positions, query, key, cache, sections, head_size, is_half, cache_mode, query_out, key_out))
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
