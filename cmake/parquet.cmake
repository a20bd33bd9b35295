# libnibble-parquet.so: Apache Arrow's reader of Parquet (docs/dependencies.md). It is opened at run time by `nibble tokenize`
# where somebody gives it such a file, so that the program itself needs no Arrow.
option(NIBBLE_PARQUET "build libnibble-parquet.so, which reads text from Parquet; needs Apache Arrow's C++ library" OFF)
set(NIBBLE_ARROW "" CACHE PATH "folder with Arrow's include/, libarrow.so.* and libparquet.so.* (scripts/fetch-arrow); else CMake looks")
if(NIBBLE_PARQUET)
  set(ARROW_FILES)
  if(NIBBLE_ARROW)
    file(GLOB ARROW_FILES ${NIBBLE_ARROW}/libparquet.so.* ${NIBBLE_ARROW}/libarrow.so.*)
    find_path(ARROW_HEADERS parquet/file_reader.h PATHS ${NIBBLE_ARROW}/include NO_DEFAULT_PATH REQUIRED)
    add_library(arrow_parquet INTERFACE)
    target_include_directories(arrow_parquet SYSTEM INTERFACE ${ARROW_HEADERS})
    target_link_libraries(arrow_parquet INTERFACE ${ARROW_FILES})
  else()
    find_package(Parquet REQUIRED CONFIG)
    add_library(arrow_parquet ALIAS Parquet::parquet_shared)
  endif()
  add_library(nibble-parquet MODULE src/data/parquet/library.cc)
  target_link_libraries(nibble-parquet PRIVATE nibble_flags arrow_parquet)
  set_target_properties(nibble-parquet PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR} CXX_STANDARD 20
    CXX_STANDARD_REQUIRED ON CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  if(ARROW_FILES) # Arrow is installed into the same folder
    set_target_properties(nibble-parquet PROPERTIES INSTALL_RPATH "$ORIGIN;${NIBBLE_ARROW}")
  endif()
endif()
