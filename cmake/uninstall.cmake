# `cmake --build … --target uninstall` takes away what `cmake --install` of this build directory has put somewhere, and the
# directories that it made for that.
set(install_record ${PROJECT_BINARY_DIR}/installed_directories.txt)

install(CODE "
  set(record \"${install_record}\")
  set(build \"${PROJECT_BINARY_DIR}\")
  include(\"${PROJECT_SOURCE_DIR}/cmake/note_directories.cmake\")
")

add_custom_target(uninstall
  COMMAND ${CMAKE_COMMAND} -D "manifest=${PROJECT_BINARY_DIR}/install_manifest.txt" -D "record=${install_record}"
          -P ${PROJECT_SOURCE_DIR}/cmake/take_away.cmake
  VERBATIM)
