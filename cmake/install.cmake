# What `make install` puts under a prefix: the program, the library for programs of one's own, and what they read.
#
# The program and the tests are made of all that the library has inside. Programs outside get the functions that
# include/nibble declares, and nothing else: in libnibble.so by visibility, in libnibble.a by joining its objects into one
# and making local whatever is not public (tests/test_symbols.sh).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

find_program(GNU_LD NAMES ld.bfd ld) # clang's own linker knows no groups
set(PACKAGE_FOLDER ${CMAKE_BINARY_DIR}/package)
set(PACKAGE_ARCHIVE ${PACKAGE_FOLDER}/libnibble.a)
add_custom_command(OUTPUT ${PACKAGE_ARCHIVE}
  COMMAND ${CMAKE_COMMAND} -E make_directory ${PACKAGE_FOLDER}
  COMMAND ${CMAKE_COMMAND} -E rm -f ${PACKAGE_ARCHIVE}
  # Groups of C++ templates go: a local copy must not stand in for, or be dropped for, one of the program's.
  COMMAND ${GNU_LD} -r --force-group-allocation --whole-archive $<TARGET_FILE:nibble> -o ${PACKAGE_FOLDER}/nibble.o
  COMMAND ${CMAKE_OBJCOPY} --localize-hidden --wildcard "--keep-global-symbol=nb_*" ${PACKAGE_FOLDER}/nibble.o
  COMMAND ${CMAKE_AR} rcs ${PACKAGE_ARCHIVE} ${PACKAGE_FOLDER}/nibble.o
  DEPENDS nibble COMMENT "Joining libnibble.a" VERBATIM)
add_custom_target(nibble-archive ALL DEPENDS ${PACKAGE_ARCHIVE})

