# SPDX-License-Identifier: Apache-2.0
# The shared library exports what its headers declare, and nothing else; of CUDA it needs nothing. In: NM, LIBRARY.
execute_process(COMMAND ${NM} -DC --defined-only ${LIBRARY}
  OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REPLACE "\n" ";" symbols "${symbols}")
string(CONCAT operators "deformable_offsets(_grad)?(_grad)?|output_size|workspace_size|"
  "(set|get)_num_threads|release_scratch|version")
set(seen 0)
foreach(symbol IN LISTS symbols)
  if(NOT symbol)
    continue()
  elseif(symbol MATCHES "^[0-9a-f]+ T tapfield_(${operators}|last_error)$" OR
         symbol MATCHES "^[0-9a-f]+ T tapfield::(${operators}|backends)(\\[abi:cxx11\\])?\\(.*\\)$" OR
         symbol MATCHES "^[0-9a-f]+ [TVW] (vtable for |typeinfo (name )?for )?tapfield::dtype_error")
    math(EXPR seen "${seen} + 1")
  elseif(NOT symbol MATCHES "^[0-9a-f]+ [VWu] .*std::")  # the standard library's templates are anyone's
    list(APPEND others "${symbol}")
  endif()
endforeach()
if(others)
  list(JOIN others "\n  " others)
  message(FATAL_ERROR "exported, but not declared in a public header:\n  ${others}")
endif()
if(seen LESS 25)
  message(FATAL_ERROR "only ${seen} symbols are exported")
endif()

execute_process(COMMAND ${NM} -D --undefined-only ${LIBRARY} OUTPUT_VARIABLE needed COMMAND_ERROR_IS_FATAL ANY)
if(NOT needed MATCHES " dlopen" OR needed MATCHES " cu(da)?[A-Z]")
  message(FATAL_ERROR "CUDA is to be loaded, not linked:\n${needed}")
endif()
