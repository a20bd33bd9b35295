# libnibble-mpi.so: what carries bytes between the processes that mpirun started (docs/many-processes.md). It is opened
# at run time where mpirun says that there are some, so that the program itself needs no MPI.
set(NIBBLE_MPI AUTO CACHE STRING "build libnibble-mpi.so: ON, OFF, or AUTO: where MPI is found")
if(NIBBLE_CARRIED AND NIBBLE_MPI STREQUAL AUTO)
  set(NIBBLE_MPI OFF)
endif()
if(NIBBLE_MPI)
  set(MPI_NEEDED)
  if(NOT NIBBLE_MPI STREQUAL AUTO)
    set(MPI_NEEDED REQUIRED)
  endif()
  find_package(MPI COMPONENTS C ${MPI_NEEDED})
  if(MPI_C_FOUND)
    add_library(nibble-mpi MODULE src/dist/mpi/library.c src/base/limited.c src/base/status.c)
    target_link_libraries(nibble-mpi PRIVATE nibble_flags MPI::MPI_C)
    set_target_properties(nibble-mpi PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR} C_VISIBILITY_PRESET hidden)
    target_compile_definitions(nibble-mpi PRIVATE "NB_API=") # its copies of public functions are its own
  endif()
endif()
