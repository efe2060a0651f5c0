// The fused products of few tokens against the CPU's operations, one after another.
#include <t5zero/backend/cpu/operations.hpp>
#include <t5zero/backend/cuda/token_matmul.hpp>

#include <array>
#include <cmath>
#include <vector>

#include "backend/cuda/captured.hpp"
#include "backend/cuda/device_machine.hpp"
#include "backend/cuda/host_machine.hpp"
#include "catch.hpp"

namespace {

using namespace t5zero_test;
using t5zero::bfloat16;
using t5zero::float16;
using t5zero::gradient_mode;
using t5zero::transpose;
using t5zero::cuda::launch_overlap;

template <class T>
using cpu_operations = t5zero::cpu::operations<T>;

// Around the heights of tiles.
const std::vector<index_t> token_counts = under_sanitizer()
                                              ? std::vector<index_t>{1, 17, 65}
                                              : std::vector<index_t>{1, 15, 16, 17, 48, 63, 64, 65, 130};
// Runs that give the same bits.
const int runs_of_each = under_sanitizer() ? 1 : 2;
// {features of the result, depth}: t5-small and t5-base, odd multiples of 8, less than a tile.
using shape_list = std::vector<std::array<index_t, 2>>;
const shape_list computed_shapes = under_sanitizer()
                                       ? shape_list{{512, 512}, {1000, 520}, {8, 8}, {72, 1016}}
                                       : shape_list{{1536, 512}, {2048, 512}, {512, 512}, {3072, 768},
                                                    {1000, 520}, {8, 8},      {72, 1016}, {4096, 1024}};
// 1032 and 2056 are just beyond where another division of the depth begins; 4616 needs several pieces.
const shape_list copied_shapes =
    under_sanitizer() ? shape_list{{512, 512}, {8, 8}, {72, 1032}, {72, 2056}, {136, 4616}}
                      : shape_list{{512, 512}, {512, 2048}, {512, 1536}, {768, 3072},  {1000, 520},
                                   {8, 8},     {72, 1032},  {72, 2056},  {1024, 4096}, {136, 4616}};

/// Tokens of three sequences, one of them empty.
ragged_batch sequences(index_t tokens) {
  return ragged_batch({tokens / 3, 0, tokens - tokens / 3}, 5);
}

float deviation(index_t depth) {
  return 1.0F / std::sqrt(static_cast<float>(depth));
}

template <class U>
std::vector<U> zeros(index_t count) {
  return std::vector<U>(static_cast<std::size_t>(count));
}

/// Columns [first, first + count) of rows of `stride` elements.
template <class U>
std::vector<U> columns(const std::vector<U>& from, index_t stride, index_t first, index_t count) {
  std::vector<U> result;
  for (std::size_t row = 0; row < from.size(); row += static_cast<std::size_t>(stride)) {
    const auto begin = from.begin() + static_cast<std::ptrdiff_t>(row) + first;
    result.insert(result.end(), begin, begin + count);
  }
  return result;
}

}  // namespace

