// Time of every cuBLASLt candidate for the matmuls of a step, each as a chain of nodes in a graph:
//   matmul_bench_cuda <t5-small|t5-base|t5-large|t5-3b> <fp32|tf32|fp16|bf16|bf16x9> <tokens> [candidates]
// One JSON line for each product: microseconds of the heuristic's first choice and of the best one, and what
// the arithmetic (at the measured peak of the precision) and the bytes (at copy bandwidth) would take alone
// on a GPU of which these are known. For fp32 split_matmul too: as it is cut, and each cut (tile/parts or
// tile/1/pieces) where `candidates` is more than 1. Launches do not overlap.
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include <t5zero/backend/cuda/split_matmul.hpp>
#include <t5zero/cli/program.hpp>
#include <t5zero/cuda.hpp>

#include "arguments.hpp"
#include "floor.hpp"
#include "gpu_machine.hpp"
#include "graph_timer.hpp"

namespace {

using namespace t5zero;  // NOLINT(google-build-using-namespace)
using cuda::check;

struct product {
  const char* name;
  transpose a, b;
  index_t rows, cols, depth;
  bool wide_result;  ///< fp32 whatever the operands are
};

/// A number as JSON; null where there is none.
std::string in_json(std::optional<double> number) {
  char digits[32] = "null";
  if (number) std::snprintf(digits, sizeof(digits), "%.2f", *number);
  return digits;
}

/// Floating-point operations a second of large products, as measured.
double product_rate(const t5zero_bench::ceilings& of, bool tf32, cublasComputeType_t emulation, dtype type) {
  if (type == dtype::f16) return of.fp16;
  if (type == dtype::bf16) return of.bf16;
  if (tf32) return of.tf32;
  return emulation == CUBLAS_COMPUTE_32F ? of.fp32 : of.bf16 / 9.0;
}

/// Prints the times of split_matmul, c = op(a) op(b), with b from `copies` places `step` floats apart.
void measure_split(const product& work, const float* a, const float* b, float* c, index_t copies,
                   index_t step, bool all_cuts) {
  constexpr int repeats = 20;
  if (!cuda::takes_split_matmul(work.a, work.b, work.rows, work.cols, work.depth)) return;
  cuda::device device({.overlaps_launches = false});
  cuda::execution& e = device.main();
  const index_t workspace_bytes =
      cuda::workspace_division::of_main(cuda::most_matmul_workspace_bytes).total_bytes();
  std::byte* workspace = nullptr;
  check(cudaMalloc(reinterpret_cast<void**>(&workspace), static_cast<std::size_t>(workspace_bytes)));
  device.set_workspace(workspace, workspace_bytes);
  const bool ta = work.a == transpose::yes;
  const bool tb = work.b == transpose::yes;
  const matrix_view<const float> left{a, ta ? work.depth : work.rows, ta ? work.rows : work.depth};
  const auto time = [&](cuda::split_division division) {
    return static_cast<double>(t5zero_bench::time_in_graph(
               e.stream(), repeats, /*rounds=*/9,
               [&](int n) {
                 cuda::split_matmul(
                     e, work.a, left, work.b,
                     {b + n % copies * step, tb ? work.cols : work.depth, tb ? work.depth : work.cols},
                     {c, work.rows, work.cols}, gradient_mode::overwrite, 1.0F, division);
               })) *
           1e3 / repeats;
  };
  std::printf("{\"product\": \"%s\", \"split_us\": %.2f", work.name, time({}));
  if (all_cuts) {
    std::printf(", \"cuts\": {");
    for (int tile = 0; tile < static_cast<int>(cuda::split_tiles.size()); ++tile) {
      for (int parts = 1; parts <= cuda::split_max_parts; ++parts)
        std::printf("%s\"%d/%d\": %.2f", tile + parts == 1 ? "" : ", ", tile, parts, time({tile, parts}));
      for (const int pieces : cuda::split_pieces) {
        const cuda::split_division division{tile, 1, pieces};
        if (cuda::split_workspace_bytes(work.rows, work.cols, division) <= e.workspace_bytes())
          std::printf(", \"%d/1/%d\": %.2f", tile, pieces, time(division));
      }
    }
    std::printf("}");
  }
  std::printf("}\n");
  check(cudaFree(workspace));
}

template <element T>
void measure(const product& work, bool tf32, int wanted, cublasComputeType_t emulation) {
  constexpr int repeats = 20;
  const cudaDataType_t type = cuda::detail::cuda_type<T>;
  const cudaDataType_t type_c = work.wide_result ? CUDA_R_32F : type;
  const index_t bytes_a = work.rows * work.depth * static_cast<index_t>(sizeof(T));
  const index_t bytes_b = work.cols * work.depth * static_cast<index_t>(sizeof(T));
  const index_t bytes_c = work.rows * work.cols * (work.wide_result ? 4 : static_cast<index_t>(sizeof(T)));
  // Weights in turn from several places, so that they are not all in the cache.
  constexpr int copies = 8;
  std::byte* memory = nullptr;
  const index_t all = bytes_a + copies * bytes_b + bytes_c + cuda::most_matmul_workspace_bytes + 1024;
  check(cudaMalloc(reinterpret_cast<void**>(&memory), static_cast<std::size_t>(all)));
  // The same numbers again and again, in a period that is no multiple of a row.
  std::vector<float> values(static_cast<std::size_t>(std::min<index_t>(all / 4, (1 << 22) - 4)));
  unsigned state = 1;
  for (float& value : values)
    value = static_cast<float>((state = state * 1664525U + 1013904223U) >> 8) * 0x1p-24F - 0.5F;
  if (sizeof(T) == 2) {  // any bits of moderate exponent
    auto* halves = reinterpret_cast<T*>(values.data());
    for (std::size_t i = 0; i < 2 * values.size(); ++i)
      halves[i] =
          static_cast<T>(static_cast<float>((state = state * 1664525U + 1013904223U) >> 8) * 0x1p-24F - 0.5F);
  }
  const index_t period = 4 * static_cast<index_t>(values.size());
  for (index_t at = 0; at < all; at += period)
    check(cudaMemcpy(memory + at, values.data(), static_cast<std::size_t>(std::min(period, all - at)),
                     cudaMemcpyHostToDevice));
  const auto aligned = [](index_t bytes) { return round_up(bytes, 256); };
  std::byte* const a = memory;
  std::byte* const b = a + aligned(bytes_a);
  std::byte* const c = b + copies * bytes_b / 256 * 256;
  std::byte* const workspace = memory + (all - cuda::most_matmul_workspace_bytes) / 256 * 256;

  cublasLtHandle_t handle = nullptr;
  check(cublasLtCreate(&handle));
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const bool ta = work.a == transpose::yes;
  const bool tb = work.b == transpose::yes;
  cublasLtMatmulDesc_t operation = nullptr;
  const cublasComputeType_t compute = emulation != CUBLAS_COMPUTE_32F ? emulation
                                      : tf32                          ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                                      : CUBLAS_COMPUTE_32F;
  check(cublasLtMatmulDescCreate(&operation, compute, CUDA_R_32F));
  const cublasOperation_t oa = tb ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t ob = ta ? CUBLAS_OP_T : CUBLAS_OP_N;
  check(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &oa, sizeof(oa)));
  check(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSB, &ob, sizeof(ob)));
  const auto layout = [](cudaDataType_t t, index_t rows, index_t cols) {
    cublasLtMatrixLayout_t result = nullptr;
    check(cublasLtMatrixLayoutCreate(&result, t, static_cast<std::uint64_t>(rows),
                                     static_cast<std::uint64_t>(cols), rows));
    return result;
  };
  const cublasLtMatrixLayout_t la = layout(type, tb ? work.depth : work.cols, tb ? work.cols : work.depth);
  const cublasLtMatrixLayout_t lb = layout(type, ta ? work.rows : work.depth, ta ? work.depth : work.rows);
  const cublasLtMatrixLayout_t lc = layout(type_c, work.cols, work.rows);
  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference));
  const auto limit = static_cast<std::uint64_t>(cuda::most_matmul_workspace_bytes);
  check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &limit,
                                             sizeof(limit)));
  std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<std::size_t>(wanted));
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle, operation, la, lb, lc, lc, preference,
                                                               wanted, found.data(), &count);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0) {
    std::printf("{\"product\": \"%s\", \"unsupported\": \"%s\"}\n", work.name,
                cublasLtGetStatusString(status));
  } else {
    std::optional<double> first;
    std::optional<double> best;
    int best_at = 0;
    for (int i = 0; i < count; ++i) {
      const float alpha = 1.0F;
      const float beta = 0.0F;
      std::optional<double> taken;
      try {
        const float ms = t5zero_bench::time_in_graph(stream, repeats, /*rounds=*/9, [&](int n) {
          check(cublasLtMatmul(handle, operation, &alpha, b + n % copies * (bytes_b / 256 * 256), la, a, lb,
                               &beta, c, lc, c, lc, &found[static_cast<std::size_t>(i)].algo, workspace,
                               static_cast<std::size_t>(cuda::most_matmul_workspace_bytes), stream));
        });
        taken = static_cast<double>(ms) * 1e3 / repeats;
      } catch (const device_error&) {
        (void)cudaGetLastError();
      }
      if (i == 0) first = taken;
      if (taken && (!best || *taken < *best)) {
        best = taken;
        best_at = i;
      }
    }
    const double flops = 2.0 * static_cast<double>(work.rows) * static_cast<double>(work.cols) *
                         static_cast<double>(work.depth);
    const auto tflops = best ? std::optional(flops / *best / 1e6) : std::nullopt;
    std::optional<double> flops_us;
    std::optional<double> bytes_us;
    if (const auto known = t5zero_bench::ceilings_of(t5zero_bench::gpu_machine().name())) {
      flops_us = flops / product_rate(*known, tf32, emulation, dtype_of<T>) * 1e6;
      bytes_us = static_cast<double>(bytes_a + bytes_b + bytes_c) / known->copy * 1e6;
    }
    std::printf(
        "{\"product\": \"%s\", \"rows\": %lld, \"cols\": %lld, \"depth\": %lld, \"first_us\": %s, "
        "\"best_us\": %s, \"best\": %d, \"of\": %d, \"tflops\": %s, \"flops_us\": %s, \"bytes_us\": %s}\n",
        work.name, static_cast<long long>(work.rows), static_cast<long long>(work.cols),
        static_cast<long long>(work.depth), in_json(first).c_str(), in_json(best).c_str(), best_at, count,
        in_json(tflops).c_str(), in_json(flops_us).c_str(), in_json(bytes_us).c_str());
  }
  if constexpr (std::same_as<T, float>) {
    if (!tf32 && emulation == CUBLAS_COMPUTE_32F)
      measure_split(work, reinterpret_cast<const float*>(a), reinterpret_cast<const float*>(b),
                    reinterpret_cast<float*>(c), copies, bytes_b / 256 * 64, wanted > 1);
  }
  std::fflush(stdout);
  cublasLtMatmulPreferenceDestroy(preference);
  cublasLtMatrixLayoutDestroy(la);
  cublasLtMatrixLayoutDestroy(lb);
  cublasLtMatrixLayoutDestroy(lc);
  cublasLtMatmulDescDestroy(operation);
  cudaStreamDestroy(stream);
  cublasLtDestroy(handle);
  cudaFree(memory);
}

}  // namespace

