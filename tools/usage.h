// Wrong usage, told in one line.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "base/nearest_word.h"

namespace daxfs {

// The options and subcommands that could have been meant at this place of the command line.
inline std::vector<std::string> words_of(const CLI::App* app) {
  std::vector<std::string> words;
  for (const CLI::Option* option : app->get_options()) {
    for (const std::string& name : option->get_lnames()) words.push_back("--" + name);
  }
  for (const CLI::App* sub : app->get_subcommands([](const CLI::App*) { return true; })) {
    words.push_back(sub->get_name());
  }
  for (const CLI::App* sub : app->get_subcommands()) {
    const auto more = words_of(sub);
    words.insert(words.end(), more.begin(), more.end());
  }
  return words;
}

// The nearest word to what the command line has too much, if one is near.
inline std::string nearest_hint(const CLI::App* app) {
  for (const std::string& word : app->remaining(true)) {
    if (std::string hint = did_you_mean(word, words_of(app)); !hint.empty()) return hint;
  }
  return "";
}

// A number within, for CLI::Option::check(). Not CLI::Range, which takes "nan" for one.
inline auto check_number(double least, double most) {
  return [least, most](const std::string& text) {
    double number = 0;
    const bool within =
        CLI::detail::lexical_cast(text, number) && number >= least && number <= most;
    return within ? std::string() : fmt::format("'{}' is not between {} and {}", text, least, most);
  };
}

// For CLI::App::failure_message(); the app has the command's name.
inline std::string usage_message(const CLI::App* app, const CLI::Error& error) {
  return fmt::format("{0}: {1}{2}; see {0} --help\n", app->get_name(), error.what(),
                     nearest_hint(app));
}

}  // namespace daxfs