TEMPLATE_TEST_CASE("cuda: norm_matmul is the CPU's norm, matmul and relu", "[cuda]", float16, bfloat16) {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  const bool relu = GENERATE(false, true);
  const dropout_pair dropout(GENERATE(0.0F, 0.1F));
  if (!relu && dropout.host().active()) return;
  for (const auto& [features, depth] : computed_shapes) {
    const auto weight = random_elements<TestType>(features * depth, 1, deviation(depth));
    const auto norm_weight = random_elements<TestType>(depth, 2);
    const auto device_weight = on_device(weight);
    const auto device_norm_weight = on_device(norm_weight);
    for (const index_t tokens : token_counts) {
      CAPTURE(features, depth, tokens, relu, dropout.host().rate);
      const ragged_batch batch = sequences(tokens);
      const device_ragged_batch device_batch(batch);
      const auto x = random_elements(tokens * depth, 3, 2.0F);
      auto normed = zeros<TestType>(tokens * depth);
      auto inverse = zeros<float>(tokens);
      auto y = zeros<TestType>(tokens * features);
      cpu_operations<TestType>::rms_norm_forward(cpu.main(), {x.data(), tokens, depth},
                                                 {norm_weight.data(), depth}, 1e-6F,
                                                 {normed.data(), tokens, depth}, {inverse.data(), tokens});
      cpu_operations<TestType>::template matmul<TestType, TestType, TestType>(
          cpu.main(), transpose::no, {normed.data(), tokens, depth}, transpose::yes,
          {weight.data(), features, depth}, {y.data(), tokens, features});
      if (relu)
        cpu_operations<TestType>::relu_dropout_forward(cpu.main(), {y.data(), tokens, features},
                                                       dropout.host(), batch.view());

      const auto device_x = on_device(x);
      // A column block of a wider matrix, as queries are.
      const index_t stride = features + 24;
      std::vector<TestType> first;
      for (int run = 0; run < runs_of_each; ++run) {
        const device_array<TestType> device_normed(tokens * depth);
        const device_array<float> device_inverse(tokens);
        const device_array<TestType> device_y(tokens * stride);
        t5zero::cuda::norm_matmul<TestType>(gpu.main(), {.x = device_x.matrix(tokens, depth),
                                                         .norm_weight = device_norm_weight.vector(),
                                                         .epsilon = 1e-6F,
                                                         .weight = device_weight.matrix(features, depth),
                                                         .y = {device_y.data() + 8, tokens, features, stride},
                                                         .normed = device_normed.matrix(tokens, depth),
                                                         .inverse_rms = device_inverse.vector(),
                                                         .relu = relu,
                                                         .dropout = dropout.device(),
                                                         .tokens = device_batch.view()});
        const auto found = columns(device_y.download(), stride, 8, features);
        CHECK(largest_difference(found, y) < 2 * tolerance<TestType>);
        CHECK(largest_difference(device_normed.download(), normed) < tolerance<TestType>);
        CHECK(largest_difference(device_inverse.download(), inverse) < 2e-6);
        if (run == 1) CHECK(same_bits(found, first));
        first = found;
      }
    }
  }
}

TEMPLATE_TEST_CASE("cuda: matmul_residual is the CPU's matmul, dropout and sum", "[cuda]", float16,
                   bfloat16) {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  const dropout_pair dropout(GENERATE(0.0F, 0.1F));
  for (const auto& [features, depth] : copied_shapes) {
    const auto weight = random_elements<TestType>(features * depth, 1, deviation(depth));
    const auto device_weight = on_device(weight);
    for (const index_t tokens : token_counts) {
      CAPTURE(features, depth, tokens, dropout.host().rate);
      const ragged_batch batch = sequences(tokens);
      const device_ragged_batch device_batch(batch);
      const auto a = random_elements<TestType>(tokens * depth, 2);
      const auto x = random_elements(tokens * features, 3);
      auto product = zeros<float>(tokens * features);
      auto out = product;
      cpu_operations<TestType>::template matmul<TestType, TestType, float>(
          cpu.main(), transpose::no, {a.data(), tokens, depth}, transpose::yes,
          {weight.data(), features, depth}, {product.data(), tokens, features});
      cpu_operations<TestType>::residual_dropout_add(cpu.main(), {x.data(), tokens, features},
                                                     {product.data(), tokens, features}, dropout.host(),
                                                     batch.view(), {out.data(), tokens, features});

      const auto device_a = on_device(a);
      std::vector<float> first;
      for (int run = 0; run < 2; ++run) {
        const auto device_x = on_device(x);
        const device_array<float> other(tokens * features);
        const device_array<float>& to = run == 0 ? other : device_x;  // in place, too
        t5zero::cuda::matmul_residual<TestType>(gpu.main(), {.a = device_a.matrix(tokens, depth),
                                                             .weight = device_weight.matrix(features, depth),
                                                             .x = device_x.matrix(tokens, features),
                                                             .out = to.matrix(tokens, features),
                                                             .dropout = dropout.device(),
                                                             .tokens = device_batch.view()});
        const auto found = to.download();
        CHECK(largest_difference(found, out) < 1e-5);
        if (run == 1) CHECK(same_bits(found, first));
        first = found;
      }
    }
  }
}

