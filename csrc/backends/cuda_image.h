// What cuModuleLoadData is given: it is told no size, so that a file which was cut off would be read beyond its end.
#pragma once

#include <cstddef>
#include <string>

namespace unify::cuda {

// Why the driver must not see this image, or nothing. `out_is_text`: it is PTX, and needs a zero at its end.
std::string why_not_an_image(const void* image, size_t bytes, bool& out_is_text);

}  // namespace unify::cuda
