// What a directory says is in it.
#pragma once

#include <filesystem>
#include <set>
#include <string>

namespace daxfs::test {

// In order, with blanks in between.
inline std::string names_in(const std::string& directory) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    names.insert(entry.path().filename());
  std::string out;
  for (const std::string& name : names) out += out.empty() ? name : " " + name;
  return out;
}

}  // namespace daxfs::test
