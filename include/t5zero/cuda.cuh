// t5zero with the CUDA backend, kernels included: for a translation unit that nvcc compiles on its own.
#pragma once

#include <t5zero/backend/cuda/kernels/operations.cuh>
#include <t5zero/cuda.hpp>