int main(int argc, char** argv) {
  return cli::report_errors(argv[0], [&] {
    const t5zero_bench::arguments given(
        argc, argv, 4,
        "<t5-small|t5-base|t5-large|t5-3b> <fp32|tf32|fp16|bf16|bf16x9> <tokens> [candidates]");
    const model_shape shape = given.shape(1);
    const std::string precision = given.one_of(2, "precision", {"fp32", "tf32", "fp16", "bf16", "bf16x9"});
    const index_t n = given.positive(3, "tokens");
    const auto candidates = static_cast<int>(given.positive_or(4, "candidates", 8));
    t5zero_bench::require_device<cuda::backend>();
    const index_t d = shape.d_model;
    const index_t inner = shape.inner_dim();
    const product products[] = {
        {"qkv", transpose::no, transpose::yes, n, 3 * inner, d, false},
        {"o", transpose::no, transpose::yes, n, d, inner, true},
        {"wi", transpose::no, transpose::yes, n, shape.d_ff, d, false},
        {"wo", transpose::no, transpose::yes, n, d, shape.d_ff, true},
        {"grad_activated", transpose::no, transpose::no, n, shape.d_ff, d, false},
        {"grad_normed of wi", transpose::no, transpose::no, n, d, shape.d_ff, true},
        {"grad_normed of qkv", transpose::no, transpose::no, n, d, 3 * inner, true},
        {"grad_context", transpose::no, transpose::no, n, inner, d, false},
        {"grad wi", transpose::yes, transpose::no, shape.d_ff, d, n, false},
        {"grad wo", transpose::yes, transpose::no, d, shape.d_ff, n, false},
        {"grad o", transpose::yes, transpose::no, d, inner, n, false},
        {"grad qkv", transpose::yes, transpose::no, 3 * inner, d, n, false},
        {"cross k, v", transpose::no, transpose::yes, n, 2 * inner * shape.n_decoder_layers, d, false},
        {"grad_source", transpose::no, transpose::no, n, d, 2 * inner * shape.n_decoder_layers, true},
        {"grad cross k, v", transpose::yes, transpose::no, 2 * inner * shape.n_decoder_layers, d, n, false},
        {"head", transpose::no, transpose::yes, n, shape.vocab_size, d, true},
        {"grad_hidden", transpose::no, transpose::no, n, d, shape.vocab_size, true},
        {"grad head", transpose::yes, transpose::no, shape.vocab_size, d, n, false},
    };
    for (const product& work : products) {
      if (precision == "fp16")
        measure<float16>(work, false, candidates, CUBLAS_COMPUTE_32F);
      else if (precision == "bf16")
        measure<bfloat16>(work, false, candidates, CUBLAS_COMPUTE_32F);
#if CUBLAS_VERSION >= 120900
      else if (precision == "bf16x9")
        measure<float>(work, false, candidates, CUBLAS_COMPUTE_32F_EMULATED_16BFX9);
#else
      else if (precision == "bf16x9")
        throw input_error("<precision> is 'bf16x9', which cuBLAS has from 12.9 on");
#endif
      else
        measure<float>(work, precision == "tf32", candidates, CUBLAS_COMPUTE_32F);
    }
    return 0;
  });
}