TEMPLATE_TEST_CASE("cuda: grad_matmul is the CPU's norm backward, dropout, matmul and relu backward",
                   "[cuda]", float16, bfloat16) {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  const bool finishes = GENERATE(false, true);
  const bool relu = GENERATE(false, true);
  const dropout_pair dropout(GENERATE(0.0F, 0.1F));
  for (const auto& [features, depth] : computed_shapes) {
    const auto weight = random_elements<TestType>(depth * features, 1, deviation(depth));
    const auto norm_weight = random_elements<TestType>(depth, 2);
    const auto device_weight = on_device(weight);
    const auto device_norm_weight = on_device(norm_weight);
    for (const index_t tokens : token_counts) {
      CAPTURE(features, depth, tokens, finishes, relu, dropout.host().rate);
      const ragged_batch batch = sequences(tokens);
      const device_ragged_batch device_batch(batch);
      const auto grad = random_elements(tokens * depth, 3);
      const auto grad_normed = random_elements(tokens * depth, 4);
      const auto x = random_elements(tokens * depth, 5, 2.0F);
      auto inverse = random_elements(tokens, 6, 0.1F);
      for (float& value : inverse) value = 0.5F + value * value;
      const auto activated = random_elements<TestType>(tokens * features, 7);

      auto gradient = grad;
      auto ignored = zeros<float>(depth);
      if (finishes)
        cpu_operations<TestType>::rms_norm_backward(
            cpu.main(), {grad_normed.data(), tokens, depth}, {x.data(), tokens, depth},
            {norm_weight.data(), depth}, {inverse.data(), tokens}, {gradient.data(), tokens, depth},
            {ignored.data(), t5zero::dtype::f32, gradient_mode::overwrite, 1, depth});
      auto dropped = zeros<TestType>(tokens * depth);
      cpu_operations<TestType>::dropout_backward(cpu.main(), {gradient.data(), tokens, depth}, dropout.host(),
                                                 batch.view(), {dropped.data(), tokens, depth});
      auto y = zeros<TestType>(tokens * features);
      cpu_operations<TestType>::template matmul<TestType, TestType, TestType>(
          cpu.main(), transpose::no, {dropped.data(), tokens, depth}, transpose::no,
          {weight.data(), depth, features}, {y.data(), tokens, features});
      if (relu) {
        const auto product = y;
        cpu_operations<TestType>::relu_dropout_backward(cpu.main(), {product.data(), tokens, features},
                                                        {activated.data(), tokens, features}, dropout.host(),
                                                        {y.data(), tokens, features});
      }

      const auto device_grad = on_device(grad);
      const auto device_grad_normed = on_device(grad_normed);
      const auto device_x = on_device(x);
      const auto device_inverse = on_device(inverse);
      const auto device_activated = on_device(activated);
      std::vector<TestType> first;
      for (int run = 0; run < runs_of_each; ++run) {
        const device_array<float> device_gradient(tokens * depth);
        const device_array<TestType> device_dropped(tokens * depth);
        const device_array<TestType> device_y(tokens * features);
        t5zero::cuda::grad_matmul_arguments<TestType> arguments{
            .grad = device_grad.matrix(tokens, depth),
            .gradient = device_gradient.matrix(tokens, depth),
            .dropout = dropout.device(),
            .tokens = device_batch.view(),
            .dropped = device_dropped.matrix(tokens, depth),
            .weight = device_weight.matrix(depth, features),
            .y = device_y.matrix(tokens, features)};
        if (finishes) {
          arguments.grad_normed = device_grad_normed.matrix(tokens, depth);
          arguments.x = device_x.matrix(tokens, depth);
          arguments.norm_weight = device_norm_weight.vector();
          arguments.inverse_rms = device_inverse.vector();
        }
        if (relu) {
          arguments.activated = device_activated.matrix(tokens, features);
          arguments.activated_dropout = dropout.device();
        }
        t5zero::cuda::grad_matmul<TestType>(gpu.main(), arguments);
        const auto found = device_y.download();
        CHECK(largest_difference(found, y) < 2 * tolerance<TestType>);
        CHECK(largest_difference(device_gradient.download(), gradient) < 1e-5);
        CHECK(largest_difference(device_dropped.download(), dropped) < tolerance<TestType>);
        if (run == 1) CHECK(same_bits(found, first));
        first = found;
      }
    }
  }
}

