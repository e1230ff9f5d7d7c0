// Random numbers: a seed and an offset decide all of them, the same each time.
#include <ATen/Functions.h>

#include "random.h"

using namespace unify::operators;

// The last parameters before the results, and the numbers that they give.
#define SEEDED int64_t seed, int64_t offset
#define SEEDED_BY_TENSORS Tensor seed, Tensor offset, uint64_t offset_in_graph
#define NUMBERS Random(seed, offset).generator()
#define NUMBERS_BY_TENSORS Random(seed, offset, offset_in_graph).generator()

OPERATOR(aclnnInplaceBernoulli, (Out self, Scalar p, SEEDED), self->bernoulli_(p.toDouble(), NUMBERS))
OPERATOR(aclnnInplaceBernoulliTensor, (Out self, Tensor p, SEEDED), self->bernoulli_(p, NUMBERS))
OPERATOR(aclnnInplaceNormal, (Out self, float mean, float deviation, SEEDED), self->normal_(mean, deviation, NUMBERS))
OPERATOR(aclnnInplaceNormalTensor, (Out self, float mean, float deviation, SEEDED_BY_TENSORS),
         self->normal_(mean, deviation, NUMBERS_BY_TENSORS))
OPERATOR(aclnnInplaceRandom, (Out self, int64_t from, int64_t to, SEEDED), self->random_(from, to, NUMBERS))
OPERATOR(aclnnInplaceRandomTensor, (Out self, int64_t from, int64_t to, SEEDED_BY_TENSORS),
         self->random_(from, to, NUMBERS_BY_TENSORS))
OPERATOR(aclnnInplaceRandomWithoutFromTo, (Out self, SEEDED), self->random_(NUMBERS))
OPERATOR(aclnnInplaceRandomWithoutFromToTensor, (Out self, SEEDED_BY_TENSORS), self->random_(NUMBERS_BY_TENSORS))
OPERATOR(aclnnInplaceUniform, (Out self, double from, double to, SEEDED), self->uniform_(from, to, NUMBERS))
OPERATOR(aclnnInplaceUniformTensor, (Out self, double from, double to, SEEDED_BY_TENSORS),
         self->uniform_(from, to, NUMBERS_BY_TENSORS))
OPERATOR(aclnnMultinomial, (Tensor self, int64_t samples, bool replacement, SEEDED, Out out),
         out = at::multinomial(self, samples, replacement, NUMBERS))
OPERATOR(aclnnMultinomialTensor, (Tensor self, int64_t samples, bool replacement, SEEDED_BY_TENSORS, Out out),
         out = at::multinomial(self, samples, replacement, NUMBERS_BY_TENSORS))
OPERATOR(aclnnNormalFloatFloat, (float mean, float deviation, SEEDED, Out out), out->normal_(mean, deviation, NUMBERS))
OPERATOR(aclnnNormalFloatTensor, (float mean, Tensor deviation, SEEDED, Out out),
         out = at::normal(mean, deviation, NUMBERS))
OPERATOR(aclnnNormalTensorFloat, (Tensor mean, float deviation, SEEDED, Out out),
         out = at::normal(mean, deviation, NUMBERS))
OPERATOR(aclnnNormalTensorTensor, (Tensor mean, Tensor deviation, SEEDED, Out out),
         out = at::normal(mean, deviation, NUMBERS))
OPERATOR(aclnnRandperm, (int64_t n, SEEDED, Out out), out = at::randperm(n, NUMBERS, out->options()))
OPERATOR(aclnnSimThreadExponential, (Out self, int64_t count, double rate, SEEDED),
         TORCH_CHECK(count == self->numel(), count, " numbers for ", self->numel(), " elements.");
         self->exponential_(rate, NUMBERS))

OPERATOR(aclnnInplaceRReluWithNoise, (Out self, Tensor noise, Scalar lower, Scalar upper, bool is_training, SEEDED),
         self = at::rrelu_with_noise(self, noise, lower, upper, is_training, NUMBERS))
OPERATOR(aclnnRReluWithNoise,
         (Tensor self, Tensor noise, Scalar lower, Scalar upper, bool is_training, SEEDED, Out out),
         out = at::rrelu_with_noise(self, noise, lower, upper, is_training, NUMBERS))

// Dropout. A mask is bits, eight to a byte, the lowest first: 1 keeps an element.
namespace {

Tensor bit_weights() { return at::bitwise_left_shift(at::full({8}, 1, at::kByte), at::arange(8, at::kByte)); }

}  // namespace

Tensor unify::operators::mask_of(const Tensor& bytes, double p, const at::Generator& generator) {
  TORCH_CHECK(p >= 0 && p <= 1, "Dropout of probability ", p, ": it is in [0, 1].");
  const Tensor bits = at::empty({bytes.numel(), 8}, at::kByte).bernoulli_(1 - p, generator);
  return at::sum(at::mul(bits, bit_weights()), {1}, false, at::kByte).reshape(bytes.sizes());
}

namespace {

Tensor masked(const Tensor& self, const Tensor& bytes, double p) {
  TORCH_CHECK(bytes.numel() * 8 >= self.numel(), "A mask of ", bytes.numel() * 8, " bits for ", self.numel(),
              " elements.");
  if (p == 1) return at::zeros_like(self);
  const Tensor bits = at::ne(at::bitwise_and(bytes.reshape({-1, 1}), bit_weights()), 0).reshape({-1});
  const Tensor kept = at::slice(bits, 0, 0, self.numel()).reshape(self.sizes());
  return at::where(kept, at::mul(self, 1 / (1 - p)), at::zeros({}, self.options()));
}

void drop(const Tensor& self, const optional<Tensor>& shape, double p, const Random& random, const Out& out,
          const Out& mask) {
  TORCH_CHECK(!shape, "Dropout with a shape of the noise is not simulated.");
  mask = mask_of(mask, p, random.generator());
  out = masked(self, mask, p);
}

}  // namespace

OPERATOR(aclnnDropoutDoMask, (Tensor self, Tensor mask, double p, Out out), out = masked(self, mask, p))
OPERATOR(aclnnDropoutGenMask, (Ints, double p, SEEDED, Out mask), mask = mask_of(mask, p, NUMBERS))
OPERATOR(aclnnDropoutGenMaskV2, (Ints, double p, SEEDED, ScalarType, Out mask), mask = mask_of(mask, p, NUMBERS))
OPERATOR(aclnnDropoutGenMaskV2Tensor, (Ints, double p, SEEDED_BY_TENSORS, ScalarType, Out mask),
         mask = mask_of(mask, p, NUMBERS_BY_TENSORS))
OPERATOR(aclnnDropoutV3, (Tensor self, optional<Tensor> noise_shape, double p, SEEDED, Out out, Out mask),
         drop(self, noise_shape, p, Random(seed, offset), out, mask))
OPERATOR(aclnnDropoutV3Tensor,
         (Tensor self, optional<Tensor> noise_shape, double p, SEEDED_BY_TENSORS, Out out, Out mask),
         drop(self, noise_shape, p, Random(seed, offset, offset_in_graph), out, mask))
