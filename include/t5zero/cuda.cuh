// t5zero with the CUDA backend, kernels included: for a program whose one translation unit nvcc compiles,
// without the library t5zero::kernels.
#pragma once

#include <t5zero/backend/cuda/kernels/operations.cuh>
#include <t5zero/backend/cuda/kernels/row_attention.cuh>
#include <t5zero/backend/cuda/kernels/row_matmul.cuh>
#include <t5zero/backend/cuda/kernels/split_matmul.cuh>
#include <t5zero/backend/cuda/kernels/token_matmul.cuh>
#include <t5zero/backend/cuda/kernels/token_weight_gradients.cuh>
#include <t5zero/cuda.hpp>
