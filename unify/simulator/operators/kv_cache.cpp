// Keys and values in blocks of a cache: written where each token's slot is, and read through block tables.
#include <ATen/Functions.h>

#include <algorithm>

#include "normalization.h"
#include "quantized.h"
#include "rotary.h"

using namespace unify::operators;

namespace {

// A cache of blocks as [blocks, rows of one, pieces of a row, size of one]. In NZ the pieces of 32 bytes stand apart,
// [blocks, pieces, rows, size].
Tensor blocks_of(const Tensor& cache, bool is_nz, int64_t rows) {
  if (!is_nz) return cache.view({cache.size(0), rows, 1, -1});
  const int64_t piece = 32 / static_cast<int64_t>(cache.element_size());
  return cache.view({cache.size(0), -1, rows, piece}).permute({0, 2, 1, 3});
}

bool is_nz(const std::string& mode) {
  TORCH_CHECK(mode.empty() || mode == "Norm" || mode == "PA_NZ", "cacheMode ", mode,
              " is not simulated: Norm and PA_NZ are.");
  return mode == "PA_NZ";
}

// Tokens [count, ...] where their slots are; a negative one is nowhere.
void scatter(const Tensor& tokens, const Tensor& slots, const Tensor& blocks) {
  const Tensor all = slots.flatten().to(ScalarType::Long), kept = all.ge(0).nonzero().squeeze(1);
  const Tensor to = all.index_select(0, kept), rows = tokens.flatten(1).index_select(0, kept);
  blocks.index_put_({at::floor_divide(to, blocks.size(1)), to.remainder(blocks.size(1))},
                    rows.view({-1, blocks.size(2), blocks.size(3)}).to(blocks.scalar_type()));
}

void scatter_to_cache(const Tensor& tokens, const Tensor& slots, const Tensor& cache, const std::string& mode) {
  const bool in_nz = is_nz(mode);
  scatter(tokens, slots, blocks_of(cache, in_nz, in_nz ? cache.size(-2) : cache.size(1)));
}

void refuse_compression(const optional<Tensor>& lengths, const optional<Tensor>& offsets,
                        const optional<Tensor>& sequences) {
  TORCH_CHECK(!lengths && !offsets && !sequences, "compressLens, compressSeqOffsets and seqLens are not simulated.");
}

bool is_all(const Ints& values, int64_t value) {
  return std::all_of(values.begin(), values.end(), [value](int64_t each) { return each == value; });
}

// Tokens of sequences one behind the other, from the blocks of each one's table; past it they are zero.
void gather(const Tensor& cache, const Tensor& table, const Tensor& lengths, const optional<Tensor>& offsets,
            bool in_nz, bool are_ends, const Out& out) {
  const Tensor blocks = blocks_of(cache, in_nz, in_nz ? cache.size(-2) : cache.size(1));
  const Tensor numbers = lengths.to(ScalarType::Long);
  const Tensor counts = are_ends ? numbers.diff() : numbers;
  Tensor result = at::zeros(out->sizes(), out->options());
  int64_t begin = 0;
  for (int64_t i = 0; i < counts.numel(); ++i) {
    const int64_t end = std::min(begin + counts[i].item<int64_t>(), result.size(0));
    const Tensor rows = at::arange(end - begin);
    const int64_t first = offsets.has_value() ? (*offsets)[i].item<int64_t>() / blocks.size(1) : 0;
    const Tensor places = at::floor_divide(rows, blocks.size(1)) + first;
    const Tensor is_in = places.lt(table.size(1));
    const Tensor chosen = table[i].to(ScalarType::Long).index_select(0, places.clamp_max(table.size(1) - 1));
    const Tensor is_there = is_in.logical_and(chosen.ge(0)).logical_and(chosen.lt(blocks.size(0)));
    const Tensor kept = is_there.nonzero().squeeze(1);
    const Tensor found =
        blocks.index({chosen.index_select(0, kept), rows.index_select(0, kept).remainder(blocks.size(1))});
    result.slice(0, begin, end).index_copy_(0, kept, found.reshape({kept.numel(), result.size(1), result.size(2)}));
    begin = end;
  }
  out = result;
}

// Where a latent's tokens lie in a cache; index is one for each token, or for each block of a sequence's tokens.
struct LatentCache {
  std::string mode;
  Tensor index;
  int64_t batch, length;