# Before 1.0 every minor version may change what a program is compiled against, so the name that programs ask for has it.
set(NIBBLE_SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
add_library(nibble-shared SHARED $<TARGET_OBJECTS:nibble>)
target_link_libraries(nibble-shared PRIVATE nibble_flags ${NIBBLE_LIBRARIES})
target_link_options(nibble-shared PRIVATE -Wl,-z,defs -Wl,-Bsymbolic-functions
  -Wl,--version-script=${CMAKE_SOURCE_DIR}/cmake/nibble.map)
set_target_properties(nibble-shared PROPERTIES OUTPUT_NAME nibble LINKER_LANGUAGE CXX
  LINK_DEPENDS ${CMAKE_SOURCE_DIR}/cmake/nibble.map
  VERSION ${PROJECT_VERSION} SOVERSION ${NIBBLE_SOVERSION} LIBRARY_OUTPUT_DIRECTORY ${PACKAGE_FOLDER})
set(SHARED_EXCLUDED)
if(NOT BUILD_SHARED_LIBS) # the tests ask for it by name all the same
  set_target_properties(nibble-shared PROPERTIES EXCLUDE_FROM_ALL ON)
  set(SHARED_EXCLUDED EXCLUDE_FROM_ALL)
endif()

# What a program that links the archive needs beside it; one that links libnibble.so needs none of it.
set(OPENMP_LINK -lgomp)
if(NOT CMAKE_C_COMPILER_ID STREQUAL GNU) # the runtime that this compiler's code calls
  list(JOIN OpenMP_C_LIBRARIES " " OPENMP_LINK)
endif()
set(NIBBLE_REQUIRES "yaml-0.1 jansson libxxhash sentencepiece zlib libzstd libpcre2-8 libutf8proc openblas")
set(NIBBLE_LINK "-ldnnl ${OPENMP_LINK} -lstdc++ -lpthread -ldl -lm")
if(NIBBLE_CARRIED)
  set(NIBBLE_REQUIRES "yaml-0.1 jansson libxxhash sentencepiece zlib libzstd libpcre2-8 libutf8proc")
  set(NIBBLE_LINK "${OPENMP_LINK} -lstdc++ -lpthread -ldl -lm")
endif()
if(NOT SENTENCEPIECE_FOUND)
  string(REPLACE " sentencepiece" "" NIBBLE_REQUIRES "${NIBBLE_REQUIRES}")
  string(PREPEND NIBBLE_LINK "-lsentencepiece -lsentencepiece_train ")
endif()
set(PC_NEEDS "Requires: ${NIBBLE_REQUIRES}\nLibs: -L\${libdir} -lnibble ${NIBBLE_LINK}")
if(BUILD_SHARED_LIBS)
  set(PC_NEEDS
    "Requires.private: ${NIBBLE_REQUIRES}\nLibs: -L\${libdir} -lnibble\nLibs.private: ${NIBBLE_LINK}")
endif()
configure_file(cmake/nibble.pc.in nibble.pc @ONLY)
configure_package_config_file(cmake/nibbleConfig.cmake.in nibbleConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/nibble PATH_VARS CMAKE_INSTALL_INCLUDEDIR CMAKE_INSTALL_LIBDIR
  CMAKE_INSTALL_DATADIR)
write_basic_package_version_file(nibbleConfigVersion.cmake VERSION ${PROJECT_VERSION} COMPATIBILITY SameMinorVersion)

install(FILES ${PACKAGE_ARCHIVE} DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS nibble-shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT shared ${SHARED_EXCLUDED})
install(DIRECTORY include/nibble DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(FILES ${CMAKE_BINARY_DIR}/nibble.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${CMAKE_BINARY_DIR}/nibbleConfig.cmake ${CMAKE_BINARY_DIR}/nibbleConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/nibble)
install(DIRECTORY recipes models machines DESTINATION ${CMAKE_INSTALL_DATADIR}/nibble OPTIONAL)
install(FILES LICENSE NOTICE README.md CHANGELOG.md CITATION.cff DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs examples DESTINATION ${CMAKE_INSTALL_DOCDIR})
if(TARGET nibble-cli)
  install(TARGETS nibble-cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(FILES scripts/completion.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME nibble)
  if(NOT CMAKE_CROSSCOMPILING) # the program writes them
    add_custom_command(OUTPUT man/nibble.1
      COMMAND ${CMAKE_SOURCE_DIR}/scripts/man-pages $<TARGET_FILE:nibble-cli> man
      DEPENDS nibble-cli scripts/man-pages COMMENT "Writing man pages" VERBATIM)
    add_custom_target(nibble-man ALL DEPENDS man/nibble.1)
    install(DIRECTORY ${CMAKE_BINARY_DIR}/man/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 FILES_MATCHING PATTERN "*.1")
  endif()
endif()
if(TARGET nibble-cuda) # where src/base/beside.c looks
  install(TARGETS nibble-cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/nibble)
endif()
if(TARGET nibble-mpi) # where src/base/beside.c looks
  install(TARGETS nibble-mpi LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/nibble)
endif()
if(TARGET nibble-parquet) # where src/base/beside.c looks
  install(TARGETS nibble-parquet LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/nibble)
  install(FILES ${ARROW_FILES} DESTINATION ${CMAKE_INSTALL_LIBDIR}/nibble)
  if(ARROW_FILES AND EXISTS ${NIBBLE_ARROW}/LICENSE.txt) # section 4 of the Apache licence
    install(FILES ${NIBBLE_ARROW}/LICENSE.txt DESTINATION ${CMAKE_INSTALL_LIBDIR}/nibble RENAME LICENSE-arrow.txt)
  endif()
endif()

# The Python package of pyproject.toml: the library and the recipes beside its modules.
install(FILES $<TARGET_FILE:nibble-shared> DESTINATION nibble/lib RENAME libnibble.so COMPONENT python EXCLUDE_FROM_ALL)
install(DIRECTORY recipes DESTINATION nibble COMPONENT python EXCLUDE_FROM_ALL)
