// Images of another size, or sampled along a grid.
#include <ATen/Functions.h>

#include <array>

#include "wide.h"

using namespace unify::operators;

namespace {

// torch_npu gives 0 or -1 for a scale that follows from the sizes.
optional<double> scale_of(double given) { return given > 0 ? optional<double>(given) : std::nullopt; }

}  // namespace

// The nearest

OPERATOR(aclnnUpsampleNearest1d, (Tensor self, Ints size, Out out), out = at::upsample_nearest1d(self, size))
OPERATOR(aclnnUpsampleNearest1dV2, (Tensor self, Ints size, float scale, Out out),
         out = at::upsample_nearest1d(self, size, scale_of(scale)))
OPERATOR(aclnnUpsampleNearest1dBackward, (Tensor grad, Ints size, Ints input_size, double scale, Out grad_input),
         grad_input = at::upsample_nearest1d_backward(wide(grad), size, input_size, scale_of(scale)))
OPERATOR(aclnnUpsampleNearest2d, (Tensor self, Ints size, Out out), out = at::upsample_nearest2d(self, size))
OPERATOR(aclnnUpsampleNearest2dV2, (Tensor self, Ints size, float scale_h, float scale_w, Out out),
         out = at::upsample_nearest2d(self, size, scale_of(scale_h), scale_of(scale_w)))
OPERATOR(aclnnUpsampleNearest2dBackward,
         (Tensor grad, Ints size, Ints input_size, double scale_h, double scale_w, Out grad_input),
         grad_input = at::upsample_nearest2d_backward(wide(grad), size, input_size, scale_of(scale_h),
                                                      scale_of(scale_w)))
OPERATOR(aclnnUpsampleNearest3d, (Tensor self, Ints size, double scale_d, double scale_h, double scale_w, Out out),
         out = at::upsample_nearest3d(self, size, scale_of(scale_d), scale_of(scale_h), scale_of(scale_w)))
OPERATOR(aclnnUpsampleNearest3dBackward,
         (Tensor grad, Ints size, Ints input_size, double scale_d, double scale_h, double scale_w, Out grad_input),
         grad_input = at::upsample_nearest3d_backward(wide(grad), size, input_size, scale_of(scale_d),
                                                      scale_of(scale_h), scale_of(scale_w)))
OPERATOR(aclnnUpsampleNearestExact1d, (Tensor self, Ints size, double scale, Out out),
         out = at::_upsample_nearest_exact1d(self, size, scale_of(scale)))
OPERATOR(aclnnUpsampleNearestExact1dBackward, (Tensor grad, Ints size, Ints input_size, double scale, Out grad_input),
         grad_input = at::_upsample_nearest_exact1d_backward(wide(grad), size, input_size, scale_of(scale)))
OPERATOR(aclnnUpsampleNearestExact2d, (Tensor self, Ints size, double scale_h, double scale_w, Out out),
         out = at::_upsample_nearest_exact2d(self, size, scale_of(scale_h), scale_of(scale_w)))
OPERATOR(aclnnUpsampleNearestExact2dBackward,
         (Tensor grad, Ints size, Ints input_size, double scale_h, double scale_w, Out grad_input),
         grad_input = at::_upsample_nearest_exact2d_backward(wide(grad), size, input_size, scale_of(scale_h),
                                                             scale_of(scale_w)))
OPERATOR(aclnnUpsampleNearestExact3d, (Tensor self, Ints size, double scale_d, double scale_h, double scale_w, Out out),
         out = at::_upsample_nearest_exact3d(self, size, scale_of(scale_d), scale_of(scale_h), scale_of(scale_w)))
OPERATOR(aclnnUpsampleNearestExact3dBackward,
         (Tensor grad, Ints size, Ints input_size, double scale_d, double scale_h, double scale_w, Out grad_input),
         grad_input = at::_upsample_nearest_exact3d_backward(wide(grad), size, input_size, scale_of(scale_d),
                                                             scale_of(scale_h), scale_of(scale_w)))

// Between the neighbours

OPERATOR(aclnnUpsampleLinear1d, (Tensor self, Ints size, bool is_aligned, double scale, Out out),
         out = at::upsample_linear1d(wide(self), size, is_aligned, scale_of(scale)))
OPERATOR(aclnnUpsampleLinear1dBackward,
         (Tensor grad, Ints size, Ints input_size, bool is_aligned, double scale, Out grad_input),
         grad_input = at::upsample_linear1d_backward(wide(grad), size, input_size, is_aligned, scale_of(scale)))
