// Launches of kernels that start before the one in front of them has ended (CUDA Programming Guide,
// "Programmatic Dependent Launch"), and of clusters of blocks (cluster.cuh): what compute capability 9.0
// brought. Below it, kernels run one after another and blocks alone.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cstddef>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/current_device.hpp>
#include <t5zero/backend/cuda/execution.hpp>

namespace t5zero::cuda::detail {

/// The compute capability, times ten, from which the functions below do something.
inline constexpr int overlap_architecture = 90;

/// Until the kernel before has ended and what it wrote is visible. Every block must call it: the next kernel
/// takes this one's end for the end of all before. From then on the next kernel may start; not earlier, since
/// blocks that only wait take room from what runs beside them (the optimizer beside the forward).
__device__ inline void wait_for_previous_grid() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// The same, but the next kernel starts when this one ends: its blocks would wait in room that what runs
/// beside a long kernel needs.
__device__ inline void wait_for_previous_grid_alone() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// The next kernel may start already before this one waits: in chains of small kernels beside which nothing
/// runs (a generation's steps).
__device__ inline void let_next_grid_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Was the kernel compiled for an architecture with clusters and overlap? The device alone does not say it.
[[nodiscard]] inline bool takes_clusters(const cudaFuncAttributes& kernel) {
  return kernel.ptxVersion >= overlap_architecture;
}
template <class... Parameters>
[[nodiscard]] cudaFuncAttributes attributes_of(void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, kernel));
  return attributes;
}

/// Lets a kernel have all shared memory that it may ask for on the GPU in use. Does it take clusters?
/// is_row_wise: it has none of its own to speak of.
template <class... Parameters>
[[nodiscard]] bool prepare_kernel(void (*kernel)(Parameters...), bool is_row_wise) {
  const cudaFuncAttributes facts = attributes_of(kernel);
  // The same bound for each launch: graphs that hold earlier ones are instantiated under it, too.
  const auto declared = static_cast<index_t>(facts.sharedSizeBytes);
  const auto bound =
      static_cast<int>(current_device_limits().shared_bytes - std::max<index_t>(0, declared - 1024));
  if (facts.maxDynamicSharedSizeBytes < bound)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bound));
  // A multiprocessor divides its memory into cache and shared memory anew only when it is idle: kernels that
  // are to meet there must ask for the same division. Those that work row by row meet the optimizer's.
  if (!is_row_wise) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared));
  }
  return takes_clusters(facts);
}

/// The same, asked once for each kernel of a device.
template <class... Parameters>
[[nodiscard]] bool takes_clusters(const execution& e, void (*kernel)(Parameters...),
                                  bool is_row_wise = false) {
  return e.prepared(reinterpret_cast<const void*>(kernel),
                    [&] { return prepare_kernel(kernel, is_row_wise); });
}

/// How a kernel is launched.
struct overlapped_launch {
  dim3 blocks;
  int threads = 0;
  index_t shared_bytes = 0;
  int cluster = 1;  ///< neighbours along x
  launch_overlap overlap = launch_overlap::none;
  bool is_row_wise = false;  ///< an elementwise kernel, or one that needs shared memory for a sum alone
};
template <class... Parameters>
void launch(execution& e, void (*kernel)(Parameters...), const overlapped_launch& how,
            const Parameters&... parameters) {
  const bool modern = takes_clusters(e, kernel, how.is_row_wise);
  std::array<cudaLaunchAttribute, 2> attributes{};
  cudaLaunchConfig_t config{};
  config.gridDim = how.blocks;
  config.blockDim = dim3(static_cast<unsigned>(how.threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(how.shared_bytes);
  config.stream = e.stream();
  config.attrs = attributes.data();
  if (modern && how.cluster > 1) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(how.cluster);
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
  }
  if (modern && how.overlap == launch_overlap::previous && e.overlaps_launches()) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, parameters...));
}

}  // namespace t5zero::cuda::detail
