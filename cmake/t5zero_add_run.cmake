# Functions that make an executable of one run or of several. They work in the build tree and after
# find_package(t5zero).
#
#   t5zero_add_run(NAME <executable> MODEL <model> ZERO <stage> PRECISION <precision>
#                  [BACKEND cpu|cuda] [INCLUDE <header>...])
#       One executable of the one type run<model, stage, precision, backend>.
#   t5zero_add_run_translation(NAME <executable> RUNS "<model> <stage> <precision>"...
#                  [BACKEND cpu|cuda...] [INCLUDE <header>...])
#       One executable of several; it picks the run that the command line asks for. Of several backends the first one
#       that has a device here is taken.
#   t5zero_add_translate(NAME <executable> RUNS "<model> <precision>"... [BACKEND cpu|cuda...] [INCLUDE <header>...])
#       An executable that translates lines of text with saved models of these kinds.
#   t5zero_list_runs(<variable> documented|all [BACKEND cpu|cuda])
#       The RUNS that stand for these words.
# BACKEND cuda exists where t5zero was configured with T5ZERO_CUDA=ON.
#
# Your own policies: name them with their namespace (MODEL mine::t5_tiny) and give the header that defines them with
# INCLUDE (as it is written between the quotes of an #include).

# The words that the functions know, in the caller: functions are global, variables are not.
macro(t5zero_set_known_words)
  set(T5ZERO_RUN_MODELS t5_small t5_base t5_large t5_3b t5_11b
    t5_v1_1_small t5_v1_1_base t5_v1_1_large t5_v1_1_xl t5_v1_1_xxl)
  set(T5ZERO_RUN_ZEROS zero_0 zero_1 zero_2 zero_3)
  set(T5ZERO_RUN_PRECISIONS_cpu fp32 fp16 bf16)
  set(T5ZERO_RUN_PRECISIONS_cuda fp32 tf32 fp16 bf16)
  set(T5ZERO_RUN_BACKENDS cpu)
  if(TARGET t5zero::cuda)
    list(APPEND T5ZERO_RUN_BACKENDS cuda)
  endif()
endmacro()

# Stops with a sentence unless `value` is one of the allowed ones, or names the user's own type where that may be.
function(t5zero_check_choice function keyword value own allowed)
  if("${value}" STREQUAL "")
    list(JOIN allowed ", " text)
    message(FATAL_ERROR "${function}: ${keyword} is missing. Allowed: ${text}.")
  endif()
  if(own AND value MATCHES "^[A-Za-z_][A-Za-z0-9_]*(::[A-Za-z_][A-Za-z0-9_]*)+$")
    return()
  endif()
  if(NOT value IN_LIST allowed)
    list(JOIN allowed ", " text)
    if(NOT own AND value MATCHES "::")
      set(hint " For a policy of your own, give the header that defines it with INCLUDE.")
    endif()
    message(FATAL_ERROR "${function}: ${keyword} is '${value}'. Allowed: ${text}.${hint}")
  endif()
endfunction()

# Checks the four policies of a run and sets, in the caller, the T5ZERO_RUN_* values that the templates read.
macro(t5zero_set_run_values function model zero precision backend includes)
  t5zero_set_known_words()
  set(t5zero_may_be_own FALSE)
  if(NOT "${includes}" STREQUAL "")
    set(t5zero_may_be_own TRUE)
  endif()
  t5zero_check_choice(${function} BACKEND "${backend}" FALSE "${T5ZERO_RUN_BACKENDS}")
  t5zero_check_choice(${function} MODEL "${model}" ${t5zero_may_be_own} "${T5ZERO_RUN_MODELS}")
  t5zero_check_choice(${function} ZERO "${zero}" ${t5zero_may_be_own} "${T5ZERO_RUN_ZEROS}")
  t5zero_check_choice(${function} PRECISION "${precision}" ${t5zero_may_be_own} "${T5ZERO_RUN_PRECISIONS_${backend}}")
  set(T5ZERO_RUN_UMBRELLA ${backend}.hpp)
  set(T5ZERO_RUN_BACKEND t5zero::${backend}::backend)
  set(T5ZERO_RUN_MODEL "${model}")
  set(T5ZERO_RUN_ZERO "${zero}")
  set(T5ZERO_RUN_PRECISION "${precision}")
  foreach(t5zero_role MODEL ZERO PRECISION)
    if(NOT T5ZERO_RUN_${t5zero_role} MATCHES "::")
      string(PREPEND T5ZERO_RUN_${t5zero_role} "t5zero::")
    endif()
  endforeach()
  set(T5ZERO_RUN_INCLUDES "")
  foreach(t5zero_header ${includes})
    string(APPEND T5ZERO_RUN_INCLUDES "#include \"${t5zero_header}\"\n")
  endforeach()
