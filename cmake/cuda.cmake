# libnibble-cuda.so: the CUDA backend, for compute capability 8.0 (and through its PTX everything later) and 9.0.
# It brings its own copies of the few rooms that it stands on, and needs nothing beside CUDA's run-time libraries.
set(CMAKE_CUDA_ARCHITECTURES OFF)
enable_language(CUDA)
find_package(CUDAToolkit 12.0 REQUIRED)
find_library(CUBLASLT cublasLt PATHS ${CUDAToolkit_LIBRARY_DIR} REQUIRED)

set(NIBBLE_CUDA_CODE "--generate-code=arch=compute_80,code=[compute_80,sm_80];--generate-code=arch=compute_90a,code=sm_90a"
    CACHE STRING "what nvcc compiles for")

file(GLOB CUDA_SOURCES CONFIGURE_DEPENDS src/backend/cuda/*.c src/backend/cuda/*.cu)
add_library(nibble-cuda SHARED ${CUDA_SOURCES}
  src/base/status.c src/base/beside.c src/format/element.c src/format/format.c src/backend/backend.c src/backend/compose.c src/backend/units.c src/backend/ref/quantize_parts.c
  src/backend/ref/measure.c src/backend/ref/gemm_q.c src/backend/ref/gemm.c src/backend/ref/dge_occ.c
  src/backend/ref/operand_parts.c)
set_target_properties(nibble-cuda PROPERTIES
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR} C_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden
  CUDA_STANDARD 17 CUDA_RUNTIME_LIBRARY Static POSITION_INDEPENDENT_CODE ON)
target_include_directories(nibble-cuda PRIVATE include src SYSTEM ${CUDAToolkit_INCLUDE_DIRS})
# NB_API is nothing here: its copies of public functions are its own, whatever the program exports.
target_compile_definitions(nibble-cuda PRIVATE "NB_API=" _POSIX_C_SOURCE=200809L _DEFAULT_SOURCE)
target_compile_options(nibble-cuda PRIVATE
  $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror -ffp-contract=off>
  $<$<COMPILE_LANGUAGE:CUDA>:-O3 -Xcompiler=-Wall
    ${NIBBLE_CUDA_CODE}>)
target_link_libraries(nibble-cuda PRIVATE ${CUBLASLT} CUDA::cudart_static m ${CMAKE_DL_LIBS})
target_link_options(nibble-cuda PRIVATE LINKER:-z,defs) # what is missing is found here, not on a machine with a GPU

# The same once more, counting launches, for scripts/gpu-check (tests/plugin/launches.c).
if(NIBBLE_TESTS)
  add_library(nibble-cuda-launches MODULE EXCLUDE_FROM_ALL tests/plugin/launches.c $<TARGET_OBJECTS:nibble-cuda>)
  set_target_properties(nibble-cuda-launches PROPERTIES OUTPUT_NAME nibble-cuda LINKER_LANGUAGE CXX
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/plugin/launches C_VISIBILITY_PRESET hidden)
  target_include_directories(nibble-cuda-launches SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_compile_options(nibble-cuda-launches PRIVATE -Wall -Wextra -Werror)
  set(WRAPPED __cudaRegisterFunction __cudaGetKernel __cudaLaunchKernel cudaLaunchKernel cudaLaunchKernelExC cudaLaunchCooperativeKernel
    cudaDeviceGetAttribute cudaGetDeviceProperties cudaGetDeviceProperties_v2 cudaGetDeviceCount cudaDriverGetVersion cublasLtMatmul)
  list(TRANSFORM WRAPPED PREPEND "-Wl,--wrap=")
  target_link_options(nibble-cuda-launches PRIVATE ${WRAPPED} LINKER:-z,defs)
  target_link_libraries(nibble-cuda-launches PRIVATE ${CUBLASLT} CUDA::cudart_static m ${CMAKE_DL_LIBS})
endif()
