// Products of matrices, and what is solved or taken apart with them.
#include <ATen/Functions.h>

#include <limits>

#include "operator.h"

using namespace unify::operators;

namespace {

// The mantissa's 11 upper bits, to the nearest: what the cube unit makes of float32 as HF32.
Tensor hf32(const Tensor& x) {
  const Tensor bits = x.contiguous().view(at::kInt);
  const Tensor odd = bits.bitwise_right_shift(12).bitwise_and(1);
  const Tensor rounded = bits.add(odd).add(0x7ff).bitwise_and(~0xfff).view(at::kFloat);
  return at::where(x.isfinite(), rounded, x);
}

enum CubeMathType : int8_t { kKeepType = 0, kAllowLess = 1, kHalf = 2, kHf32 = 3, kFloatSums = 4 };

// A factor as the cube unit gets it.
Tensor cube(const Tensor& x, int8_t math_type) {
  TORCH_CHECK(math_type >= kKeepType && math_type <= kFloatSums, "cubeMathType is ", int{math_type}, ", not 0 to 4.");
  if (x.scalar_type() != at::kFloat || math_type == kKeepType || math_type == kFloatSums) return x;
  return math_type == kHalf ? x.to(at::kHalf).to(at::kFloat) : hf32(x);
}

}  // namespace

OPERATOR(aclnnAddbmm, (Tensor self, Tensor batch1, Tensor batch2, Scalar beta, Scalar alpha, Out out, int8_t math_type),
         out = at::addbmm(self, cube(batch1, math_type), cube(batch2, math_type), beta, alpha))
OPERATOR(aclnnAddmm, (Tensor self, Tensor mat1, Tensor mat2, Scalar beta, Scalar alpha, Out out, int8_t math_type),
         out = at::addmm(self, cube(mat1, math_type), cube(mat2, math_type), beta, alpha))
OPERATOR(aclnnAddmmWeightNz,
         (Tensor self, Tensor mat1, Tensor mat2, Scalar beta, Scalar alpha, Out out, int8_t math_type),
         out = at::addmm(self, cube(mat1, math_type), cube(mat2, math_type), beta, alpha))
OPERATOR(aclnnAddmv, (Tensor self, Tensor mat, Tensor vec, Scalar alpha, Scalar beta, Out out, int8_t math_type),
         out = at::addmv(self, cube(mat, math_type), cube(vec, math_type), beta, alpha))
OPERATOR(aclnnBaddbmm,
         (Tensor self, Tensor batch1, Tensor batch2, Scalar beta, Scalar alpha, Out out, int8_t math_type),
         out = at::baddbmm(self, cube(batch1, math_type), cube(batch2, math_type), beta, alpha))
OPERATOR(aclnnBatchMatMul, (Tensor self, Tensor mat2, Out out, int8_t math_type),
         out = at::matmul(cube(self, math_type), cube(mat2, math_type)))
OPERATOR(aclnnBatchMatMulWeightNz, (Tensor self, Tensor mat2, Out out, int8_t math_type),
         out = at::matmul(cube(self, math_type), cube(mat2, math_type)))
OPERATOR(aclnnInplaceAddmm, (Out self, Tensor mat1, Tensor mat2, Scalar beta, Scalar alpha, int8_t math_type),
         self = at::addmm(self, cube(mat1, math_type), cube(mat2, math_type), beta, alpha))
OPERATOR(aclnnMatmul, (Tensor self, Tensor mat2, Out out, int8_t math_type),
         out = at::matmul(cube(self, math_type), cube(mat2, math_type)))
OPERATOR(aclnnMatmulWeightNz, (Tensor self, Tensor mat2, Out out, int8_t math_type),
         out = at::matmul(cube(self, math_type), cube(mat2, math_type)))
OPERATOR(aclnnMm, (Tensor self, Tensor mat2, Out out, int8_t math_type),
         out = at::mm(cube(self, math_type), cube(mat2, math_type)))