endmacro()

# What every such executable links, and where it finds the caller's headers.
function(t5zero_finish_run name backends)
  foreach(backend IN LISTS backends)
    target_link_libraries(${name} PRIVATE t5zero::${backend})
  endforeach()
  target_link_libraries(${name} PRIVATE t5zero::run_translation)
  target_include_directories(${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
endfunction()

function(t5zero_check_name function name unparsed)
  if(NOT "${unparsed}" STREQUAL "")
    list(JOIN unparsed " " text)
    message(FATAL_ERROR "${function}: unknown argument '${text}'. Known: ${ARGN}.")
  endif()
  if("${name}" STREQUAL "")
    message(FATAL_ERROR "${function}: NAME is missing. Give the name of the executable.")
  endif()
  if(NOT name MATCHES "^[A-Za-z_][A-Za-z0-9_]*$")
    message(FATAL_ERROR "${function}: NAME is '${name}'. Allowed: letters, digits and '_', not a digit first.")
  endif()
  if(TARGET ${name})
    message(FATAL_ERROR "${function}: NAME is '${name}', and a target of this name exists. Choose another.")
  endif()
endfunction()

function(t5zero_add_run)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "NAME;MODEL;ZERO;PRECISION;BACKEND" "INCLUDE")
  t5zero_check_name(t5zero_add_run "${arg_NAME}" "${arg_UNPARSED_ARGUMENTS}"
    "NAME, MODEL, ZERO, PRECISION, BACKEND, INCLUDE")
  if(NOT DEFINED arg_BACKEND)
    set(arg_BACKEND cpu)
  endif()
  t5zero_set_run_values(t5zero_add_run "${arg_MODEL}" "${arg_ZERO}" "${arg_PRECISION}" "${arg_BACKEND}"
    "${arg_INCLUDE}")
  set(source ${CMAKE_CURRENT_BINARY_DIR}/${arg_NAME}.run.cpp)
  configure_file(${CMAKE_CURRENT_FUNCTION_LIST_DIR}/run_main.cpp.in ${source} @ONLY)
  add_executable(${arg_NAME} ${source})
  t5zero_finish_run(${arg_NAME} ${arg_BACKEND})
endfunction()

# An executable of several runs, "<model> <stage> <precision>" each: `function` is the caller, for messages. `header`
# and `program` say what each run becomes, `dispatch_header` and `dispatch` what picks one.
function(t5zero_add_dispatched function name backends runs includes header program dispatch_header dispatch)
  set(T5ZERO_RUN_DECLARATIONS "")
  set(T5ZERO_RUN_ROWS "")
  set(T5ZERO_RUN_HEADER ${header})
  set(T5ZERO_RUN_PROGRAM ${program})
  set(T5ZERO_DISPATCH_HEADER ${dispatch_header})
  set(T5ZERO_DISPATCH ${dispatch})
  set(sources "")
  foreach(backend IN LISTS backends)
    foreach(one IN LISTS runs)
      string(REGEX REPLACE " +" ";" parts "${one}")
      list(GET parts 0 model)
      list(GET parts 1 zero)
      list(GET parts 2 precision)
      t5zero_set_run_values(${function} "${model}" "${zero}" "${precision}" "${backend}" "${includes}")
      string(MAKE_C_IDENTIFIER "t5zero_run_${model}_${zero}_${precision}_${backend}" T5ZERO_RUN_ENTRY)
      set(source ${CMAKE_CURRENT_BINARY_DIR}/${name}.runs/${T5ZERO_RUN_ENTRY}.cpp)
      if(source IN_LIST sources)
        message(FATAL_ERROR "${function}: RUNS has '${one}' twice. Name each run once.")
      endif()
      configure_file(${CMAKE_CURRENT_FUNCTION_LIST_DIR}/run_entry.cpp.in ${source} @ONLY)
      list(APPEND sources ${source})
      string(APPEND T5ZERO_RUN_DECLARATIONS
        "int ${T5ZERO_RUN_ENTRY}(int argc, char** argv);\nbool ${T5ZERO_RUN_ENTRY}_is_available();\n")
      # The policies' own names: what the command line and the messages say.
      string(APPEND T5ZERO_RUN_ROWS
        "    {std::string_view(${T5ZERO_RUN_MODEL}::name).data(), &${T5ZERO_RUN_MODEL}::shape, ${T5ZERO_RUN_ZERO}::stage,\n"
        "     std::string_view(${T5ZERO_RUN_PRECISION}::name).data(), \"${backend}\", &${T5ZERO_RUN_ENTRY}_is_available,\n"
        "     &${T5ZERO_RUN_ENTRY}},\n")
    endforeach()
  endforeach()
  set(main ${CMAKE_CURRENT_BINARY_DIR}/${name}.runs/main.cpp)
  configure_file(${CMAKE_CURRENT_FUNCTION_LIST_DIR}/run_dispatch.cpp.in ${main} @ONLY)
  add_executable(${name} ${main} ${sources})
  t5zero_finish_run(${name} "${backends}")
endfunction()

# Stops with a sentence unless RUNS, as given to `function`, has entries of `count` words such as `example`.
function(t5zero_check_runs function runs count example)
  if(NOT runs)
    message(FATAL_ERROR "${function}: RUNS is missing. Give one or more, such as \"${example}\".")
  endif()
  foreach(one IN LISTS runs)
    string(REGEX REPLACE " +" ";" parts "${one}")
    list(LENGTH parts words)
    if(NOT words EQUAL count)
      message(FATAL_ERROR "${function}: RUNS has '${one}'. Expected ${count} words, such as \"${example}\".")
    endif()
  endforeach()
endfunction()

function(t5zero_add_run_translation)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "NAME" "RUNS;BACKEND;INCLUDE")
  t5zero_check_name(t5zero_add_run_translation "${arg_NAME}" "${arg_UNPARSED_ARGUMENTS}"
    "NAME, RUNS, BACKEND, INCLUDE")
  if(NOT DEFINED arg_BACKEND)
    set(arg_BACKEND cpu)
  endif()
  t5zero_check_runs(t5zero_add_run_translation "${arg_RUNS}" 3 "t5_small zero_2 fp16")
  t5zero_add_dispatched(t5zero_add_run_translation ${arg_NAME} "${arg_BACKEND}" "${arg_RUNS}" "${arg_INCLUDE}"
    run_translation.hpp run_translation cli/dispatch.hpp dispatch)
