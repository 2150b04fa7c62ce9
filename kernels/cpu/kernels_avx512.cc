// The CPU kernels compiled for one instruction set; CMake gives this file its flags.
#define TC_CPU_AVX512
#define TC_CPU_FORM cpu_avx512
#define TC_CPU_NAME "avx512"
#include "kernels/cpu/kernels_body.h"
