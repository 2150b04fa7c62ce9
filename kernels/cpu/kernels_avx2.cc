// The CPU kernels compiled for one instruction set; CMake gives this file its flags.
#define TC_CPU_AVX2
#define TC_CPU_FORM cpu_avx2
#define TC_CPU_NAME "avx2"
#include "kernels/cpu/kernels_body.h"