  [[nodiscard]] bool is_paged() const { return mode != "Norm"; }

  [[nodiscard]] Tensor slots(int64_t rows) const {
    const Tensor given = index.to(ScalarType::Long).reshape({batch, -1});
    if (mode == "Norm") {  // [batch, 1, rows, size]: of each sequence
      TORCH_CHECK(given.lt(rows).all().item<bool>(), "an index is not in a sequence's ", rows, " rows.");
      return at::where(given.lt(0), given, given + at::arange(batch).unsqueeze(1) * rows);
    }
    if (mode == "PA" || mode == "PA_BNSD" || mode == "PA_NZ") return given;
    TORCH_CHECK(mode == "PA_BLK_BNSD" || mode == "PA_BLK_NZ", "cacheMode ", mode, " is not simulated.");
    const Tensor tokens = at::arange(length);
    const Tensor begins = given.index_select(1, at::floor_divide(tokens, rows));
    const Tensor slots = at::floor_divide(begins, rows) * rows + tokens.remainder(rows);
    return slots.masked_fill(begins.lt(0), -1);
  }

  void write(const Tensor& tokens, const Tensor& cache) const {
    const int64_t rows = cache.size(is_paged() ? 1 : 2);
    const bool in_nz = mode == "PA_NZ" || mode == "PA_BLK_NZ";
    scatter(tokens.reshape({batch * length, -1}), slots(rows), blocks_of(cache, in_nz, rows));
  }
};

struct Scaling {
  optional<Tensor> scale, offset;

  [[nodiscard]] Tensor applied(const Tensor& x, const Out& cache) const {
    if (!scale.has_value()) return x;
    const Tensor scaled = x * wide(*scale);
    return rounded(offset.has_value() ? scaled + wide(*offset) : scaled, cache);
  }
};

// kv [batch, 1, length, latent + rotated]: the latent normalised, the rest rotated. With values of their own all of it
// is normalised, and its first elements are rotated.
void kv_rms_norm_rope(const Tensor& kv, const Tensor& gamma, const Tensor& cos, const Tensor& sin, const Tensor& index,
                      const Out& key_cache, const Out& value_cache, const Scaling& key_scaling,
                      const Scaling& value_scaling, const optional<Tensor>& values, double eps, const std::string& mode,
                      bool is_wanted, const Out& key_out, const Out& value_out) {
  const int64_t rotated = cos.size(-1);
  Tensor key, value;
  if (values.has_value()) {
    const Tensor normal = rms_norm(kv, gamma, eps).result;
    const Tensor turned = embedded(halves_of_pairs(normal.slice(-1, 0, rotated)), cos, sin, kHalf);
    key = at::cat({turned, normal.slice(-1, rotated)}, -1);
    value = wide(*values);
  } else {
    const int64_t latent = gamma.numel();
    value = rms_norm(kv.slice(-1, 0, latent), gamma, eps).result;
    key = embedded(halves_of_pairs(wide(kv.slice(-1, latent))), cos, sin, kHalf);
  }
  const LatentCache cache{mode, index, kv.size(0), kv.size(2)};
  cache.write(key_scaling.applied(key, key_cache), key_cache);
  cache.write(value_scaling.applied(value, value_cache), value_cache);
  if (!is_wanted) return;
  key_out = key;
  value_out = value;
}

// Queries, keys and values of one tensor, [tokens, all heads * size]: the first two normalised and rotated, the last
// two over their scales to a cache in NZ, [blocks, pieces of a row, rows, size of one].
struct HeadsToCache {
  optional<Tensor> scale, offset;

  void write(const Tensor& heads, const Tensor& slots, const Out& cache, const Out& before) const {
    before = heads.flatten(1);
    Tensor rows = scale.has_value() ? heads / wide(*scale) : heads;
    if (offset.has_value()) rows = rows + wide(*offset);
    scatter(scale.has_value() ? rounded(rows, cache) : rows, slots, cache->permute({0, 2, 1, 3}));
  }
};

// cos and sin of a sequence's tokens or of all alike, for each head or for all.
Tensor beside_heads(const Tensor& values, const Ints& sizes) {
  const int64_t batch = sizes[0], length = sizes[1], size = sizes[3];
  const Tensor each = wide(values).view({batch, -1, values.size(1) / size, size});
  return each.expand({batch, length, -1, size}).flatten(0, 1);
}

}  // namespace

