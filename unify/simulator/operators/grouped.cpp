// What operators on groups of rows share.
#include "grouped.h"

#include <ATen/Functions.h>

namespace unify::operators {

std::vector<Group> groups_of(const Tensor& list, int64_t type, int64_t rows) {
  TORCH_CHECK(type == kEnds || type == kCounts || type == kPairs, "groupListType is ", type, ", not 0 to 2.");
  if (list.is_meta()) throw ValuesNeeded();
  const Tensor numbers = list.to(ScalarType::Long).contiguous();
  const int64_t* values = numbers.const_data_ptr<int64_t>();
  const int64_t step = type == kPairs ? 2 : 1;
  std::vector<Group> groups;
  int64_t begin = 0;
  for (int64_t i = 0; i < numbers.numel() / step; ++i) {
    const int64_t value = values[step * i + step - 1];
    const int64_t end = type == kEnds ? value : begin + value;
    TORCH_CHECK(end >= begin, "group ", i, " has ", end - begin, " rows.");
    TORCH_CHECK(end <= rows, "group ", i, " ends at row ", end, " of ", rows, ".");
    groups.push_back({type == kPairs ? values[2 * i] : i, begin, end});
    begin = end;
  }
  return groups;
}

Tensor experts_of(const std::vector<Group>& groups, int64_t rows) {
  TORCH_CHECK(!groups.empty(), "a list of no groups.");
  Tensor experts = at::full({rows}, groups.back().expert, ScalarType::Long);
  for (const auto& [expert, begin, end] : groups) experts.slice(0, begin, end).fill_(expert);
  return experts;
}

optional<Tensor> part_of(const optional<Tensor>& tensor, int64_t expert) {
  if (!tensor.has_value()) return std::nullopt;
  TORCH_CHECK(expert >= 0 && expert < tensor->size(0), "expert ", expert, " of ", tensor->size(0), ".");
  return tensor->select(0, expert);
}

optional<Tensor> part_of(const Tensors& tensors, int64_t expert) {
  if (tensors.empty()) return std::nullopt;
  if (tensors.size() == 1 && tensors[0].dim() > 1) return part_of(optional<Tensor>(tensors[0]), expert);
  return tensors.at(static_cast<size_t>(expert));
}

Tensor grouped_product(const GroupedProduct& given, const std::vector<Group>& groups) {
  Tensor result;
  for (const auto& [expert, begin, end] : groups) {
    QuantizedProduct each;
    each.x = given.x.slice(0, begin, end);
    each.weight = given.weight.select(0, expert);
    if (given.x_scale.has_value()) each.x_scale = given.x_scale->slice(0, begin, end);
    each.weight_scale = part_of(given.weight_scale, expert);
    each.offset = part_of(given.offset, expert);
    each.assist = part_of(given.assist, expert);
    const Tensor rows = product(each);
    if (!result.defined()) result = at::zeros({given.x.size(0), rows.size(1)}, rows.options());
    result.slice(0, begin, end).copy_(rows);
  }
  TORCH_CHECK(result.defined(), "a list of no groups.");
  return result;
}

}  // namespace unify::operators
