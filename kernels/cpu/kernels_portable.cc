// The CPU kernels compiled for one instruction set; CMake gives this file its flags.
#define TC_CPU_PORTABLE
#define TC_CPU_FORM cpu_portable
#define TC_CPU_NAME "portable"
#include "kernels/cpu/kernels_body.h"