TEMPLATE_TEST_CASE("cuda: plain_matmul is the CPU's matmul", "[cuda]", float16, bfloat16) {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  for (const auto& [features, depth] : copied_shapes) {
    const auto weight = random_elements<TestType>(depth * features, 1, deviation(depth));
    const auto device_weight = on_device(weight);
    for (const index_t tokens : token_counts) {
      CAPTURE(features, depth, tokens);
      const auto a = random_elements<TestType>(tokens * depth, 2);
      auto y = zeros<float>(tokens * features);
      cpu_operations<TestType>::template matmul<TestType, TestType, float>(
          cpu.main(), transpose::no, {a.data(), tokens, depth}, transpose::no,
          {weight.data(), depth, features}, {y.data(), tokens, features});
      const auto device_a = on_device(a);
      std::vector<float> first;
      for (int run = 0; run < runs_of_each; ++run) {
        const device_array<float> device_y(tokens * features);
        t5zero::cuda::plain_matmul<TestType>(gpu.main(), {.a = device_a.matrix(tokens, depth),
                                                          .weight = device_weight.matrix(depth, features),
                                                          .y = device_y.matrix(tokens, features)});
        const auto found = device_y.download();
        CHECK(largest_difference(found, y) < 1e-5);
        if (run == 1) CHECK(same_bits(found, first));
        first = found;
      }
    }
  }
}

