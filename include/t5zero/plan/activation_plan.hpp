// Where each activation of a step stands in the arena, for ragged batches of at most the planned tokens.
//
// Saved from forward to backward: the fp32 residual stream before each sublayer, the inverse RMS of each
// norm, q, k, v, the context and the log-sum-exp of each attention, the hidden layer of each feed-forward,
// and the encoder's output with its cross-attention k, v. Everything else (normed inputs, dropout masks,
// attention probabilities) is computed again. Buffers that live within one sublayer are shared by all
// sublayers; the head's logits, which live between forward and backward, share the same bytes. Training that
// recomputes activations saves the stream before each layer alone and computes a layer again before its
// backward: one state of each kind serves all layers. In evaluation nothing is saved: sublayers take two
// streams in turn, and one state of each kind.
#pragma once

#include <cstdint>

#include <t5zero/core/integers.hpp>
#include <t5zero/plan/batch_shape.hpp>
#include <t5zero/policy/model_size.hpp>
#include <t5zero/tensor/slice.hpp>

namespace t5zero {

/// Saved by a self- or cross-attention: one slice for each layer.
struct attention_slices {
  slice_array inverse_rms;  ///< float [tokens]
  slice_array projected;  ///< param [tokens, 3 * inner_dim] (self: q, k, v) or [tokens, inner_dim] (cross: q)
  slice_array context;    ///< param [tokens, inner_dim]
  slice_array log_sum_exp;  ///< float [tokens, n_heads]
};

struct feed_forward_slices {
  slice_array inverse_rms;  ///< float [tokens]
  slice_array
      hidden;  ///< param [tokens, d_ff] (relu, after dropout) or [tokens, 2 * d_ff] (gated, before gelu)
};

struct activation_plan {
  bool recomputes = false;  ///< streams are those before each layer; inner_stream is within the layer at hand
  slice_array
      encoder_stream;  ///< float [source_tokens, d_model]: before each sublayer, and the last one's output
  slice_array encoder_inner_stream;  ///< float [source_tokens, d_model]; empty unless recomputes
  attention_slices encoder_attention;
  feed_forward_slices encoder_feed_forward;
  slice encoder_final_inverse_rms;  ///< float [source_tokens]
  slice encoder_output;             ///< param [source_tokens, d_model]
  slice cross_key_value;            ///< param [source_tokens, n_decoder_layers * 2 * inner_dim]

  slice_array decoder_stream;        ///< float [target_tokens, d_model]
  slice_array decoder_inner_stream;  ///< float [target_tokens, d_model]; empty unless recomputes
  attention_slices decoder_attention;
  attention_slices cross_attention;
  feed_forward_slices decoder_feed_forward;
  slice decoder_final_inverse_rms;  ///< float [target_tokens]
  slice decoder_output;             ///< param [target_tokens, d_model]

  // Alive from the head's backward to the end of the stack it belongs to.
  slice_array grad_stream;     ///< float [T, d_model], T = max(source, target) tokens; with several sets, two
  slice grad_output;           ///< float [T, d_model]: of the decoder's output, later of the encoder's
  slice grad_cross_key_value;  ///< param, as cross_key_value

  // Alive within one sublayer; T = max(source, target) tokens. Those that gradients of weights are computed
  // from, perhaps beside the next sublayer, are there in several sets.
  slice_array normed;  ///< param [T, d_model]
  slice_array branch;  ///< float [T, d_model]: a sublayer's output before it joins the stream; those after
                       ///< the first: gradients of norms, which the next sublayer adds
  slice_array grad_branch;     ///< param [T, d_model]
  slice_array grad_projected;  ///< param [T, 3 * inner_dim]
  slice grad_context;          ///< param [T, inner_dim]
  slice_array activated;       ///< param [T, d_ff]: gated only
  slice grad_activated;        ///< param [T, d_ff]: gated only
  slice_array grad_hidden;     ///< param [T, d_ff] or [T, 2 * d_ff]

  // Alive within the head, which runs on chunks of target tokens.
  index_t head_chunk = 0;  ///< target tokens at a time
  slice logits;            ///< float [head_chunk, vocab_size]
  slice grad_logits;  ///< param [head_chunk, vocab_size]; empty in fp32, where logits become their gradient
  slice row_loss;     ///< double [target_tokens, 2]

