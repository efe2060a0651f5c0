# install + find_package(t5zero). Component t5zero_development: headers and package files, which need no build, and
# the kernels where T5ZERO_CUDA is ON.
include(CMakePackageConfigHelpers)

if(T5ZERO_CUDA)
  # Before anything is copied.
  install(CODE "if(NOT EXISTS \"$<TARGET_FILE:t5zero_kernels>\")
  message(FATAL_ERROR \"t5zero: the kernels are not built: cmake --build ${PROJECT_BINARY_DIR} --target t5zero_kernels\")
endif()" COMPONENT t5zero_development)
endif()
install(TARGETS t5zero t5zero_cpu t5zero_run_translation EXPORT t5zero_targets
  FILE_SET HEADERS COMPONENT t5zero_development)
if(T5ZERO_CUDA)
  install(TARGETS t5zero_cuda t5zero_kernels EXPORT t5zero_targets
    FILE_SET HEADERS COMPONENT t5zero_development
    ARCHIVE COMPONENT t5zero_development)
endif()
install(EXPORT t5zero_targets NAMESPACE t5zero:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/t5zero
  COMPONENT t5zero_development)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/t5zeroConfig.cmake.in
  ${PROJECT_BINARY_DIR}/t5zeroConfig.cmake INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/t5zero)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/t5zeroConfigVersion.cmake
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/t5zeroConfig.cmake ${PROJECT_BINARY_DIR}/t5zeroConfigVersion.cmake
  cmake/t5zero_dependencies.cmake cmake/t5zero_add_run.cmake
  cmake/run_main.cpp.in cmake/run_entry.cpp.in cmake/run_dispatch.cpp.in
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/t5zero COMPONENT t5zero_development)