namespace {

/// Products of three shapes and the gradients of two norms by one launch, gradients of type U.
template <class T, class U>
void check_weight_gradients(index_t tokens, gradient_mode mode) {
  CAPTURE(tokens, mode == gradient_mode::accumulate, sizeof(U));
  device_machine gpu;
  host_machine cpu;
  const std::vector<std::array<index_t, 2>> shapes{{2048, 512}, {72, 136}, {512, 768}};
  const std::vector<index_t> norm_shapes{512, 72};
  const auto view = [&](auto* data, index_t rows, index_t cols) {
    return t5zero::gradient_view{data, t5zero::dtype_of<U>, mode, rows, cols};
  };
  std::vector<std::vector<U>> expected;
  std::vector<std::vector<U>> before;
  t5zero::cuda::weight_gradients_arguments<T> arguments;
  std::vector<device_array<T>> operands;
  std::vector<device_array<float>> norm_operands;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const auto [rows, cols] = shapes[i];
    const auto grad_y = random_elements<T>(tokens * rows, 1);
    const auto x = random_elements<T>(tokens * cols, 2);
    before.push_back(random_elements<U>(rows * cols, 3));
    expected.push_back(before.back());
    cpu_operations<T>::template matmul<T, T>(cpu.main(), transpose::yes, {grad_y.data(), tokens, rows},
                                             transpose::no, {x.data(), tokens, cols},
                                             view(expected.back().data(), rows, cols));
    operands.push_back(on_device(grad_y));
    arguments.products[i].grad_y = operands.back().matrix(tokens, rows);
    operands.push_back(on_device(x));
    arguments.products[i].x = operands.back().matrix(tokens, cols);
  }
  for (std::size_t i = 0; i < norm_shapes.size(); ++i) {
    const index_t cols = norm_shapes[i];
    const auto grad_normed = random_elements(tokens * cols, 4);
    const auto x = random_elements(tokens * cols, 5);
    const auto inverse = std::vector<float>(static_cast<std::size_t>(tokens), 0.75F);
    const auto norm_weight = random_elements<T>(cols, 6);
    auto ignored = zeros<float>(tokens * cols);
    before.push_back(random_elements<U>(cols, 7));
    expected.push_back(before.back());
    cpu_operations<T>::rms_norm_backward(
        cpu.main(), {grad_normed.data(), tokens, cols}, {x.data(), tokens, cols}, {norm_weight.data(), cols},
        {inverse.data(), tokens}, {ignored.data(), tokens, cols}, view(expected.back().data(), 1, cols));
    norm_operands.push_back(on_device(grad_normed));
    arguments.norms[i].grad_normed = norm_operands.back().matrix(tokens, cols);
    norm_operands.push_back(on_device(x));
    arguments.norms[i].x = norm_operands.back().matrix(tokens, cols);
    norm_operands.push_back(on_device(inverse));
    arguments.norms[i].inverse_rms = norm_operands.back().vector();
  }
  std::vector<std::vector<U>> first;
  for (int run = 0; run < runs_of_each; ++run) {
    std::vector<device_array<U>> gradients;
    for (const auto& values : before) {
      gradients.push_back(on_device(values));
      if (mode == gradient_mode::overwrite) gradients.back().poison();
    }
    for (std::size_t i = 0; i < shapes.size(); ++i)
      arguments.products[i].grad_weight = view(gradients[i].data(), shapes[i][0], shapes[i][1]);
    for (std::size_t i = 0; i < norm_shapes.size(); ++i)
      arguments.norms[i].grad_weight = view(gradients[shapes.size() + i].data(), 1, norm_shapes[i]);
    t5zero::cuda::weight_gradients<T>(gpu.main(), arguments);
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      CAPTURE(i);
      const auto found = gradients[i].download();
      CHECK(largest_difference(found, expected[i]) < (sizeof(U) == 4 ? 2e-5 : tolerance<U>));
      if (run == 0)
        first.push_back(found);
      else
        CHECK(same_bits(found, first[i]));
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("cuda: weight_gradients are the CPU's", "[cuda]", float16, bfloat16) {
  if (!has_gpu()) return;
  const auto mode = GENERATE(gradient_mode::overwrite, gradient_mode::accumulate);
  for (const index_t tokens : token_counts) {
    check_weight_gradients<TestType, TestType>(tokens, mode);
    check_weight_gradients<TestType, float>(tokens, mode);
  }
}

// A feed-forward whose kernels start while the one before runs, on the stream and as a graph: the same bits
// as one after another.
TEST_CASE("cuda: overlapping products of few tokens wait for each other", "[cuda]") {
  if (!has_gpu()) return;
  device_machine gpu;
  constexpr index_t tokens = 48;
  constexpr index_t d_model = 512;
  constexpr index_t d_ff = 2048;
  const int layers = under_sanitizer() ? 2 : 12;
  const int runs = under_sanitizer() ? 2 : 20;
  const dropout_pair dropout(0.1F);
  const device_ragged_batch batch(sequences(tokens));
  const auto in = on_device(random_elements<float16>(d_ff * d_model, 1, deviation(d_model)));
  const auto out = on_device(random_elements<float16>(d_model * d_ff, 2, deviation(d_ff)));
  const auto norm_weight = on_device(random_elements<float16>(d_model, 3));
  const auto start = random_elements(tokens * d_model, 4);
  device_array<float> x = on_device(start);
  const device_array<float16> normed(tokens * d_model);
  const device_array<float> inverse(tokens);
  const device_array<float16> hidden(tokens * d_ff);
  const auto submit = [&](launch_overlap overlap) {
    for (int layer = 0; layer < layers; ++layer) {
      t5zero::cuda::norm_matmul<float16>(gpu.main(),
                                         {.x = x.matrix(tokens, d_model),
                                          .norm_weight = norm_weight.vector(),
                                          .epsilon = 1e-6F,
                                          .weight = in.matrix(d_ff, d_model),
                                          .y = hidden.matrix(tokens, d_ff),
                                          .normed = normed.matrix(tokens, d_model),
                                          .inverse_rms = inverse.vector(),
                                          .relu = true,
                                          .dropout = dropout.device(),
                                          .tokens = batch.view(),
                                          .overlap = layer == 0 ? launch_overlap::none : overlap});
      t5zero::cuda::matmul_residual<float16>(gpu.main(), {.a = hidden.matrix(tokens, d_ff),
                                                          .weight = out.matrix(d_model, d_ff),
                                                          .x = x.matrix(tokens, d_model),
                                                          .out = x.matrix(tokens, d_model),
                                                          .dropout = dropout.device(),
                                                          .tokens = batch.view(),
                                                          .overlap = overlap});
    }
  };
  submit(launch_overlap::none);
  const auto expected = x.download();
  for (int run = 0; run < runs; ++run) {
    x.upload(start);
    submit(launch_overlap::previous);
    CHECK(same_bits(x.download(), expected));
  }
  const auto graph = captured(gpu, [&] { submit(launch_overlap::previous); });
  for (int run = 0; run < runs; ++run) {
    x.upload(start);
    t5zero::cuda::check(cudaGraphLaunch(graph.get(), gpu.main().stream()));
    CHECK(same_bits(x.download(), expected));
  }
}
