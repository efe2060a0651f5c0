// t5zero with the CUDA backend. Its kernels come from the library t5zero::kernels, or from cuda.cuh under
// nvcc.
#pragma once

#include <t5zero/backend/cuda/backend.hpp>
#include <t5zero/t5zero.hpp>
