// How much boxes overlap: intersection over union (iou) or over the second box (iof), and losses made of it.
#include <ATen/Functions.h>

#include <numbers>

#include "aclop.h"
#include "wide.h"

using namespace unify::operators;

namespace {

// Corners of boxes [4, N], each [N].
struct Boxes {
  Tensor left, top, right, bottom;

  [[nodiscard]] Tensor width() const { return right - left; }
  [[nodiscard]] Tensor height() const { return bottom - top; }
};

// rows: [4, N]: corners, or centres and sizes.
Boxes boxes_of(const Tensor& rows, bool is_centred) {
  const Tensors parts = wide(rows).unbind(0);
  if (!is_centred) return {parts[0], parts[1], parts[2], parts[3]};
  const Tensor half_width = parts[2] / 2, half_height = parts[3] / 2;
  return {parts[0] - half_width, parts[1] - half_height, parts[0] + half_width, parts[1] + half_height};
}

// Each of the second with each of the first.
Boxes as_rows(const Boxes& boxes) {
  return {boxes.left.unsqueeze(1), boxes.top.unsqueeze(1), boxes.right.unsqueeze(1), boxes.bottom.unsqueeze(1)};
}

Tensor intersection(const Boxes& one, const Boxes& other, double eps = 0) {
  const Tensor width = at::minimum(one.right, other.right) - at::maximum(one.left, other.left) + eps;
  const Tensor height = at::minimum(one.bottom, other.bottom) - at::maximum(one.top, other.top) + eps;
  return width.clamp_min(0) * height.clamp_min(0);
}

// eps: added to widths and heights, so that nothing is divided by 0.
Tensor overlap(const Boxes& one, const Boxes& other, const std::string& mode, double eps, const Tensor& common) {
  TORCH_CHECK(mode == "iou" || mode == "iof", "mode ", mode, " is neither iou nor iof.");
  const auto area = [&](const Boxes& boxes) { return (boxes.width() + eps) * (boxes.height() + eps); };
  const Tensor second = area(other);
  return common / (mode == "iof" ? second : area(one) + second - common);
}
Tensor overlap(const Boxes& one, const Boxes& other, const std::string& mode) {
  return overlap(one, other, mode, 0, intersection(one, other));
}

// Of the smallest box around two.
Boxes around(const Boxes& one, const Boxes& other) {
  return {at::minimum(one.left, other.left), at::minimum(one.top, other.top), at::maximum(one.right, other.right),
          at::maximum(one.bottom, other.bottom)};
}

Tensor between_centres(const Boxes& one, const Boxes& other) {
  const Tensor across = (one.left + one.right - other.left - other.right) / 2;
  const Tensor down = (one.top + one.bottom - other.top - other.bottom) / 2;
  const Boxes whole = around(one, other);
  return (at::square(across) + at::square(down)) / (at::square(whole.width()) + at::square(whole.height()));
}

struct Pair {
  Boxes one, other;
};

Pair pair_of(const Tensor& one, const Tensor& other, bool is_centred, bool is_cross) {
  const Boxes second = boxes_of(other, is_centred);
  return {boxes_of(one, is_centred), is_cross ? as_rows(second) : second};
}
Pair pair_of(const Tensor& one, const Tensor& other, const Attributes& with) {
  return pair_of(one, other, with.get<bool>("trans", false), with.get<bool>("is_cross", true));
}

Tensor giou(const Pair& boxes, const std::string& mode) {
  const Boxes whole = around(boxes.one, boxes.other);
  const Tensor area = whole.width() * whole.height(), common = intersection(boxes.one, boxes.other);
  const Tensor both = boxes.one.width() * boxes.one.height() + boxes.other.width() * boxes.other.height() - common;
  return overlap(boxes.one, boxes.other, mode) - (area - both) / area;
}

void ciou(const Pair& boxes, const std::string& mode, const Out& out, const Out& out_angle) {
  const Tensor angle =
      at::atan(boxes.other.width() / boxes.other.height()) - at::atan(boxes.one.width() / boxes.one.height());
  const Tensor shape = at::square(angle) * (4 / (std::numbers::pi * std::numbers::pi));
  const Tensor iou = overlap(boxes.one, boxes.other, mode);
  write_reshaped(iou - between_centres(boxes.one, boxes.other) - shape * shape / (1 - iou + shape), out);
  write_reshaped(angle, out_angle);
}

}  // namespace

// boxes: [M, 4] and [N, 4]; out: [M, N], or [M, 1] of those at the same place. What they have in common has its eps
// too.
OPERATOR(aclnnIou, (Tensor one, Tensor other, std::string mode, float eps, bool is_aligned, Out out),
         const Boxes all = boxes_of(one.t(), false), first = is_aligned ? all : as_rows(all);
         const Boxes second = boxes_of(other.t(), false);
         write_reshaped(overlap(first, second, mode, eps, intersection(first, second, eps)), out))
OPERATOR(aclnnCIoU, (Tensor one, Tensor other, bool is_centred, bool is_cross, std::string mode, Out out, Out angle),
         TORCH_CHECK(!is_cross, "isCross is not supported by the chip.");
         TORCH_CHECK(one.size(1) % 1024 == 0, "bBoxes are ", one.size(1), ", which is no multiple of 1024.");
         ciou(pair_of(one, other, is_centred, false), mode, out, angle))

// out: [N, M]. Unlike the newer operator's, what they have in common has no eps.
ACLOP(Iou, (Tensor one, Tensor other, const Attributes& with, Out out), const Boxes first = boxes_of(one.t(), false);
      const Boxes second = as_rows(boxes_of(other.t(), false));
      out = overlap(first, second, with.get<std::string>("mode", "iou"), with.get<double>("eps", 1.0),
                    intersection(first, second)))
ACLOP(CIoU, (Tensor one, Tensor other, const Attributes& with, Out out, Out angle),
      ciou(pair_of(one, other, with), with.get<std::string>("mode", "iou"), out, angle))
ACLOP(GIoU, (Tensor one, Tensor other, const Attributes& with, Out out),
      write_reshaped(giou(pair_of(one, other, with), with.get<std::string>("mode", "iou")), out))
ACLOP(DIoU, (Tensor one, Tensor other, const Attributes& with, Out out), const Pair boxes = pair_of(one, other, with);
      write_reshaped(overlap(boxes.one, boxes.other, with.get<std::string>("mode", "iou")) -
                         between_centres(boxes.one, boxes.other),
                     out))
