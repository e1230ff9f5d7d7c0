// What the vendor's attention operators share: of any layout, softmax(mask(scale * (q k^T + pse))) v.
#pragma once

#include "wide.h"

namespace unify::operators {

struct AttentionOptions {
  double scale = 1;
  double keep_prob = 1;
  int64_t before = 0, after = 0;  // how far a query sees, in sparse mode 4
  int64_t heads = 0;              // of the queries
  std::string layout;             // BSH, SBH, BSND, BNSD or TND
  int64_t sparse_mode = 0;
};

// Of one batch or several of one length: q [B, N, Sq, D], k and v [B, Nkv, Skv, D].
struct AttentionInputs {
  Tensor query, key, value;
  optional<Tensor> pse;   // added to the scores
  optional<Tensor> drop;  // a bit for each score: whether it is kept
  optional<Tensor> mask;  // true: not seen
  optional<Tensor> sink;  // [N]: a score with no value
};

struct AttentionScores {
  Tensor shares;      // of the values, [B, N, Sq, Skv], before dropout
  Tensor largest;     // [B, N, Sq, 1]
  Tensor sum;         // of the exponentials, likewise
  Tensor sink_share;  // likewise, undefined if there is no sink
};

struct AttentionGradients {
  Tensor query, key, value, pse, sink;
};

AttentionScores attention_scores(const AttentionInputs& inputs, const AttentionOptions& options);
Tensor attention_result(const AttentionInputs& inputs, const AttentionScores& scores, const AttentionOptions& options);
AttentionGradients attention_backward(const AttentionInputs& inputs, const AttentionScores& scores, const Tensor& grad,
                                      const AttentionOptions& options);

// Where the vendor's operators want the gradients.
struct GradientOuts {
  Out query, key, value, pse, sink;
};

// Of one batch, in a layout other than TND. softmax_max and softmax_sum, where they are wanted, repeat each value.
void forward_padded(const AttentionInputs& given, const AttentionOptions& options, const Out& largest, const Out& sum,
                    const Out& out);
void backward_padded(const AttentionInputs& given, const Tensor& grad, const AttentionOptions& options,
                     const GradientOuts& outs);

// Of sequences one after the other, in the layout TND. ends: sums of the lengths.
void forward_tnd(const AttentionInputs& given, const Ints& query_ends, const Ints& key_ends,
                 const AttentionOptions& options, bool is_tnd_softmax, const Out& largest, const Out& sum,
                 const Out& out);
void backward_tnd(const AttentionInputs& given, const Tensor& grad, const Ints& query_ends, const Ints& key_ends,
                  const AttentionOptions& options, const GradientOuts& outs);
// The place of one sequence, [S, N, 8], in softmax_max or softmax_sum of TND, which are [T, N, 8] by their shape alone:
// by default each sequence's lie as [N, S, 8], one after the other.
Tensor statistics_of(const Tensor& whole, int64_t begin, int64_t end);

// Refuses what is not simulated.
bool is_tnd(const std::string& softmax_layout);
void refuse_rope(const optional<Tensor>& query_rope, const optional<Tensor>& key_rope);
AttentionOptions options_of(double scale, double keep_prob, int64_t before, int64_t after, int64_t heads,
                            const std::string& layout, int64_t sparse_mode, int64_t pse_type,
                            const optional<Tensor>& padding_mask, const optional<Ints>& prefix);
void refuse_starts(const optional<Ints>& query, const optional<Ints>& key);

// A tensor of a layout other than TND as [B, N, S, D], and back.
Tensor to_bnsd(const Tensor& tensor, const std::string& layout, int64_t heads);
Tensor from_bnsd(const Tensor& tensor, const std::string& layout);

}  // namespace unify::operators

// The most that a captured graph may need when its lengths change before a replay: the same call under another name.
#define ALSO_MAX_WORKSPACE(NAME)                                                                    \
  extern "C" {                                                                                      \
  __attribute__((visibility("default"), ifunc(#NAME "_prepare"))) void NAME##GetMaxWorkspaceSize(); \
  }
