# Checks which room of include/t5zero includes which: cmake -DINCLUDE_DIR=<include/t5zero> -P layering_test.cmake
# A room may include itself and the rooms below it; a .hpp never includes a .cuh. Fails with one line an upward edge.
cmake_minimum_required(VERSION 3.25)
get_filename_component(INCLUDE_DIR "${INCLUDE_DIR}" ABSOLUTE)

# Low to high; rooms of one line are siblings and do not include each other.
set(floors
  "core"
  "policy"
  "tensor"
  "plan"
  "optim"
  "backend"
  "comm"
  "nn"
  "cpu cuda"
  "model"
  "data io"
  "zero"
  "train"
  "cli"
  "umbrella")
# Edges that the floors would allow and the design does not: ZeRO knows no T5.
set(forbidden "zero>nn" "zero>model" "zero>data")

set(floor 0)
foreach(names IN LISTS floors)
  separate_arguments(names)
  foreach(room IN LISTS names)
    set(floor_of_${room} ${floor})
  endforeach()
  math(EXPR floor "${floor} + 1")
endforeach()

# The room of a path below include/t5zero; headers that lie in no folder are umbrellas. backend/ itself holds concepts,
# which nn/ is written against; backend/cpu and backend/cuda compose their sublayers from nn/ and so stand above it.
function(room_of variable path)
  if(path MATCHES "^backend/(cpu|cuda)/")
    set(${variable} ${CMAKE_MATCH_1} PARENT_SCOPE)
  elseif(path MATCHES "^([^/]+)/")
    set(${variable} ${CMAKE_MATCH_1} PARENT_SCOPE)
  else()
    set(${variable} umbrella PARENT_SCOPE)
  endif()
endfunction()

file(GLOB_RECURSE headers RELATIVE ${INCLUDE_DIR} ${INCLUDE_DIR}/*.hpp ${INCLUDE_DIR}/*.cuh)
list(LENGTH headers count)
if(count EQUAL 0)
  message(FATAL_ERROR "no header below ${INCLUDE_DIR}")
endif()

set(errors 0)
set(edges 0)
foreach(header IN LISTS headers)
  room_of(room ${header})
  if(NOT DEFINED floor_of_${room})
    message(SEND_ERROR "${header}: room '${room}' is not in tests/layering_test.cmake; say there where it stands")
    math(EXPR errors "${errors} + 1")
    continue()
  endif()
  file(STRINGS ${INCLUDE_DIR}/${header} lines REGEX "^[ \t]*#[ \t]*include")
  foreach(line IN LISTS lines)
    if(header MATCHES "\\.hpp$" AND line MATCHES "\\.cuh[>\"]")
      message(SEND_ERROR "${header}: ${line}: a .hpp compiles without nvcc and includes no .cuh")
      math(EXPR errors "${errors} + 1")
    endif()
    if(line MATCHES "include[ \t]*\"")
      message(SEND_ERROR "${header}: ${line}: write #include <t5zero/room/name.hpp>, which this test can read")
      math(EXPR errors "${errors} + 1")
    endif()
    if(NOT line MATCHES "<t5zero/([^>]+)>")
      continue()
    endif()
    set(target ${CMAKE_MATCH_1})
    room_of(target_room ${target})
    math(EXPR edges "${edges} + 1")
    if(NOT EXISTS ${INCLUDE_DIR}/${target})
      message(SEND_ERROR "${header}: includes <t5zero/${target}>, which does not exist")
      math(EXPR errors "${errors} + 1")
    elseif(NOT DEFINED floor_of_${target_room})
      message(SEND_ERROR "${header}: includes <t5zero/${target}> of the unknown room '${target_room}'")
      math(EXPR errors "${errors} + 1")
    elseif("${room}>${target_room}" IN_LIST forbidden)
      message(SEND_ERROR "${header}: includes <t5zero/${target}>, and ${room}/ must not know ${target_room}/")
      math(EXPR errors "${errors} + 1")
    elseif(NOT room STREQUAL target_room AND NOT floor_of_${target_room} LESS floor_of_${room})
      message(SEND_ERROR
        "${header}: includes <t5zero/${target}>, an upward edge: ${room}/ stands below or beside ${target_room}/")
      math(EXPR errors "${errors} + 1")
    endif()
  endforeach()
endforeach()
if(errors GREATER 0)
  message(FATAL_ERROR "${errors} include(s) break the rule 'a room includes only rooms below it'")
endif()
message(STATUS "${count} headers, ${edges} includes, none upward")