  index_t bytes = 0;  ///< of all of the above
};

/// Tokens whose logits exist at a time: enough for the matmul to be bound by arithmetic, not by reading the
/// head's weights again for each chunk.
inline constexpr index_t head_chunk_tokens = 256;

/// What the activations are for.
enum class activation_use : std::uint8_t { training, recomputed_training, evaluation };

/// Lays the activations out. `param_bytes`: of one stored element (4 or 2). `scratch_sets`: how many
/// sublayers may have buffers in use at a time; with one the head's logits share their bytes.
constexpr activation_plan plan_activations(const model_shape& shape, const batch_shape& batch,
                                           activation_use use, index_t param_bytes, index_t scratch_sets,
                                           slice_builder& builder) {
  const bool trains = use != activation_use::evaluation;
  const bool keeps_all = use == activation_use::training;
  const index_t start = builder.position();
  const index_t d = shape.d_model;
  const index_t inner = shape.inner_dim();
  const index_t source = batch.source_tokens;
  const index_t target = batch.target_tokens;
  const index_t both = source > target ? source : target;
  const index_t n_encoder = shape.n_encoder_layers;
  const index_t n_decoder = shape.n_decoder_layers;
  const index_t hidden = shape.gated() ? 2 * shape.d_ff : shape.d_ff;

  activation_plan plan;
  plan.recomputes = use == activation_use::recomputed_training;
  auto attention = [&](index_t all_layers, index_t tokens, index_t projected) {
    const index_t layers = keeps_all ? all_layers : 1;
    attention_slices slices;
    // The gradient of a layer's first norm is left to the layer before, whose forward is recomputed until
    // then.
    const index_t norms = plan.recomputes && all_layers > 1 ? 2 : layers;
    slices.inverse_rms = builder.take_array(norms, tokens * 4);
    slices.projected = builder.take_array(layers, tokens * projected * param_bytes);
    slices.context = builder.take_array(layers, tokens * inner * param_bytes);
    slices.log_sum_exp = builder.take_array(layers, tokens * shape.n_heads * 4);
    return slices;
  };
  auto feed_forward = [&](index_t all_layers, index_t tokens) {
    const index_t layers = keeps_all ? all_layers : 1;
    feed_forward_slices slices;
    slices.inverse_rms = builder.take_array(layers, tokens * 4);
    slices.hidden = builder.take_array(layers, tokens * hidden * param_bytes);
    return slices;
  };

  const auto streams = [&](index_t layers, index_t sublayers) {
    return plan.recomputes ? layers + 1 : keeps_all ? layers * sublayers + 1 : 2;
  };
  plan.encoder_stream = builder.take_array(streams(n_encoder, 2), source * d * 4);
  plan.encoder_inner_stream = builder.take_array(1, plan.recomputes ? source * d * 4 : 0);
  plan.encoder_attention = attention(n_encoder, source, 3 * inner);
  plan.encoder_feed_forward = feed_forward(n_encoder, source);
  plan.encoder_final_inverse_rms = builder.take(source * 4);
  plan.encoder_output = builder.take(source * d * param_bytes);
  plan.cross_key_value = builder.take(source * n_decoder * 2 * inner * param_bytes);

  plan.decoder_stream = builder.take_array(streams(n_decoder, 3), target * d * 4);
  plan.decoder_inner_stream = builder.take_array(2, plan.recomputes ? target * d * 4 : 0);
  plan.decoder_attention = attention(n_decoder, target, 3 * inner);
  plan.cross_attention = attention(n_decoder, target, inner);
  plan.decoder_feed_forward = feed_forward(n_decoder, target);
  plan.decoder_final_inverse_rms = builder.take(target * 4);
  plan.decoder_output = builder.take(target * d * param_bytes);

  const index_t grad_tokens = trains ? both : 0;  // evaluation has no gradients
  const index_t sets = trains ? scratch_sets : 1;
  plan.grad_stream = builder.take_array(sets > 1 ? 2 : 1, grad_tokens * d * 4);
  plan.grad_output = builder.take(grad_tokens * d * 4);
  plan.grad_cross_key_value = builder.take((trains ? source : 0) * n_decoder * 2 * inner * param_bytes);
  plan.row_loss = builder.take(target * 2 * 8);

  const index_t shared = builder.position();
  plan.normed = builder.take_array(sets, both * d * param_bytes);
  plan.branch = builder.take_array(trains ? sets + 1 : 1, both * d * 4);
  plan.grad_branch = builder.take_array(sets, grad_tokens * d * param_bytes);
  plan.grad_projected = builder.take_array(sets, grad_tokens * 3 * inner * param_bytes);
  plan.grad_context = builder.take(grad_tokens * inner * param_bytes);
  plan.activated = builder.take_array(sets, shape.gated() ? both * shape.d_ff * param_bytes : 0);
  plan.grad_activated = builder.take(shape.gated() ? grad_tokens * shape.d_ff * param_bytes : 0);
  plan.grad_hidden = builder.take_array(sets, grad_tokens * hidden * param_bytes);
  if (sets == 1) builder.rewind(shared);
  plan.head_chunk = target < head_chunk_tokens ? target : head_chunk_tokens;
  plan.logits = builder.take(plan.head_chunk * shape.vocab_size * 4);
  plan.grad_logits =
      builder.take(param_bytes == 4 || !trains ? 0 : plan.head_chunk * shape.vocab_size * param_bytes);
  builder.skip_to_high_water();
  plan.bytes = builder.position() - start;
  return plan;
}

}  // namespace t5zero
