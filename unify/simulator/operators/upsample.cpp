// Images of another size, or sampled along a grid.
#include <ATen/Functions.h>

#include <array>

#include "wide.h"

using namespace unify::operators;

namespace {

// torch_npu gives 0 or -1 for a scale that follows from the sizes.
optional<double> scale_of(double given) { return given > 0 ? optional<double>(given) : std::nullopt; }

}  // namespace

// Scales as parameters, and as torch has them.
#define SCALES_1D(TYPE) TYPE scale
#define SCALES_2D(TYPE) TYPE scale_h, TYPE scale_w
#define SCALES_3D(TYPE) TYPE scale_d, TYPE scale_h, TYPE scale_w
#define GIVEN_1D scale_of(scale)
#define GIVEN_2D scale_of(scale_h), scale_of(scale_w)
#define GIVEN_3D scale_of(scale_d), scale_of(scale_h), scale_of(scale_w)

// The nearest

#define NEAREST(NAME, FUNCTION, DIMENSIONS, TYPE)                              \
  OPERATOR(NAME, (Tensor self, Ints size, SCALES_##DIMENSIONS(TYPE), Out out), \
           out = at::FUNCTION(self, size, GIVEN_##DIMENSIONS))
#define NEAREST_BACKWARD(NAME, FUNCTION, DIMENSIONS)                                                     \
  OPERATOR(NAME, (Tensor grad, Ints size, Ints input_size, SCALES_##DIMENSIONS(double), Out grad_input), \
           grad_input = at::FUNCTION(wide(grad), size, input_size, GIVEN_##DIMENSIONS))

OPERATOR(aclnnUpsampleNearest1d, (Tensor self, Ints size, Out out), out = at::upsample_nearest1d(self, size))
OPERATOR(aclnnUpsampleNearest2d, (Tensor self, Ints size, Out out), out = at::upsample_nearest2d(self, size))
NEAREST(aclnnUpsampleNearest1dV2, upsample_nearest1d, 1D, float)
NEAREST(aclnnUpsampleNearest2dV2, upsample_nearest2d, 2D, float)
NEAREST(aclnnUpsampleNearest3d, upsample_nearest3d, 3D, double)
NEAREST(aclnnUpsampleNearestExact1d, _upsample_nearest_exact1d, 1D, double)
NEAREST(aclnnUpsampleNearestExact2d, _upsample_nearest_exact2d, 2D, double)
NEAREST(aclnnUpsampleNearestExact3d, _upsample_nearest_exact3d, 3D, double)
NEAREST_BACKWARD(aclnnUpsampleNearest1dBackward, upsample_nearest1d_backward, 1D)
NEAREST_BACKWARD(aclnnUpsampleNearest2dBackward, upsample_nearest2d_backward, 2D)
NEAREST_BACKWARD(aclnnUpsampleNearest3dBackward, upsample_nearest3d_backward, 3D)
NEAREST_BACKWARD(aclnnUpsampleNearestExact1dBackward, _upsample_nearest_exact1d_backward, 1D)
NEAREST_BACKWARD(aclnnUpsampleNearestExact2dBackward, _upsample_nearest_exact2d_backward, 2D)
NEAREST_BACKWARD(aclnnUpsampleNearestExact3dBackward, _upsample_nearest_exact3d_backward, 3D)

// Between the neighbours

#define SMOOTH(NAME, FUNCTION, DIMENSIONS)                                                        \
  OPERATOR(NAME, (Tensor self, Ints size, bool is_aligned, SCALES_##DIMENSIONS(double), Out out), \
           out = at::FUNCTION(wide(self), size, is_aligned, GIVEN_##DIMENSIONS))
#define SMOOTH_BACKWARD(NAME, FUNCTION, DIMENSIONS)                                                                 \
  OPERATOR(NAME,                                                                                                    \
           (Tensor grad, Ints size, Ints input_size, bool is_aligned, SCALES_##DIMENSIONS(double), Out grad_input), \
           grad_input = at::FUNCTION(wide(grad), size, input_size, is_aligned, GIVEN_##DIMENSIONS))

SMOOTH(aclnnUpsampleLinear1d, upsample_linear1d, 1D)
SMOOTH(aclnnUpsampleBicubic2d, upsample_bicubic2d, 2D)
SMOOTH(aclnnUpsampleBicubic2dAA, _upsample_bicubic2d_aa, 2D)
SMOOTH(aclnnUpsampleBilinear2d, upsample_bilinear2d, 2D)
SMOOTH(aclnnUpsampleBilinear2dAA, _upsample_bilinear2d_aa, 2D)
SMOOTH(aclnnUpsampleTrilinear3d, upsample_trilinear3d, 3D)
SMOOTH_BACKWARD(aclnnUpsampleLinear1dBackward, upsample_linear1d_backward, 1D)
SMOOTH_BACKWARD(aclnnUpsampleBicubic2dAAGrad, _upsample_bicubic2d_aa_backward, 2D)
SMOOTH_BACKWARD(aclnnUpsampleBicubic2dBackward, upsample_bicubic2d_backward, 2D)
SMOOTH_BACKWARD(aclnnUpsampleBilinear2dAABackward, _upsample_bilinear2d_aa_backward, 2D)
SMOOTH_BACKWARD(aclnnUpsampleBilinear2dBackward, upsample_bilinear2d_backward, 2D)
SMOOTH_BACKWARD(aclnnUpsampleBilinear2dBackwardV2, upsample_bilinear2d_backward, 2D)
SMOOTH_BACKWARD(aclnnUpsampleTrilinear3dBackward, upsample_trilinear3d_backward, 3D)

// Along a grid

OPERATOR(aclnnAffineGrid, (Tensor theta, Ints size, bool is_aligned, Out out),
         write_reshaped(at::affine_grid_generator(wide(theta), size, is_aligned), out))
#define GRID_SAMPLER(NAME, FUNCTION)                                                                               \
  OPERATOR(NAME, (Tensor input, Tensor grid, int64_t interpolation, int64_t padding, bool is_aligned, Out out),    \
           out = at::FUNCTION(wide(input), wide(grid), interpolation, padding, is_aligned))                        \
  OPERATOR(NAME##Backward,                                                                                         \
           (Tensor grad, Tensor input, Tensor grid, int64_t interpolation, int64_t padding, bool is_aligned,       \
            Bools mask, Out grad_input, Out grad_grid),                                                            \
           const auto [by_input, by_grid] = at::FUNCTION##_backward(                                               \
               wide(grad), wide(input), wide(grid), interpolation, padding, is_aligned, {mask.at(0), mask.at(1)}); \
           write_defined(by_input, grad_input); write_defined(by_grid, grad_grid))
GRID_SAMPLER(aclnnGridSampler2D, grid_sampler_2d)
GRID_SAMPLER(aclnnGridSampler3D, grid_sampler_3d)
