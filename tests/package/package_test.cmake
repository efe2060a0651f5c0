# cmake -DBUILD_DIR=<configured build> -DUSER_DIR=<project> -DWORK_DIR=<scratch> -DGENERATOR=... -DCOMPILER=...
# -DCUDA=<has that build the CUDA backend?> -P package_test.cmake
cmake_minimum_required(VERSION 3.25)

set(prefix ${WORK_DIR}/prefix)
set(build ${WORK_DIR}/user_build)
file(REMOVE_RECURSE ${prefix} ${build})

function(must_succeed what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${what} failed:\n${output}")
  endif()
endfunction()

# The headers and the package files, with CUDA the kernels: the executables need not be built for this test.
must_succeed("install" ${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${prefix} --component t5zero_development)
must_succeed("configure" ${CMAKE_COMMAND} -S ${USER_DIR} -B ${build} -G ${GENERATOR}
  -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_PREFIX_PATH=${prefix} -DEXPECT_CUDA=${CUDA})
must_succeed("build" ${CMAKE_COMMAND} --build ${build})
must_succeed("run" ${build}/policies)
# Built by t5zero_add_run in a folder other than the one of find_package.
must_succeed("plan" ${build}/runs/tiny --model_name_or_path t5-tiny --source_lang en --target_lang ro
  --dataset_name none --deepspeed ${SOURCE_DIR}/examples/config/ds_config_zero2.json --plan)
must_succeed("plan of one run among several" ${build}/runs/tiny_runs --config_name t5-tiny --from_scratch
  --source_lang en --target_lang ro --dataset_name none --plan)

# As a part of a larger project: nothing of ours is forced on its targets.
set(outer ${WORK_DIR}/outer)
file(REMOVE_RECURSE ${outer})
file(WRITE ${outer}/CMakeLists.txt "cmake_minimum_required(VERSION 3.25)
project(outer LANGUAGES CXX)
add_subdirectory(${SOURCE_DIR} t5zero)
t5zero_add_run(NAME mine MODEL t5_small ZERO zero_0 PRECISION fp32)
get_target_property(linked mine LINK_LIBRARIES)
if(linked MATCHES t5zero_own)
  message(FATAL_ERROR \"the warnings of t5zero's own targets are forced on users\")
endif()
")
must_succeed("configure as a subproject" ${CMAKE_COMMAND} -S ${outer} -B ${outer}/build -G ${GENERATOR}
  -DCMAKE_CXX_COMPILER=${COMPILER})

# A missing dependency is the consumer's to handle.
file(WRITE ${outer}/missing/CMakeLists.txt "cmake_minimum_required(VERSION 3.25)
project(missing LANGUAGES CXX)
find_package(t5zero QUIET)
if(t5zero_FOUND)
  message(FATAL_ERROR \"t5zero was found without CLI11\")
endif()
")
must_succeed("configure without CLI11" ${CMAKE_COMMAND} -S ${outer}/missing -B ${outer}/missing/build -G ${GENERATOR}
  -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_PREFIX_PATH=${prefix} -DCMAKE_DISABLE_FIND_PACKAGE_CLI11=ON)
