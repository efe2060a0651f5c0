// All definitions of cuda::operations; the library t5zero::kernels instantiates them once for all programs.
#pragma once

#include <t5zero/backend/cuda/kernels/activation.cuh>
#include <t5zero/backend/cuda/kernels/adafactor.cuh>
#include <t5zero/backend/cuda/kernels/attention_backward.cuh>
#include <t5zero/backend/cuda/kernels/attention_forward.cuh>
#include <t5zero/backend/cuda/kernels/cross_entropy.cuh>
#include <t5zero/backend/cuda/kernels/decode_attention.cuh>
#include <t5zero/backend/cuda/kernels/dropout.cuh>
#include <t5zero/backend/cuda/kernels/embedding.cuh>
#include <t5zero/backend/cuda/kernels/initialize.cuh>
#include <t5zero/backend/cuda/kernels/optimizer.cuh>
#include <t5zero/backend/cuda/kernels/rms_norm.cuh>
#include <t5zero/backend/cuda/kernels/search.cuh>
#include <t5zero/backend/cuda/kernels/step.cuh>
#include <t5zero/backend/cuda/kernels/top_candidates.cuh>