OPERATOR(aclnnQkvRmsNormRopeCache,
         (Tensor qkv, Tensor query_gamma, Tensor key_gamma, Tensor cos, Tensor sin, Tensor slots, Out query,
          Out key_cache, Out value_cache, optional<Tensor> key_scale, optional<Tensor> value_scale,
          optional<Tensor> key_offset, optional<Tensor> value_offset, Ints sizes, Ints heads, double eps,
          std::string mode, Out query_before, Out key_before, Out value_before),
         TORCH_CHECK(mode == "PA_NZ", "cacheMode ", mode, " is not simulated: PA_NZ is.");
         const Tensors parts = qkv.view({qkv.size(0), -1, sizes.at(3)}).split_with_sizes(heads, 1);
         const Tensor each_cos = beside_heads(cos, sizes); const Tensor each_sin = beside_heads(sin, sizes);
         const Tensor turned = embedded(rms_norm(parts[0], query_gamma, eps).result, each_cos, each_sin, kHalf);
         query = turned.flatten(1); query_before = turned.flatten(1);
         const Tensor key = embedded(rms_norm(parts[1], key_gamma, eps).result, each_cos, each_sin, kHalf);
         HeadsToCache({key_scale, key_offset}).write(key, slots, key_cache, key_before);
         HeadsToCache({value_scale, value_offset}).write(wide(parts[2]), slots, value_cache, value_before))
OPERATOR(aclnnScatterPaKvCache,
         (Tensor key, Out key_cache, Tensor slots, Tensor value, Out value_cache, optional<Tensor> lengths,
          optional<Tensor> compressed, optional<Tensor> sequences, std::string mode, std::string scatter_mode,
          Ints strides, Ints offsets),
         refuse_compression(lengths, compressed, sequences);
         TORCH_CHECK(scatter_mode.empty() || scatter_mode == "None", "scatterMode ", scatter_mode,
                     " is not simulated: None is.");
         TORCH_CHECK(is_all(strides, 1) && is_all(offsets, 0), "strides and offsets are not simulated.");
         scatter_to_cache(key, slots, key_cache, mode); scatter_to_cache(value, slots, value_cache, mode))
OPERATOR(aclnnScatterPaCache,
         (Tensor key, Out cache, Tensor slots, optional<Tensor> lengths, optional<Tensor> compressed,
          optional<Tensor> sequences, std::string mode),
         refuse_compression(lengths, compressed, sequences);
         scatter_to_cache(key, slots, cache, mode))
OPERATOR(aclnnGatherPaKvCache,
         (Tensor key_cache, Tensor value_cache, Tensor table, Tensor lengths, Out key, Out value,
          optional<Tensor> offsets, std::string mode, bool are_ends),
         gather(key_cache, table, lengths, offsets, is_nz(mode), are_ends, key);
         gather(value_cache, table, lengths, offsets, is_nz(mode), are_ends, value))

OPERATOR(aclnnKvRmsNormRopeCache,
         (Tensor kv, Tensor gamma, Tensor cos, Tensor sin, Tensor index, Out key_cache, Out value_cache,
          optional<Tensor> key_scale, optional<Tensor> value_scale, optional<Tensor> key_offset,
          optional<Tensor> value_offset, double eps, std::string mode, bool is_wanted, Out key_out, Out value_out),
         kv_rms_norm_rope(kv, gamma, cos, sin, index, key_cache, value_cache, {key_scale, key_offset},
                          {value_scale, value_offset}, {}, eps, mode, is_wanted, key_out, value_out))
OPERATOR(aclnnKvRmsNormRopeCacheV2,
         (Tensor kv, Tensor gamma, Tensor cos, Tensor sin, Tensor index, Out key_cache, Out value_cache,
          optional<Tensor> key_scale, optional<Tensor> value_scale, optional<Tensor> key_offset,
          optional<Tensor> value_offset, optional<Tensor> values, double eps, std::string mode, bool is_wanted,
          Out key_out, Out value_out),
         kv_rms_norm_rope(kv, gamma, cos, sin, index, key_cache, value_cache, {key_scale, key_offset},
                          {value_scale, value_offset}, values, eps, mode, is_wanted, key_out, value_out))
