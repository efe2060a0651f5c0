// Time of the kernels of a step, each as a chain of nodes in a graph over warm data:
//   kernel_bench_cuda <t5-small|t5-base|t5-large|t5-3b> <fp32|fp16|bf16> <batch> <tokens a sequence>
// One JSON line for each: microseconds a node.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include <t5zero/cli/program.hpp>
#include <t5zero/cuda.hpp>

#include "arguments.hpp"
#include "graph_timer.hpp"

namespace {

using namespace t5zero;  // NOLINT(google-build-using-namespace)
using cuda::check;

/// Device memory handed out piece by piece, filled with small random numbers.
class playground {
 public:
  explicit playground(index_t bytes) : bytes_(bytes) {
    check(cudaMalloc(&data_, static_cast<std::size_t>(bytes)));
    check(cudaMemset(data_, 0, static_cast<std::size_t>(bytes)));
  }
  template <class U>
  U* take(index_t count) {
    U* const result = reinterpret_cast<U*>(static_cast<std::byte*>(data_) + used_);
    used_ += round_up(count * static_cast<index_t>(sizeof(U)), 256);
    if (used_ > bytes_) {
      throw input_error("these sizes take more than the " + std::to_string(bytes_) +
                        " bytes that this benchmark allocates: give it a smaller batch or fewer tokens");
    }
    if constexpr (element<U>) {
      std::vector<U> values(static_cast<std::size_t>(count));
      for (U& value : values)
        value = static_cast<U>(
            (static_cast<float>((state_ = state_ * 1664525U + 1013904223U) >> 8) * 0x1p-24F - 0.5F) * 0.1F);
      check(cudaMemcpy(result, values.data(), values.size() * sizeof(U), cudaMemcpyHostToDevice));
    }
    return result;
  }
  template <class U>
  matrix_view<U> matrix(index_t rows, index_t cols) {
    return {take<U>(rows * cols), rows, cols};
  }
  template <class U>
  U* upload(const std::vector<U>& values) {
    U* const result = take<U>(static_cast<index_t>(values.size()));
    check(cudaMemcpy(result, values.data(), values.size() * sizeof(U), cudaMemcpyHostToDevice));
    return result;
  }

