# SPDX-License-Identifier: Apache-2.0

# Tests NAME_1 ...: the tests of `program` in parts that ctest -j runs side by side. ARGN: labels.
function(add_sharded_test name program)
  set(shards 8)
  foreach(shard RANGE 1 ${shards})
    math(EXPR index "${shard} - 1")
    add_test(NAME ${name}_${shard} COMMAND ${program} --gtest_brief=1)
    set_tests_properties(${name}_${shard} PROPERTIES LABELS "${ARGN}"
      ENVIRONMENT "GTEST_TOTAL_SHARDS=${shards};GTEST_SHARD_INDEX=${index}")
  endforeach()
endfunction()

# Writes `source` to `to` with `old`, which must be there once, changed to `new`.
function(write_mutant source old new to)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${source})
  file(READ ${source} text)
  string(REPLACE "${old}" "${new}" mutant "${text}")
  string(LENGTH "${text}" before)
  string(LENGTH "${mutant}" after)
  string(LENGTH "${old}" old_length)
  string(LENGTH "${new}" new_length)
  math(EXPR want "${before} - ${old_length} + ${new_length}")
  if(mutant STREQUAL text OR NOT after EQUAL want)
    message(FATAL_ERROR "\"${old}\" is not once in ${source}")
  endif()
  file(CONFIGURE OUTPUT ${to} CONTENT "${mutant}" @ONLY)
endfunction()
