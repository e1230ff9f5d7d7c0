// A tensor in another of the vendor's formats. Here all are plain, so that each operator takes each: only the room is
// that of the format.
#include <ATen/Functions.h>

#include <algorithm>
#include <new>

#include "operator.h"

using namespace unify::operators;

namespace {

constexpr int kNd = 2, kNz = 29;
constexpr int kNotSupported = 361001;  // ACLNN_ERR_RUNTIME_ERROR: the pair of formats

// [..., rows, columns] in NZ: pieces of columns of 32 bytes, of 16 rows each.
Ints room_of(const aclTensor& tensor, int format, int64_t piece) {
  Ints sizes(tensor.sizes.begin(), tensor.sizes.end());
  if (format != kNz) return sizes;
  const int64_t columns = sizes.back(), rows = sizes.at(sizes.size() - 2);
  sizes.resize(sizes.size() - 2);
  sizes.insert(sizes.end(), {(columns + piece - 1) / piece, (rows + 15) / 16, 16, piece});
  return sizes;
}

}  // namespace

// The sizes are the caller's, to be freed by delete[].
UNIFY_EXPORT int aclnnNpuFormatCastCalculateSizeAndFormat(const aclTensor* tensor, int format, int acl_type,
                                                          int64_t** sizes, uint64_t* dimensions, int* actual) {
  constexpr char kName[] = "aclnnNpuFormatCastCalculateSizeAndFormat";
  if (tensor == nullptr || sizes == nullptr || dimensions == nullptr || actual == nullptr) return refuse_null(kName, 1);
  const ScalarType type = acl_type == -1 ? tensor->type : type_of(acl_type);
  if ((format != kNd && format != kNz) || tensor->sizes.size() < 2 || type == ScalarType::Undefined) {
    return unify_simulator_refuse(kName, kNotSupported, "Formats are ND and NZ, of two dimensions or more.");
  }
  const Ints room = room_of(*tensor, format, 32 / static_cast<int64_t>(c10::elementSize(type)));
  *sizes = new (std::nothrow) int64_t[room.size()];
  if (*sizes == nullptr) return 200000;
  std::copy(room.begin(), room.end(), *sizes);
  *dimensions = room.size();
  *actual = format;
  return 0;
}

OPERATOR(aclnnNpuFormatCast, (Tensor tensor, Out out), out = tensor)