OPERATOR(aclnnUpsampleTrilinear3d,
         (Tensor self, Ints size, bool is_aligned, double scale_d, double scale_h, double scale_w, Out out),
         out = at::upsample_trilinear3d(wide(self), size, is_aligned, scale_of(scale_d), scale_of(scale_h),
                                        scale_of(scale_w)))
OPERATOR(aclnnUpsampleTrilinear3dBackward,
         (Tensor grad, Ints size, Ints input_size, bool is_aligned, double scale_d, double scale_h, double scale_w,
          Out grad_input),
         grad_input = at::upsample_trilinear3d_backward(wide(grad), size, input_size, is_aligned, scale_of(scale_d),
                                                        scale_of(scale_h), scale_of(scale_w)))

#define UPSAMPLE_2D(NAME, FUNCTION)                                                                  \
  OPERATOR(NAME, (Tensor self, Ints size, bool is_aligned, double scale_h, double scale_w, Out out), \
           out = at::FUNCTION(wide(self), size, is_aligned, scale_of(scale_h), scale_of(scale_w)))
#define UPSAMPLE_2D_BACKWARD(NAME, FUNCTION)                                                                           \
  OPERATOR(NAME,                                                                                                       \
           (Tensor grad, Ints size, Ints input_size, bool is_aligned, double scale_h, double scale_w, Out grad_input), \
           grad_input = at::FUNCTION(wide(grad), size, input_size, is_aligned, scale_of(scale_h), scale_of(scale_w)))

UPSAMPLE_2D(aclnnUpsampleBicubic2d, upsample_bicubic2d)
UPSAMPLE_2D(aclnnUpsampleBicubic2dAA, _upsample_bicubic2d_aa)
UPSAMPLE_2D(aclnnUpsampleBilinear2d, upsample_bilinear2d)
UPSAMPLE_2D(aclnnUpsampleBilinear2dAA, _upsample_bilinear2d_aa)
UPSAMPLE_2D_BACKWARD(aclnnUpsampleBicubic2dAAGrad, _upsample_bicubic2d_aa_backward)
UPSAMPLE_2D_BACKWARD(aclnnUpsampleBicubic2dBackward, upsample_bicubic2d_backward)
UPSAMPLE_2D_BACKWARD(aclnnUpsampleBilinear2dAABackward, _upsample_bilinear2d_aa_backward)
UPSAMPLE_2D_BACKWARD(aclnnUpsampleBilinear2dBackward, upsample_bilinear2d_backward)
UPSAMPLE_2D_BACKWARD(aclnnUpsampleBilinear2dBackwardV2, upsample_bilinear2d_backward)

// Along a grid

OPERATOR(aclnnAffineGrid, (Tensor theta, Ints size, bool is_aligned, Out out),
         write_reshaped(at::affine_grid_generator(wide(theta), size, is_aligned), out))
OPERATOR(aclnnGridSampler2D,
         (Tensor input, Tensor grid, int64_t interpolation, int64_t padding, bool is_aligned, Out out),
         out = at::grid_sampler_2d(wide(input), wide(grid), interpolation, padding, is_aligned))
OPERATOR(aclnnGridSampler2DBackward,
         (Tensor grad, Tensor input, Tensor grid, int64_t interpolation, int64_t padding, bool is_aligned, Bools mask,
          Out grad_input, Out grad_grid),
         const auto [by_input, by_grid] = at::grid_sampler_2d_backward(wide(grad), wide(input), wide(grid),
                                                                       interpolation, padding, is_aligned,
                                                                       {mask.at(0), mask.at(1)});
         write_defined(by_input, grad_input); write_defined(by_grid, grad_grid))
OPERATOR(aclnnGridSampler3D,
         (Tensor input, Tensor grid, int64_t interpolation, int64_t padding, bool is_aligned, Out out),
         out = at::grid_sampler_3d(wide(input), wide(grid), interpolation, padding, is_aligned))
OPERATOR(aclnnGridSampler3DBackward,
         (Tensor grad, Tensor input, Tensor grid, int64_t interpolation, int64_t padding, bool is_aligned, Bools mask,
          Out grad_input, Out grad_grid),
         const auto [by_input, by_grid] = at::grid_sampler_3d_backward(wide(grad), wide(input), wide(grid),
                                                                       interpolation, padding, is_aligned,
                                                                       {mask.at(0), mask.at(1)});
         write_defined(by_input, grad_input); write_defined(by_grid, grad_grid))
