# The CUDA backend: t5zero::cuda, and its kernels compiled once in the library t5zero::kernels. Included where
# T5ZERO_CUDA is ON.
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(FATAL_ERROR "t5zero: T5ZERO_CUDA is ON and there is no CUDA compiler: install CUDA 12.4 or newer, "
    "put nvcc on the PATH, or use the preset cpu.")
endif()

# What the kernels are compiled for: this machine's GPU, or else every architecture that t5zero supports.
find_program(T5ZERO_NVIDIA_SMI nvidia-smi)
mark_as_advanced(T5ZERO_NVIDIA_SMI)
set(t5zero_architectures 75 80 86 89 90a 100 120)
if(T5ZERO_NVIDIA_SMI)
  execute_process(COMMAND ${T5ZERO_NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
    OUTPUT_VARIABLE t5zero_capabilities OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE t5zero_failed)
  if(t5zero_failed EQUAL 0 AND t5zero_capabilities MATCHES "^[0-9.\n]+$")
    string(REPLACE "." "" t5zero_architectures "${t5zero_capabilities}")
    string(REPLACE "\n" ";" t5zero_architectures "${t5zero_architectures}")
    list(REMOVE_DUPLICATES t5zero_architectures)
    list(TRANSFORM t5zero_architectures REPLACE "^90$" "90a")
  endif()
endif()
list(TRANSFORM t5zero_architectures APPEND "-real")
set(T5ZERO_CUDA_ARCHITECTURES "${t5zero_architectures}" CACHE STRING
  "GPU architectures that kernels are compiled for (CMAKE_CUDA_ARCHITECTURES)")
set(CMAKE_CUDA_ARCHITECTURES ${T5ZERO_CUDA_ARCHITECTURES})
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
if(CUDAToolkit_VERSION VERSION_LESS 12.4)
  message(FATAL_ERROR "t5zero: CUDA ${CUDAToolkit_VERSION} was found; 12.4 or newer is needed.")
endif()

add_library(t5zero_cuda INTERFACE)
add_library(t5zero::cuda ALIAS t5zero_cuda)
set_target_properties(t5zero_cuda PROPERTIES EXPORT_NAME cuda)
target_sources(t5zero_cuda INTERFACE FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}/include FILES ${t5zero_cuda_headers})

# One translation unit an element type: kernels know no models, so no run instantiates another one.
set(t5zero_kernel_sources "")
foreach(T5ZERO_ELEMENT float float16 bfloat16)
  set(source ${PROJECT_BINARY_DIR}/kernels/operations_${T5ZERO_ELEMENT}.cu)
  set(T5ZERO_MORE_INSTANCES "")
  if(NOT T5ZERO_ELEMENT STREQUAL "float")
    set(T5ZERO_MORE_INSTANCES "template void operations<${T5ZERO_ELEMENT}>::dropout_in_place(
    execution&, matrix_view<float>, const dropout_site&, const ragged_view&);\n")
  endif()
  configure_file(${CMAKE_CURRENT_LIST_DIR}/operations.cu.in ${source} @ONLY)
  list(APPEND t5zero_kernel_sources ${source})
endforeach()
foreach(T5ZERO_ELEMENT float float16 bfloat16)
  set(source ${PROJECT_BINARY_DIR}/kernels/row_matmul_${T5ZERO_ELEMENT}.cu)
  configure_file(${CMAKE_CURRENT_LIST_DIR}/row_matmul.cu.in ${source} @ONLY)
  list(APPEND t5zero_kernel_sources ${source})
endforeach()
# The fused products of few tokens exist for tensor cores' 16-bit types alone.
foreach(T5ZERO_ELEMENT float16 bfloat16)
  set(source ${PROJECT_BINARY_DIR}/kernels/token_matmul_${T5ZERO_ELEMENT}.cu)
  configure_file(${CMAKE_CURRENT_LIST_DIR}/token_matmul.cu.in ${source} @ONLY)
  list(APPEND t5zero_kernel_sources ${source})
endforeach()
set(source ${PROJECT_BINARY_DIR}/kernels/split_matmul.cu)
configure_file(${CMAKE_CURRENT_LIST_DIR}/split_matmul.cu.in ${source} COPYONLY)
list(APPEND t5zero_kernel_sources ${source})
add_library(t5zero_kernels STATIC ${t5zero_kernel_sources})
add_library(t5zero::kernels ALIAS t5zero_kernels)
set_target_properties(t5zero_kernels PROPERTIES EXPORT_NAME kernels)
target_compile_features(t5zero_kernels PUBLIC cxx_std_20)
target_include_directories(t5zero_kernels PRIVATE ${PROJECT_SOURCE_DIR}/include)
target_compile_options(t5zero_kernels PRIVATE
  # CMake 3.25 knows no cuda_std_20 of CUDA 13.
  $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 --expt-relaxed-constexpr -Xcompiler=-Wall,-Wextra
    $<$<BOOL:${T5ZERO_WERROR}>:-Werror=all-warnings -Xcompiler=-Werror>>)
target_link_libraries(t5zero_cuda INTERFACE t5zero t5zero_kernels CUDA::cudart_static CUDA::cublasLt Threads::Threads)
