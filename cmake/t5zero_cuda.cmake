# The CUDA backend: t5zero::cuda, and its kernels compiled once in the library t5zero::kernels. Included where
# T5ZERO_CUDA is ON.
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  find_program(T5ZERO_FOUND_NVCC nvcc)
  mark_as_advanced(T5ZERO_FOUND_NVCC)
  if(T5ZERO_FOUND_NVCC AND "$ENV{CUDACXX}" STREQUAL "")
    message(FATAL_ERROR "t5zero: T5ZERO_CUDA is ON and nvcc (${T5ZERO_FOUND_NVCC}) does not compile. Look at its host "
      "compiler (CUDAHOSTCXX, NVCC_CCBIN) and at CUDAARCHS; the compiler's own words are in "
      "${CMAKE_BINARY_DIR}${CMAKE_FILES_DIRECTORY}. Or use the preset cpu.")
  endif()
  message(FATAL_ERROR "t5zero: T5ZERO_CUDA is ON and there is no CUDA compiler: install CUDA 12.4 or newer, "
    "put nvcc on the PATH, or use the preset cpu.")
endif()

execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE t5zero_nvcc ERROR_QUIET)
if(t5zero_nvcc MATCHES "release ([0-9]+[.][0-9]+)" AND CMAKE_MATCH_1 VERSION_LESS 12.4)
  message(FATAL_ERROR "t5zero: CUDA ${CMAKE_MATCH_1} was found (${CMAKE_CUDA_COMPILER}); 12.4 or newer is needed.")
endif()

set(T5ZERO_CUDA_ARCHITECTURES "" CACHE STRING
  "GPU architectures that kernels are compiled for; empty: CMAKE_CUDA_ARCHITECTURES, else the GPU here, else all")
include(${CMAKE_CURRENT_LIST_DIR}/t5zero_cuda_architectures.cmake)
t5zero_choose_cuda_architectures(t5zero_architectures)
set(CMAKE_CUDA_ARCHITECTURES ${t5zero_architectures})
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
# CMake 3.25 knows no cuda_std_20 of CUDA 13.
set(t5zero_cuda_options $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 --expt-relaxed-constexpr -Xcompiler=-Wall,-Wextra
  $<$<BOOL:${T5ZERO_WERROR}>:-Werror=all-warnings -Xcompiler=-Werror>>)
target_compile_options(t5zero_kernels PRIVATE ${t5zero_cuda_options})
target_link_libraries(t5zero_cuda INTERFACE t5zero t5zero_kernels CUDA::cudart_static CUDA::cublasLt Threads::Threads)