 private:
  void* data_ = nullptr;
  index_t bytes_ = 0;
  index_t used_ = 0;
  unsigned state_ = 1;
};

void measure(cuda::execution& e, const char* name, const std::function<void()>& submit) {
  constexpr int repeats = 50;
  const float milliseconds =
      t5zero_bench::time_in_graph(e.stream(), repeats, /*rounds=*/20, [&](int) { submit(); });
  std::printf("{\"kernel\": \"%s\", \"us\": %.2f}\n", name,
              static_cast<double>(milliseconds) * 1e3 / repeats);
  std::fflush(stdout);
}

template <element T>
void measure_kernels(const model_shape& shape, index_t batch, index_t length) {
  using ops = cuda::operations<T>;
  cuda::device device({});
  playground memory(index_t{3} << 30);
  const index_t workspace = index_t{64} << 20;
  const index_t scratch = cuda::workspace_division::of_main(workspace).total_bytes();
  device.set_workspace(memory.take<std::byte>(scratch), scratch);
  cuda::execution& e = device.main();
  const index_t n = batch * length;
  const index_t d = shape.d_model;
  const index_t inner = shape.inner_dim();
  const index_t f = shape.d_ff;
  std::vector<index_t> offsets;
  std::vector<std::uint32_t> rows;
  std::vector<std::uint32_t> positions;
  for (index_t b = 0; b <= batch; ++b) offsets.push_back(b * length);
  for (index_t t = 0; t < n; ++t) {
    rows.push_back(static_cast<std::uint32_t>(t / length));
    positions.push_back(static_cast<std::uint32_t>(t % length));
  }
  const ragged_view tokens{
      memory.upload(offsets), memory.upload(rows), memory.upload(positions), batch, n, length};
  const dropout_site dropout{0.1F, 42, 5, memory.upload(std::vector<std::uint32_t>{3})};
  const auto x = memory.matrix<float>(n, d);
  const auto branch = memory.matrix<float>(n, d);
  const auto out = memory.matrix<float>(n, d);
  const auto norm = vector_view<const T>{memory.take<T>(d), d};
  const auto inverse = vector_view<float>{memory.take<float>(n), n};
  const auto normed = memory.matrix<T>(n, d);
  const auto qkv = memory.matrix<T>(3 * inner, d);
  const auto o = memory.matrix<T>(d, inner);
  const auto wi = memory.matrix<T>(f, d);
  const auto wo = memory.matrix<T>(d, f);
  const auto projected = memory.matrix<T>(n, 3 * inner);
  const auto grad_projected = memory.matrix<T>(n, 3 * inner);
  const auto context = memory.matrix<T>(n, inner);
  const auto grad_context = memory.matrix<T>(n, inner);
  const auto lse = memory.matrix<float>(n, shape.n_heads);
  const auto hidden = memory.matrix<T>(n, f);
  const auto grad_hidden = memory.matrix<T>(n, f);
  const auto bias = memory.take<T>(32 * shape.n_heads);
  const auto grad_bias = memory.matrix<float>(32, shape.n_heads);
  attention_inputs<T> in;
  in.query = projected.column_block(0, inner);
  in.key = projected.column_block(inner, inner);
  in.value = projected.column_block(2 * inner, inner);
  in.relative_bias = bias;
  in.n_heads = shape.n_heads;
  in.d_kv = shape.d_kv;
  in.queries = in.keys = tokens;
  in.dropout = dropout;
  attention_inputs<T> cross = in;
  cross.relative_bias = nullptr;
  attention_inputs<T> causal = in;
  causal.mask = attention_mask::causal;

  measure(e, "rms_norm_forward", [&] { ops::rms_norm_forward(e, x, norm, 1e-6F, normed, inverse); });
  measure(e, "residual_dropout_add", [&] { ops::residual_dropout_add(e, x, branch, dropout, tokens, out); });
  measure(e, "attention_forward", [&] { ops::attention_forward(e, in, context, lse); });
  measure(e, "attention_forward, causal", [&] { ops::attention_forward(e, causal, context, lse); });
  measure(e, "attention_forward, cross", [&] { ops::attention_forward(e, cross, context, lse); });
  const auto backward = [&](const attention_inputs<T>& inputs) {
    ops::attention_backward(e, inputs, context, lse, grad_context, grad_projected.column_block(0, inner),
                            grad_projected.column_block(inner, inner),
                            grad_projected.column_block(2 * inner, inner),
                            inputs.relative_bias != nullptr ? grad_bias : matrix_view<float>{});
  };
  measure(e, "attention_backward", [&] { backward(in); });
  measure(e, "attention_backward, causal", [&] { backward(causal); });
  measure(e, "attention_backward, cross", [&] { backward(cross); });
  const auto grad_norm = gradient_view{memory.take<float>(d), dtype::f32, gradient_mode::overwrite, 1, d};
  measure(e, "rms_norm_backward", [&] { ops::rms_norm_backward(e, x, x, norm, inverse, out, grad_norm); });
  measure(e, "rms_norm_dropout_backward", [&] {
    ops::rms_norm_dropout_backward(e, x, x, norm, inverse, out, grad_norm, dropout, tokens, normed);
  });
  measure(e, "relu_gradient_matmul",
          [&] { ops::relu_gradient_matmul(e, normed, wo, hidden, dropout, grad_hidden); });
  measure(e, "matmul qkv",
          [&] { ops::template matmul<T, T, T>(e, transpose::no, normed, transpose::yes, qkv, projected); });
  measure(e, "matmul wo",
          [&] { ops::template matmul<T, T, float>(e, transpose::no, hidden, transpose::yes, wo, out); });
  if constexpr (sizeof(T) == 2) {
    const auto gradient = memory.matrix<float>(n, d);
    for (const cuda::launch_overlap overlap : {cuda::launch_overlap::none, cuda::launch_overlap::previous}) {
      const bool over = overlap == cuda::launch_overlap::previous;
      measure(e, over ? "norm_matmul qkv, overlapped" : "norm_matmul qkv", [&] {
        cuda::norm_matmul<T>(e, {.x = x,
                                 .norm_weight = norm,
                                 .epsilon = 1e-6F,
                                 .weight = qkv,
                                 .y = projected,
                                 .inverse_rms = inverse,
                                 .overlap = overlap});
      });
      measure(e, over ? "norm_matmul wi relu, overlapped" : "norm_matmul wi relu", [&] {
        cuda::norm_matmul<T>(e, {.x = x,
                                 .norm_weight = norm,
                                 .epsilon = 1e-6F,
                                 .weight = wi,
                                 .y = hidden,
                                 .inverse_rms = inverse,
                                 .relu = true,
                                 .dropout = dropout,
                                 .tokens = tokens,
                                 .overlap = overlap});
      });
      measure(e, over ? "matmul_residual o, overlapped" : "matmul_residual o", [&] {
        cuda::matmul_residual<T>(e, {.a = context,
                                     .weight = o,
                                     .x = x,
                                     .out = out,
                                     .dropout = dropout,
                                     .tokens = tokens,
                                     .overlap = overlap});
      });
      measure(e, over ? "matmul_residual wo, overlapped" : "matmul_residual wo", [&] {
        cuda::matmul_residual<T>(e, {.a = hidden,
                                     .weight = wo,
                                     .x = x,
                                     .out = out,
                                     .dropout = dropout,
                                     .tokens = tokens,
                                     .overlap = overlap});
      });
      measure(e, over ? "grad_matmul wo relu, overlapped" : "grad_matmul wo relu", [&] {
        cuda::grad_matmul<T>(e, {.grad = x,
                                 .grad_normed = out,
                                 .x = x,
                                 .norm_weight = norm,
                                 .inverse_rms = inverse,
                                 .gradient = gradient,
                                 .dropout = dropout,
                                 .tokens = tokens,
                                 .dropped = normed,
                                 .weight = wo,
                                 .activated = hidden,
                                 .activated_dropout = dropout,
                                 .y = grad_hidden,
                                 .overlap = overlap});
      });
      measure(e, over ? "plain_matmul wi, overlapped" : "plain_matmul wi", [&] {
        cuda::plain_matmul<T>(e, {.a = grad_hidden, .weight = wi, .y = out, .overlap = overlap});
      });
      measure(e, over ? "plain_matmul qkv, overlapped" : "plain_matmul qkv", [&] {
        cuda::plain_matmul<T>(e, {.a = grad_projected, .weight = qkv, .y = out, .overlap = overlap});
      });
    }
    const auto grad_wi = memory.matrix<T>(f, d);
    const auto grad_wo = memory.matrix<T>(d, f);
    measure(e, "weight_gradients wo, wi", [&] {
      cuda::weight_gradients_arguments<T> arguments;
      arguments.products[0] = {normed, hidden, {grad_wo.data, dtype_of<T>, gradient_mode::overwrite, d, f}};
      arguments.products[1] = {
          grad_hidden, normed, {grad_wi.data, dtype_of<T>, gradient_mode::overwrite, f, d}};
      cuda::weight_gradients<T>(e, arguments);
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
  return cli::report_errors(argv[0], [&] {
    const t5zero_bench::arguments given(
        argc, argv, 5, "<t5-small|t5-base|t5-large|t5-3b> <fp32|fp16|bf16> <batch> <tokens a sequence>");
    const model_shape shape = given.shape(1);
    const std::string precision = given.one_of(2, "precision", {"fp32", "fp16", "bf16"});
    const index_t batch = given.positive(3, "batch");
    const index_t length = given.positive(4, "tokens a sequence");
    t5zero_bench::require_device<cuda::backend>();
    if (precision == "fp16")
      measure_kernels<float16>(shape, batch, length);
    else if (precision == "bf16")
      measure_kernels<bfloat16>(shape, batch, length);
    else
      measure_kernels<float>(shape, batch, length);
    return 0;
  });
}
