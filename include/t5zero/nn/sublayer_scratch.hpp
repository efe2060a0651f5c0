// Buffers that live within one sublayer; all sublayers of a step use the same bytes, or take a few sets in
// turn.
#pragma once

#include <cstddef>

#include <t5zero/backend/backend.hpp>
#include <t5zero/core/dtype.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/plan/activation_plan.hpp>
#include <t5zero/policy/model_size.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::nn {

/// Views of the scratch slices of an activation plan, as wide as asked, for batches up to the planned tokens.
template <element T>
class sublayer_scratch {
 public:
  sublayer_scratch(std::byte* arena, const activation_plan& plan, const model_shape& shape)
      : arena_(arena), plan_(&plan), shape_(&shape) {}

  /// The set of a sublayer whose weights' gradients run on `branch`.
  [[nodiscard]] sublayer_scratch of(branch_of branch) const {
    sublayer_scratch result = *this;
    result.set_ = static_cast<index_t>(branch);
    return result;
  }
  /// [tokens, d_model]: the gradient of `normed`, which waits for the next sublayer to add it. In no set.
  [[nodiscard]] matrix_view<float> pending_grad_normed(index_t tokens) const {
    return grad_normed(1, tokens);
  }
  /// The same of one of several sublayers in turn, whose weights' gradients read it later; of turn 0 the
  /// bytes of `branch`.
  [[nodiscard]] matrix_view<float> grad_normed(index_t turn, index_t tokens) const {
    return view<float>(plan_->branch[turn], tokens, shape_->d_model);
  }

  /// [tokens, d_model]: the normed input of a sublayer's first matmul.
  [[nodiscard]] matrix_view<T> normed(index_t tokens) const {
    return view<T>(plan_->normed[set_], tokens, shape_->d_model);
  }
  /// [tokens, d_model]: a sublayer's output before the residual add.
  [[nodiscard]] matrix_view<float> branch(index_t tokens) const {
    return view<float>(plan_->branch[0], tokens, shape_->d_model);
  }
  [[nodiscard]] matrix_view<T> grad_branch(index_t tokens) const {
    return view<T>(plan_->grad_branch[set_], tokens, shape_->d_model);
  }
  /// [tokens, cols]: cols is 3 * inner_dim for q, k, v and inner_dim for the q of a cross-attention.
  [[nodiscard]] matrix_view<T> grad_projected(index_t tokens, index_t cols) const {
    return view<T>(plan_->grad_projected[set_], tokens, cols);
  }
  [[nodiscard]] matrix_view<T> grad_context(index_t tokens) const {
    return view<T>(plan_->grad_context, tokens, shape_->inner_dim());
  }
  /// [tokens, d_ff], gated only: gelu(gate) * linear after dropout.
  [[nodiscard]] matrix_view<T> activated(index_t tokens) const {
    return view<T>(plan_->activated[set_], tokens, shape_->d_ff);
  }
  [[nodiscard]] matrix_view<T> grad_activated(index_t tokens) const {
    return view<T>(plan_->grad_activated, tokens, shape_->d_ff);
  }
  /// [tokens, d_ff], gated: [tokens, 2 * d_ff].
  [[nodiscard]] matrix_view<T> grad_hidden(index_t tokens) const {
    return view<T>(plan_->grad_hidden[set_], tokens, shape_->gated() ? 2 * shape_->d_ff : shape_->d_ff);
  }
  /// [tokens, vocab_size], tokens at most plan.head_chunk.
  [[nodiscard]] matrix_view<float> logits(index_t tokens) const {
    return view<float>(plan_->logits, tokens, shape_->vocab_size);
  }
  /// The gradient of `logits` as a matmul reads it; in fp32 the same memory.
  [[nodiscard]] matrix_view<T> grad_logits(index_t tokens) const {
    if constexpr (sizeof(T) == sizeof(float))
      return logits(tokens);
    else
      return view<T>(plan_->grad_logits, tokens, shape_->vocab_size);
  }
  [[nodiscard]] index_t head_chunk() const { return plan_->head_chunk; }

 private:
  template <class U>
  [[nodiscard]] matrix_view<U> view(slice where, index_t rows, index_t cols) const {
    require(rows * cols * static_cast<index_t>(sizeof(U)) <= where.bytes,
            "sublayer_scratch: the batch has more tokens than were planned");
    return {reinterpret_cast<U*>(arena_ + where.offset), rows, cols};
  }

  std::byte* arena_;
  const activation_plan* plan_;
  const model_shape* shape_;
  index_t set_ = 0;
};

}  // namespace t5zero::nn
