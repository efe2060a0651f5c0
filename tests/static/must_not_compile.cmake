# Compiles one source and passes if the compiler refuses it with the expected words:
# cmake -DCOMPILER=<c++> -DSOURCE=<x.cpp> -DINCLUDES=<dir;...> -P must_not_compile.cmake
# The first line of the source is "// expect: <regex>", in CMake's regular expressions; ^ and $ are not lines' ends.
# A source whose first line is "// compiles" must compile: the control that a case fails for its own reason.
cmake_minimum_required(VERSION 3.25)

file(READ ${SOURCE} text LIMIT 1000)
set(must_compile FALSE)
if(text MATCHES "^// expect: ([^\n]+)")
  set(expected "${CMAKE_MATCH_1}")
elseif(text MATCHES "^// compiles")
  set(must_compile TRUE)
else()
  message(FATAL_ERROR "${SOURCE}: the first line must be '// expect: <regex>' or '// compiles'")
endif()

list(TRANSFORM INCLUDES PREPEND "-I")
execute_process(
  COMMAND ${COMPILER} -std=c++20 -fsyntax-only -fdiagnostics-color=never -fmessage-length=0 ${INCLUDES} ${SOURCE}
  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)

if(must_compile)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${SOURCE} must compile and does not:\n${output}")
  endif()
  return()
endif()
if(result EQUAL 0)
  message(FATAL_ERROR "${SOURCE} compiles and must not")
endif()
# A sentence that the compiler breaks over lines is still one sentence.
string(REGEX REPLACE "[ \n]+" " " flat "${output}")
if(NOT flat MATCHES "${expected}")
  message(FATAL_ERROR "${SOURCE} is refused, but nothing matches '${expected}':\n${output}")
endif()
