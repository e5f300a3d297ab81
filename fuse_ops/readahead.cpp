#include "fuse_ops/readahead.h"

#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

namespace daxfs {
namespace {

// Blanks, tabs, newlines and backslashes stand as \ooo in /proc/self/mountinfo.
std::string unescaped(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out += static_cast<char>(std::strtol(text.substr(i + 1, 3).c_str(), nullptr, 8));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

// MAJOR:MINOR of the topmost mount there, or "".
std::string device_of(const std::string& mountpoint) {
  std::ifstream table("/proc/self/mountinfo");
  std::string found;
  for (std::string line; std::getline(table, line);) {
    std::istringstream fields(line);
    std::string id, parent, device, root, where;
    fields >> id >> parent >> device >> root >> where;
    if (unescaped(where) == mountpoint) found = device;
  }
  return found;
}

}  // namespace

void raise_readahead(const std::string& mountpoint) {
  const std::string device = device_of(mountpoint);
  if (device.empty()) return;
  std::ofstream(fmt::format("/sys/class/bdi/{}/read_ahead_kb", device)) << kReadaheadBytes / 1024;
}

}  // namespace daxfs