OPERATOR(aclnnMv, (Tensor self, Tensor vec, Out out, int8_t math_type),
         out = at::mv(cube(self, math_type), cube(vec, math_type)))

namespace {

// Batches of products, laid out as [m, batch, n], or as [split, m, batch / split · n].
Tensor transpose_batch_matmul(const Tensor& x1, const Tensor& x2, const Ints& order, int64_t split) {
  TORCH_CHECK(order == Ints({1, 0, 2}), "permY is ", at::IntArrayRef(order), ", not [1, 0, 2].");
  const Tensor product = at::matmul(x1, x2);
  if (split <= 1) return product.permute(order);
  const int64_t batch = product.size(0), m = product.size(1), n = product.size(2);
  return product.view({split, batch / split, m, n}).permute({0, 2, 1, 3}).reshape({split, m, batch / split * n});
}

}  // namespace

OPERATOR(aclnnTransposeBatchMatMul,
         (Tensor x1, Tensor x2, optional<Tensor> bias, optional<Tensor> scale, Ints order1, Ints order2, Ints order,
          int8_t math_type, int64_t split, Out out),
         TORCH_CHECK(!bias && !scale, "a bias or a scale is not simulated.");
         out = transpose_batch_matmul(cube(x1.permute(order1), math_type), cube(x2.permute(order2), math_type), order,
                                      split))

// Vectors: no work for the cube unit.
OPERATOR(aclnnAddr, (Tensor self, Tensor vec1, Tensor vec2, Scalar beta, Scalar alpha, Out out),
         out = at::addr(self, vec1, vec2, beta, alpha))
OPERATOR(aclnnDot, (Tensor self, Tensor other, Out out), out = at::dot(self, other))
OPERATOR(aclnnInplaceAddr, (Out self, Tensor vec1, Tensor vec2, Scalar beta, Scalar alpha),
         self = at::addr(self, vec1, vec2, beta, alpha))
OPERATOR(aclnnLinalgCross, (Tensor self, Tensor other, int64_t dim, Out out), out = at::linalg_cross(self, other, dim))

// Distances of rows.
OPERATOR(aclnnCdist, (Tensor x1, Tensor x2, float p, int64_t mode, Out out), out = at::_cdist_forward(x1, x2, p, mode))
OPERATOR(aclnnCdistBackward, (Tensor grad, Tensor x1, Tensor x2, Tensor distances, float p, Out out),
         out = at::_cdist_backward(grad, x1, x2, p < 0 ? std::numeric_limits<double>::infinity() : p, distances))
OPERATOR(aclnnPdist, (Tensor self, float p, Out out), out = at::_pdist_forward(self, p))

// Decompositions and solutions.
namespace {

constexpr const char* kQrModes[] = {"reduced", "complete", "r"};

}  // namespace

OPERATOR(aclnnInverse, (Tensor self, Out out), out = at::inverse(self))
OPERATOR(aclnnLinalgCholesky, (Tensor self, bool upper, Out out), out = at::linalg_cholesky(self, upper))
OPERATOR(aclnnLinalgQr, (Tensor self, int64_t mode, Out q, Out r),
         TORCH_CHECK(mode >= 0 && mode < 3, "mode is ", mode, ", not 0 to 2.");
         write(at::linalg_qr(self, kQrModes[mode]), q, r))
OPERATOR(aclnnSlogdet, (Tensor self, Out sign, Out log), write(at::slogdet(self), sign, log))
OPERATOR(
    aclnnSvd, (Tensor self, bool full_matrices, bool with_vectors, Out s, Out u, Out v), if (!with_vectors) {
      s = at::linalg_svdvals(self);
      return;
    } write(at::svd(self, !full_matrices), u, s, v))
OPERATOR(aclnnTriangularSolve,
         (Tensor self, Tensor a, bool upper, bool transpose, bool unitriangular, Out solution, Out copy),
         write(at::triangular_solve(self, a, upper, transpose, unitriangular), solution, copy))
