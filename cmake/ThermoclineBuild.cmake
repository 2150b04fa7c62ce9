# How every target of the project is compiled: one place for warnings, sanitizers, linker and test conventions.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

set(TC_SANITIZE "" CACHE STRING "Value for -fsanitize=: address,undefined or thread")
option(TC_FUZZ "Build the fuzz targets with libFuzzer (clang)" OFF)
include(GNUInstallDirs)

find_program(TC_CCACHE ccache)
if(TC_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${TC_CCACHE}")
endif()
find_program(TC_LLD ld.lld)
if(TC_LLD)
  add_link_options(-fuse-ld=lld)
endif()

set(TC_WARNINGS -Wall -Wextra -Werror -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  list(APPEND TC_WARNINGS -Wthread-safety -Wno-missing-braces)
endif()
# The rule of exactness needs it in the kernels, and nothing else minds: a*b+c is fused only where it is written so.
add_compile_options(-ffp-contract=off)

# Our own code is sanitised; generated protobuf code is not (half a minute a file, and it is not ours to test).
set(TC_SANITIZE_FLAGS "")
if(TC_SANITIZE)
  set(TC_SANITIZE_FLAGS -fsanitize=${TC_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${TC_SANITIZE})
endif()
if(TC_SANITIZE STREQUAL "thread")
  # ThreadSanitizer does not understand fences (-Wtsan). Asio's are redundant beside the locks of its queues; ours must
  # have another form under it, so the warning stays on.
  add_compile_definitions(BOOST_ASIO_DISABLE_FENCED_BLOCK)
endif()
if(TC_FUZZ)
  list(APPEND TC_SANITIZE_FLAGS -fsanitize=fuzzer-no-link)
  add_link_options(-fsanitize=fuzzer-no-link)
endif()

function(tc_configure target)
  target_compile_options(${target} PRIVATE ${TC_WARNINGS} ${TC_SANITIZE_FLAGS})
  target_include_directories(${target} PUBLIC "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>")
endfunction()

# tc_library(NAME SRCS a.cc... [DEPS tc_base absl::status ...] [KEY8])
# KEY8 also makes NAME_k8, the same sources with 8-bit keys: a build in which nearly every key collides, to show that a
# collision costs a hit at most. Dependencies that have a _k8 twin are replaced by it there.
function(tc_library name)
  cmake_parse_arguments(A "KEY8" "" "SRCS;DEPS" ${ARGN})
  add_library(${name} STATIC ${A_SRCS})
  tc_configure(${name})
  target_link_libraries(${name} PUBLIC ${A_DEPS})
  if(A_KEY8)
    add_library(${name}_k8 STATIC EXCLUDE_FROM_ALL ${A_SRCS})
    tc_configure(${name}_k8)
    target_compile_definitions(${name}_k8 PUBLIC TC_KEY_BITS=8)
    set(deps "")
    foreach(dep ${A_DEPS})
      if(TARGET ${dep}_k8)
        list(APPEND deps ${dep}_k8)
      else()
        list(APPEND deps ${dep})
      endif()
    endforeach()
    target_link_libraries(${name}_k8 PUBLIC ${deps})
  endif()
endfunction()

# tc_executable(NAME SRCS ... DEPS ...)
function(tc_executable name)
  cmake_parse_arguments(A "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${A_SRCS})
  tc_configure(${name})
  target_link_libraries(${name} PRIVATE ${A_DEPS})
endfunction()

# tc_test(NAME SRCS ... DEPS ... [LABEL unit] [TIMEOUT seconds] [ARGS ...]): a GoogleTest program, run whole as one ctest
# entry. Tests that need ../shared/data look for it through TC_SHARED_DATA and skip, visibly, where it is absent.
function(tc_test name)
  cmake_parse_arguments(A "" "LABEL;TIMEOUT" "SRCS;DEPS;ARGS" ${ARGN})
  if(NOT A_LABEL)
    set(A_LABEL unit)
  endif()
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 600)
  endif()
  tc_executable(${name} SRCS ${A_SRCS} DEPS ${A_DEPS} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE
    TC_SOURCE_DIR="${PROJECT_SOURCE_DIR}" TC_BUILD_DIR="${CMAKE_BINARY_DIR}"
    TC_SHARED_DATA="${PROJECT_SOURCE_DIR}/../shared/data")
  add_test(NAME ${name} COMMAND ${name} ${A_ARGS})
  # Skipped is what ran nothing and failed nowhere: after a list of failures the output goes on.
  set_tests_properties(${name} PROPERTIES LABELS ${A_LABEL} TIMEOUT ${A_TIMEOUT} SKIP_REGULAR_EXPRESSION
    "\\[  PASSED  \\] 0 tests\\.\n\\[  SKIPPED \\] [0-9]+ tests?, listed below:\n(\\[  SKIPPED \\] [^\n]*\n)+$" ENVIRONMENT
    "TSAN_OPTIONS=ignore_noninstrumented_modules=1 halt_on_error=1 suppressions=${PROJECT_SOURCE_DIR}/tests/tsan.supp")
endfunction()

# tc_fuzz(NAME SRCS ... DEPS ...): LLVMFuzzerTestOneInput. Under the `fuzz` preset a libFuzzer binary; elsewhere the same
# function driven over the kept corpus (tests/fuzz/corpus/NAME) and seeded mutations of it, so that it cannot rot.
function(tc_fuzz name)
  cmake_parse_arguments(A "" "" "SRCS;DEPS" ${ARGN})
  set(corpus "${PROJECT_SOURCE_DIR}/tests/fuzz/corpus/${name}")
  if(TC_FUZZ)
    tc_executable(${name} SRCS ${A_SRCS} DEPS ${A_DEPS})
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    add_test(NAME ${name} COMMAND ${name} -max_total_time=30 -rss_limit_mb=4096 "${CMAKE_BINARY_DIR}/corpus/${name}" ${corpus})
    file(MAKE_DIRECTORY "${CMAKE_BINARY_DIR}/corpus/${name}")
  else()
    tc_executable(${name} SRCS ${A_SRCS} "${PROJECT_SOURCE_DIR}/tests/fuzz/standalone_main.cc" DEPS ${A_DEPS})
    add_test(NAME ${name} COMMAND ${name} ${corpus})
  endif()
  set_tests_properties(${name} PROPERTIES LABELS fuzz TIMEOUT 600)
endfunction()
