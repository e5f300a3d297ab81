# cmake -D "files=A;B" -D output=FILE -P embed_page.cmake: the files of the live page as C++ source.
set(arrays "")
set(table "")
set(number 0)
foreach(file IN LISTS files)
  get_filename_component(name "${file}" NAME)
  get_filename_component(kind "${file}" LAST_EXT)
  if(kind STREQUAL ".html")
    set(type "text/html; charset=utf-8")
  elseif(kind STREQUAL ".css")
    set(type "text/css; charset=utf-8")
  elseif(kind STREQUAL ".svg")
    set(type "image/svg+xml")
  else()
    set(type "text/javascript; charset=utf-8")
  endif()
  file(READ "${file}" hex HEX)
  string(LENGTH "${hex}" length)
  math(EXPR length "${length} / 2")
  string(REGEX REPLACE "(..)" "'\\\\x\\1'," bytes "${hex}")
  string(REGEX REPLACE "('[^']*',){32}" "\\0\n" bytes "${bytes}")
  string(APPEND arrays "constexpr char kFile${number}[] = {${bytes}0};\n")
  string(APPEND table "    {\"${name}\", \"${type}\", {kFile${number}, ${length}}},\n")
  math(EXPR number "${number} + 1")
endforeach()
file(WRITE "${output}" "// Made by cmake/embed_page.cmake.
#include \"tools/ctl/page_files.h\"

namespace daxfs::ctl {
namespace {

${arrays}
constexpr PageFile kFiles[] = {
${table}};

}  // namespace

std::span<const PageFile> page_files() { return kFiles; }

}  // namespace daxfs::ctl
")
