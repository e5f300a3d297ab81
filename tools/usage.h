// Wrong usage, told in one line.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <string>

namespace daxfs {

// For CLI::App::failure_message(); the app has the command's name.
inline std::string usage_message(const CLI::App* app, const CLI::Error& error) {
  return fmt::format("{0}: {1}; see {0} --help\n", app->get_name(), error.what());
}

}  // namespace daxfs
