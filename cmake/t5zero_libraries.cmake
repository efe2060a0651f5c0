# The library targets. All are INTERFACE: headers and what they need.
#   t5zero::t5zero           policies, plans, models: no dependency
#   t5zero::cpu              + the CPU backend (Eigen, threads)
#   t5zero::cuda             + the CUDA backend and its kernels, where T5ZERO_CUDA is ON (t5zero_cuda.cmake)
#   t5zero::run_translation  + text, files and the command line (SentencePiece, nlohmann/json, CLI11)

include(${CMAKE_CURRENT_LIST_DIR}/t5zero_dependencies.cmake)
foreach(package Threads Eigen3 nlohmann_json CLI11 PkgConfig sentencepiece)
  if(NOT ${package}_FOUND)
    message(FATAL_ERROR "t5zero: ${package} was not found. scripts/install_dependencies.sh installs what is missing.")
  endif()
endforeach()

file(GLOB_RECURSE t5zero_headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/*.hpp ${PROJECT_SOURCE_DIR}/include/*.cuh)
set(t5zero_cuda_headers ${t5zero_headers})
list(FILTER t5zero_cuda_headers INCLUDE REGEX "include/t5zero/(backend/cuda/|cuda\\.(hpp|cuh))")
list(REMOVE_ITEM t5zero_headers ${t5zero_cuda_headers})
set(t5zero_cpu_headers ${t5zero_headers})
list(FILTER t5zero_cpu_headers INCLUDE REGEX "include/t5zero/(backend/cpu/|cpu\\.hpp)")
set(t5zero_application_headers ${t5zero_headers})
list(FILTER t5zero_application_headers INCLUDE REGEX "include/t5zero/(data/|io/|cli/|zero/(read_ds_config|ds_section)|run_translation\\.hpp)")
set(t5zero_core_headers ${t5zero_headers})
list(REMOVE_ITEM t5zero_core_headers ${t5zero_cpu_headers} ${t5zero_application_headers})

add_library(t5zero INTERFACE)
add_library(t5zero::t5zero ALIAS t5zero)
target_compile_features(t5zero INTERFACE cxx_std_20)
target_sources(t5zero INTERFACE FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}/include FILES ${t5zero_core_headers})

add_library(t5zero_cpu INTERFACE)
add_library(t5zero::cpu ALIAS t5zero_cpu)
set_target_properties(t5zero_cpu PROPERTIES EXPORT_NAME cpu)
target_link_libraries(t5zero_cpu INTERFACE t5zero Eigen3::Eigen Threads::Threads)
target_sources(t5zero_cpu INTERFACE FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}/include FILES ${t5zero_cpu_headers})

add_library(t5zero_run_translation INTERFACE)
add_library(t5zero::run_translation ALIAS t5zero_run_translation)
set_target_properties(t5zero_run_translation PROPERTIES EXPORT_NAME run_translation)
target_link_libraries(t5zero_run_translation INTERFACE t5zero PkgConfig::sentencepiece
  nlohmann_json::nlohmann_json CLI11::CLI11 Threads::Threads)
target_sources(t5zero_run_translation INTERFACE FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}/include
  FILES ${t5zero_application_headers})

# Every header compiles alone: target all_verify_interface_header_sets.
set_target_properties(t5zero t5zero_cpu t5zero_run_translation PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON)

# How this project's own targets are compiled; never forced on users.
add_library(t5zero_own INTERFACE)
# GCC 12's own AVX-512 intrinsics trip -Wmaybe-uninitialized (GCC bug 105593).
target_compile_options(t5zero_own INTERFACE -Wall -Wextra $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized> $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>
  $<$<BOOL:${T5ZERO_WERROR}>:-Werror>
  $<$<BOOL:${T5ZERO_CPU_ARCH}>:-march=${T5ZERO_CPU_ARCH}>)
