// Operators that make fewer elements of many, or look at all of a dimension: sums, extremes, orders, searches.
#include <ATen/Functions.h>

#include "operator.h"

using namespace unify::operators;

namespace {

// "All", where torch itself takes no dimensions to mean none.
at::OptionalIntArrayRef all_if_none(const Ints& dims) {
  return dims.empty() ? at::OptionalIntArrayRef() : at::OptionalIntArrayRef(dims);
}

// Of a type that histc of the CPU has.
Tensor floating(const Tensor& x) { return x.is_floating_point() ? x : x.to(at::kDouble); }

}  // namespace

// Sums and products.
OPERATOR(aclnnMean, (Tensor self, Ints dims, bool keepdim, ScalarType type, Out out),
         out = at::mean(self, dims, keepdim, type))
OPERATOR(aclnnProd, (Tensor self, ScalarType type, Out out), out = at::prod(self, type))
OPERATOR(aclnnProdDim, (Tensor self, int64_t dim, bool keepdim, ScalarType type, Out out),
         out = at::prod(self, dim, keepdim, type))
OPERATOR(aclnnReduceNansum, (Tensor self, Ints dims, bool keepdim, ScalarType type, Out out),
         out = at::nansum(self, dims, keepdim, type))
OPERATOR(aclnnReduceSum, (Tensor self, Ints dims, bool keepdim, ScalarType type, Out out),
         out = at::sum(self, dims, keepdim, type))
OPERATOR(aclnnTrace, (Tensor self, Out out), out = at::trace(self))

OPERATOR(aclnnStd, (Tensor self, Ints dims, int64_t correction, bool keepdim, Out out),
         out = at::std(self, dims, Scalar(correction), keepdim))
OPERATOR(aclnnStdMeanCorrection, (Tensor self, Ints dims, int64_t correction, bool keepdim, Out std, Out mean),
         write(at::std_mean(self, dims, Scalar(correction), keepdim), std, mean))
OPERATOR(aclnnVarCorrection, (Tensor self, Ints dims, int64_t correction, bool keepdim, Out out),
         out = at::var(self, dims, Scalar(correction), keepdim))
OPERATOR(aclnnVarMean, (Tensor self, Ints dims, int64_t correction, bool keepdim, Out var, Out mean),
         write(at::var_mean(self, dims, Scalar(correction), keepdim), var, mean))

OPERATOR(aclnnLinalgVectorNorm, (Tensor self, Scalar order, Ints dims, bool keepdim, ScalarType type, Out out),
         out = at::linalg_vector_norm(self, order, all_if_none(dims), keepdim, type))
OPERATOR(aclnnLogSumExp, (Tensor self, Ints dims, bool keepdim, Out out), out = at::logsumexp(self, dims, keepdim))
OPERATOR(aclnnNorm, (Tensor self, Scalar order, Ints dims, bool keepdim, Out out),
         out = self.is_complex() ? at::norm(self, order, dims, keepdim)
                                 : at::norm(self, order, dims, keepdim, out->scalar_type()))

// Extremes.
OPERATOR(aclnnAmax, (Tensor self, Ints dims, bool keepdim, Out out), out = at::amax(self, dims, keepdim))
OPERATOR(aclnnAmin, (Tensor self, Ints dims, bool keepdim, Out out), out = at::amin(self, dims, keepdim))
OPERATOR(aclnnAminmax, (Tensor self, Ints dims, bool keepdim, Out min, Out max), min = at::amin(self, dims, keepdim);
         max = at::amax(self, dims, keepdim))
OPERATOR(aclnnAminmaxAll, (Tensor self, Out min, Out max), write(at::aminmax(self), min, max))
OPERATOR(aclnnAminmaxDim, (Tensor self, int64_t dim, bool keepdim, Out min, Out max),
         write(at::aminmax(self, dim, keepdim), min, max))
OPERATOR(aclnnArgMax, (Tensor self, int64_t dim, bool keepdim, Out out), out = at::argmax(self, dim, keepdim))
OPERATOR(aclnnArgMin, (Tensor self, int64_t dim, bool keepdim, Out out), out = at::argmin(self, dim, keepdim))
OPERATOR(aclnnMax, (Tensor self, Out out), out = at::max(self))
OPERATOR(aclnnMaxDim, (Tensor self, int64_t dim, bool keepdim, Out values, Out indices),
         write(at::max(self, dim, keepdim), values, indices))
OPERATOR(aclnnMin, (Tensor self, Out out), out = at::min(self))
OPERATOR(aclnnMinDim, (Tensor self, int64_t dim, bool keepdim, Out values, Out indices),
         write(at::min(self, dim, keepdim), values, indices))

