# `cmake --build … --target uninstall` takes away what `cmake --install` of this build directory has put somewhere, and the
# directories that it made for that.
set(install_record ${PROJECT_BINARY_DIR}/installed_directories.txt)

# Before anything is installed: which directories are not there yet.
install(CODE "
  set(record \"${install_record}\")
  if(EXISTS \"\${record}\")
    file(STRINGS \"\${record}\" made)
  endif()
  foreach(place ${CMAKE_INSTALL_BINDIR} ${CMAKE_INSTALL_SBINDIR} ${CMAKE_INSTALL_INCLUDEDIR}
          ${CMAKE_INSTALL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_DATADIR} ${DAXFS_PYTHON_DIR})
    get_filename_component(directory \"\${CMAKE_INSTALL_PREFIX}/\${place}\" ABSOLUTE)
    while(NOT EXISTS \"\$ENV{DESTDIR}\${directory}\" AND NOT directory STREQUAL \"/\")
      list(APPEND made \"\$ENV{DESTDIR}\${directory}\")
      get_filename_component(directory \"\${directory}\" DIRECTORY)
    endwhile()
  endforeach()
  list(REMOVE_DUPLICATES made)
  list(JOIN made \"\\n\" made)
  file(WRITE \"\${record}\" \"\${made}\\n\")
")

add_custom_target(uninstall
  COMMAND ${CMAKE_COMMAND} -D "manifest=${PROJECT_BINARY_DIR}/install_manifest.txt" -D "record=${install_record}"
          -P ${PROJECT_SOURCE_DIR}/cmake/take_away.cmake
  VERBATIM)
