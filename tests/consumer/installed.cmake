# SPDX-License-Identifier: Apache-2.0
# Installs a build of tapfield into SCRATCH and uses it as a stranger would: find_package from C++ and C, and
# one compiler line. In: BUILD (its binary directory; with SOURCE given it is configured and built there, as a
# static library, first), SCRATCH, CONSUMER (this folder), EXAMPLES, CC, CXX, LAUNCHER, GENERATOR.
function(run)
  execute_process(COMMAND ${ARGN} OUTPUT_VARIABLE out ERROR_VARIABLE out RESULT_VARIABLE failed)
  if(failed)
    list(JOIN ARGN " " line)
    message(FATAL_ERROR "${line}\n${out}")
  endif()
  set(out "${out}" PARENT_SCOPE)
endfunction()

function(expect_worked_example)
  run(${ARGN})
  set(want "y = 4.5\ngrad_x = 0.75 0.25 0.75 0.25\ngrad_offsets = 2 along W, 4 along H, 2.25 mask\n")
  if(NOT out STREQUAL want)
    message(FATAL_ERROR "${ARGN} printed\n${out}instead of\n${want}")
  endif()
endfunction()

set(toolchain -G ${GENERATOR} -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_COMPILER=${CC} -DCMAKE_CXX_COMPILER=${CXX})
if(SOURCE)
  run(${CMAKE_COMMAND} -S ${SOURCE} -B ${BUILD} ${toolchain} -DBUILD_SHARED_LIBS=OFF -DTAPFIELD_TESTS=OFF
      -DTAPFIELD_CUDA=OFF -DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER})
  run(${CMAKE_COMMAND} --build ${BUILD})
endif()

file(REMOVE_RECURSE ${SCRATCH})
set(prefix ${SCRATCH}/prefix)
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${prefix})
run(${CMAKE_COMMAND} -S ${CONSUMER} -B ${SCRATCH}/build ${toolchain} -DCMAKE_PREFIX_PATH=${prefix}
    -DEXAMPLES=${EXAMPLES})
run(${CMAKE_COMMAND} --build ${SCRATCH}/build)
expect_worked_example(${SCRATCH}/build/quickstart_cpp)
expect_worked_example(${SCRATCH}/build/quickstart_c)

file(GLOB_RECURSE shared ${prefix}/libtapfield.so)
if(shared)
  cmake_path(GET shared PARENT_PATH lib)
  run(${CC} -std=c99 -Wall -Wextra -pedantic -Werror ${EXAMPLES}/quickstart.c -I${prefix}/include -L${lib}
      -ltapfield -Wl,-rpath,${lib} -o ${SCRATCH}/one_line)
  expect_worked_example(${SCRATCH}/one_line)
elseif(NOT SOURCE)
  message(STATUS "no shared library in this build: the one compiler line is not tried")
endif()