OPERATOR(aclnnAll, (Tensor self, Ints dims, bool keepdim, Out out), out = at::all(self, all_if_none(dims), keepdim))
OPERATOR(aclnnAny, (Tensor self, Ints dims, bool keepdim, Out out), out = at::any(self, all_if_none(dims), keepdim))

// Running ones.
OPERATOR(aclnnCummax, (Tensor self, int64_t dim, Out values, Out indices),
         write(at::cummax(self, dim), values, indices))
OPERATOR(aclnnCummin, (Tensor self, int64_t dim, Out values, Out indices),
         write(at::cummin(self, dim), values, indices))
OPERATOR(aclnnCumprod, (Tensor self, Scalar dim, ScalarType type, Out out), out = at::cumprod(self, dim.toLong(), type))
OPERATOR(aclnnCumsum, (Tensor self, int64_t dim, ScalarType type, Out out), out = at::cumsum(self, dim, type))

// Order.
OPERATOR(aclnnKthvalue, (Tensor self, int64_t k, int64_t dim, bool keepdim, Out values, Out indices),
         write(at::kthvalue(self, k, dim, keepdim), values, indices))
OPERATOR(aclnnMedian, (Tensor self, Out out), out = at::median(self))
OPERATOR(aclnnMedianDim, (Tensor self, int64_t dim, bool keepdim, Out values, Out indices),
         write(at::median(self, dim, keepdim), values, indices))
OPERATOR(aclnnNanMedian, (Tensor self, Out out), out = at::nanmedian(self))
OPERATOR(aclnnNanMedianDim, (Tensor self, int64_t dim, bool keepdim, Out values, Out indices),
         write(at::nanmedian(self, dim, keepdim), values, indices))
OPERATOR(aclnnSort, (Tensor self, bool stable, int64_t dim, bool descending, Out values, Out indices),
         write(at::sort(self, stable, dim, descending), values, indices))
OPERATOR(aclnnTopk, (Tensor self, int64_t k, int64_t dim, bool largest, bool sorted, Out values, Out indices),
         write(at::topk(self, k, dim, largest, sorted), values, indices))

// Counts and searches.
OPERATOR(aclnnBincount, (Tensor self, optional<Tensor> weights, int64_t minlength, Out out),
         out = at::bincount(self, weights, minlength))
OPERATOR(aclnnBucketize, (Tensor self, Tensor boundaries, bool out_int32, bool right, Out out),
         out = at::bucketize(self, boundaries, out_int32, right))
OPERATOR(aclnnHistc, (Tensor self, int64_t bins, Scalar min, Scalar max, Out out),
         out = at::histc(floating(self), bins, min, max))
OPERATOR(aclnnSearchSorted, (Tensor sorted, Tensor self, bool out_int32, bool right, optional<Tensor> sorter, Out out),
         out = at::searchsorted(sorted, self, out_int32, right, std::nullopt, sorter))
OPERATOR(aclnnSearchSorteds, (Tensor sorted, Scalar self, bool out_int32, bool right, optional<Tensor> sorter, Out out),
         out = at::searchsorted(sorted, self, out_int32, right, std::nullopt, sorter))

// Each value once; how many there are, only the values tell.
namespace {

void write_unique(const std::tuple<Tensor, Tensor, Tensor>& found, const Shaped& values, bool with_inverse,
                  const Out& inverse, bool with_counts, const Shaped& counts) {
  values = std::get<0>(found);
  if (with_inverse) inverse = std::get<1>(found);
  if (with_counts) counts = std::get<2>(found);
}

constexpr int64_t kEveryDimension = 1000;  // what torch_npu passes for no dimension

}  // namespace

OPERATOR(aclnnUnique, (Tensor self, bool sorted, bool with_inverse, Shaped values, Out inverse),
         const auto [found, places] = at::_unique(self, sorted, with_inverse);
         values = found; if (with_inverse) inverse = places)
OPERATOR(aclnnUnique2,
         (Tensor self, bool sorted, bool with_inverse, bool with_counts, Shaped values, Out inverse, Shaped counts),
         write_unique(at::_unique2(self, sorted, with_inverse, with_counts), values, with_inverse, inverse, with_counts,
                      counts))
OPERATOR(aclnnUniqueConsecutive,
         (Tensor self, bool with_inverse, bool with_counts, int64_t dim, Shaped values, Out inverse, Shaped counts),
         write_unique(at::unique_consecutive(self, with_inverse, with_counts,
                                             dim == kEveryDimension ? std::nullopt : optional<int64_t>(dim)),
                      values, with_inverse, inverse, with_counts, counts))
OPERATOR(aclnnUniqueDim,
         (Tensor self, bool sorted, bool with_inverse, int64_t dim, Shaped values, Out inverse, Shaped counts),
         write_unique(at::unique_dim(self, dim, sorted, with_inverse, true), values, with_inverse, inverse, true,
                      counts))
