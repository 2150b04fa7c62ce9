# Tests of CUDA kernels without a GPU: the same kernel sources through the host compiler and the emulator (kernels/simt).
# A sanitised build has the plain form alone (AddressSanitizer is told of the fibers); ThreadSanitizer knows nothing of them.
set(TC_EMULATE ${TC_TESTS})
if(TC_SANITIZE MATCHES "thread" OR TC_FUZZ)
  set(TC_EMULATE OFF)
endif()
set(TC_EMULATE_CHECKED OFF)
if(TC_EMULATE AND NOT TC_SANITIZE AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(TC_EMULATE_CHECKED ON)
endif()
# Kernels speak to two compilers: #pragma unroll is nvcc's.
set(TC_KERNEL_FLAGS -Wno-unknown-pragmas -fno-math-errno)
# Emulated kernels take long at any speed; under a sanitizer -O3 takes three times as long to compile.
set(TC_EMULATED_FLAGS ${TC_KERNEL_FLAGS} -O3)
if(TC_SANITIZE)
  set(TC_EMULATED_FLAGS ${TC_KERNEL_FLAGS} -O1)
endif()

# tc_gpu_program(NAME SRCS ... DEPS ...): a program over the kernels on a GPU. None is built by default: `gpu_programs` is
# all of them.
function(tc_gpu_program name)
  cmake_parse_arguments(A "" "" "SRCS;DEPS" ${ARGN})
  tc_executable(${name} SRCS ${A_SRCS} DEPS ${A_DEPS} tc_cuda_kernels TC::cudart)
  target_include_directories(${name} SYSTEM PRIVATE ${TC_CUDA_INCLUDE_DIRS})
  set_target_properties(${name} PROPERTIES EXCLUDE_FROM_ALL ON LINKER_LANGUAGE CXX)
  if(NOT TARGET gpu_programs)
    add_custom_target(gpu_programs)
  endif()
  add_dependencies(gpu_programs ${name})
endfunction()

# tc_kernel_test(NAME KERNELS a.cu ... SRCS a_test.cc ... [DEPS ...]): NAME runs the tests over the kernels as they are;
# NAME_checked over kernels whose every load and store the checker sees (-O1: further passes merge them); NAME_gpu, which
# tests/gpu/run.sh builds and starts, over the kernels on a GPU.
function(tc_kernel_test name)
  cmake_parse_arguments(A "" "" "SRCS;KERNELS;DEPS" ${ARGN})
  if(NOT TC_EMULATE)
    return()
  endif()
  set_source_files_properties(${A_KERNELS} PROPERTIES LANGUAGE CXX)
  add_library(${name}_cases OBJECT ${A_SRCS})
  tc_configure(${name}_cases)
  target_link_libraries(${name}_cases PRIVATE tc_simt GTest::gmock ${A_DEPS})

  set(own_kernels "")
  if(NOT A_KERNELS MATCHES "^${PROJECT_SOURCE_DIR}/kernels/")  # else they are in tc_emulated_kernels, compiled once for all
    add_library(${name}_kernels OBJECT ${A_KERNELS})
    tc_configure(${name}_kernels)
    target_compile_options(${name}_kernels PRIVATE ${TC_EMULATED_FLAGS})
    set(own_kernels $<TARGET_OBJECTS:${name}_kernels>)
  endif()
  tc_test(${name} SRCS $<TARGET_OBJECTS:${name}_cases> ${own_kernels} DEPS tc_emulated_kernels tc_simt ${A_DEPS})

  if(TC_CUDA AND NOT TC_SANITIZE)
    tc_gpu_program(${name}_gpu SRCS $<TARGET_OBJECTS:${name}_cases>
      DEPS tc_gpu_memory tc_gpu_probes GTest::gmock GTest::gtest_main ${A_DEPS})
  endif()

  if(TC_EMULATE_CHECKED)
    add_library(${name}_checked_kernels OBJECT ${A_KERNELS})
    tc_configure(${name}_checked_kernels)
    target_compile_options(${name}_checked_kernels PRIVATE ${TC_KERNEL_FLAGS} -O1 -g1 -fsanitize=thread)
    tc_test(${name}_checked SRCS $<TARGET_OBJECTS:${name}_cases> $<TARGET_OBJECTS:${name}_checked_kernels>
      DEPS tc_simt_checked ${A_DEPS})
  endif()
endfunction()

# tc_device_test(NAME SRCS ... DEPS ... [LABEL]): a test of host code over CUDA (kernels/cuda). NAME has the fake runtime and
# emulated kernels, NAME_gpu, which tests/gpu/run.sh builds and starts, the real ones. Without CUDA it shows what is refused.
function(tc_device_test name)
  if(TC_CUDA AND NOT TC_EMULATE)
    return()  # ThreadSanitizer knows nothing of the emulator's fibers
  endif()
  tc_test(${name} ${ARGN})
  set_target_properties(${name} PROPERTIES TC_FAKE_CUDA ON)
  if(TC_CUDA AND NOT TC_SANITIZE)
    cmake_parse_arguments(A "" "LABEL;TIMEOUT" "SRCS;DEPS" ${ARGN})
    tc_gpu_program(${name}_gpu SRCS ${A_SRCS} DEPS ${A_DEPS} GTest::gmock GTest::gtest_main)
  endif()
endfunction()