endfunction()

function(t5zero_add_translate)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "NAME" "RUNS;BACKEND;INCLUDE")
  t5zero_check_name(t5zero_add_translate "${arg_NAME}" "${arg_UNPARSED_ARGUMENTS}" "NAME, RUNS, BACKEND, INCLUDE")
  if(NOT DEFINED arg_BACKEND)
    set(arg_BACKEND cpu)
  endif()
  t5zero_check_runs(t5zero_add_translate "${arg_RUNS}" 2 "t5_small bf16")
  # Nothing is sharded where nothing is trained.
  list(TRANSFORM arg_RUNS REPLACE "^([^ ]+) +([^ ]+)$" "\\1 zero_0 \\2")
  t5zero_add_dispatched(t5zero_add_translate ${arg_NAME} "${arg_BACKEND}" "${arg_RUNS}" "${arg_INCLUDE}"
    translate.hpp translate cli/dispatch_translate.hpp dispatch_translate)
endfunction()

function(t5zero_list_runs variable which)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "BACKEND" "")
  if(NOT DEFINED arg_BACKEND)
    set(arg_BACKEND cpu)
  endif()
  t5zero_set_known_words()
  t5zero_check_choice(t5zero_list_runs BACKEND "${arg_BACKEND}" FALSE "${T5ZERO_RUN_BACKENDS}")
  set(runs "")
  if(which STREQUAL "documented")
    set(runs "t5_small zero_2 fp16" "t5_large zero_2 fp32" "t5_3b zero_3 fp16" "t5_small zero_0 fp32"
      "t5_small zero_0 fp16" "t5_small zero_0 bf16" "t5_small zero_2 fp32" "t5_small zero_2 bf16"
      "t5_base zero_2 bf16")
  elseif(which STREQUAL "all")
    foreach(model IN LISTS T5ZERO_RUN_MODELS)
      foreach(zero IN LISTS T5ZERO_RUN_ZEROS)
        foreach(precision IN LISTS T5ZERO_RUN_PRECISIONS_${arg_BACKEND})
          list(APPEND runs "${model} ${zero} ${precision}")
        endforeach()
      endforeach()
    endforeach()
  else()
    message(FATAL_ERROR "T5ZERO_RUNS is '${which}'. Allowed: documented, all.")
  endif()
  set(${variable} "${runs}" PARENT_SCOPE)
endfunction()
