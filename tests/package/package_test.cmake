# cmake -DBUILD_DIR=<configured build> -DUSER_DIR=<project> -DWORK_DIR=<scratch> -DGENERATOR=... -DCOMPILER=...
# -P package_test.cmake
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

# The headers and the package files only: the executables need not be built for this test.
must_succeed("install" ${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${prefix} --component t5zero_development)
must_succeed("configure" ${CMAKE_COMMAND} -S ${USER_DIR} -B ${build} -G ${GENERATOR}
  -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_PREFIX_PATH=${prefix})
must_succeed("build" ${CMAKE_COMMAND} --build ${build})
must_succeed("run" ${build}/policies)
