// The whole step on a GPU against PyTorch: loss, logits, encoder output, every gradient, 24 AdamW steps.
#include <t5zero/cuda.hpp>

#include "backend/cuda/device_machine.hpp"
#include "catch.hpp"
#include "golden_run.hpp"
#include "skip.hpp"

using golden::check_forward_and_gradients;
using golden::check_training;
using golden::tiny_gated;
using golden::tiny_gated_tied;
using golden::tiny_relu;

TEMPLATE_TEST_CASE("forward and gradients equal PyTorch's", "", t5zero::fp32, t5zero::tf32, t5zero::fp16,
                   t5zero::bf16) {
  if (!t5zero_test::has_gpu()) return;
  if (!golden::available()) return skip_test("no reference values");
  check_forward_and_gradients<t5zero::run<tiny_relu, t5zero::zero_0, TestType, t5zero::cuda::backend>>();
  check_forward_and_gradients<t5zero::run<tiny_gated, t5zero::zero_0, TestType, t5zero::cuda::backend>>();
  check_forward_and_gradients<
      t5zero::run<tiny_gated_tied, t5zero::zero_0, TestType, t5zero::cuda::backend>>();
}

TEMPLATE_TEST_CASE("24 AdamW steps equal PyTorch's", "", t5zero::zero_0, t5zero::zero_1, t5zero::zero_2,
                   t5zero::zero_3) {
  if (!t5zero_test::has_gpu()) return;
  if (!golden::available()) return skip_test("no reference values");
  const t5zero::index_t steps = t5zero_test::under_sanitizer() ? 3 : 24;
  check_training<t5zero::run<tiny_relu, TestType, t5zero::fp32, t5zero::cuda::backend>>(steps);
  check_training<t5zero::run<tiny_gated, TestType, t5zero::fp32, t5zero::cuda::backend>>(steps);
  check_training<t5zero::run<tiny_gated_tied, TestType, t5zero::fp32, t5zero::cuda::backend>>(steps);
}
