#include "tools/ctl/scrub.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "client/daxfs.h"
#include "tools/ctl/print.h"
#include "tools/ctl/query.h"
#include "tools/progress_bar.h"

namespace daxfs::ctl {
namespace {

std::uint64_t number_of(const Json& object, std::string_view key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_unsigned() ? found->get<std::uint64_t>() : 0;
}

// What the daemon says while its control file is read: a step of the work for each read.
class Run {
 public:
  Run(const std::string& path, bool json)
      : path_(path), json_(json), bar_(!json && isatty(STDERR_FILENO) == 1, false) {}

  Outcome<void> read_all(int fd) {
    std::array<char, 65536> buffer;
    std::string pending;  // a line whose end has not come yet
    for (;;) {
      const ssize_t got = read(fd, buffer.data(), buffer.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return problem(errno, fmt::format("{}: {}", path_, std::strerror(errno)));
      if (got == 0) break;
      pending.append(buffer.data(), static_cast<std::size_t>(got));
      std::size_t begin = 0;
      for (std::size_t end; (end = pending.find('\n', begin)) != std::string::npos;
           begin = end + 1) {
        take(Json::parse(std::string_view(pending).substr(begin, end - begin), nullptr, false));
      }
      pending.erase(0, begin);
    }
    bar_.clear();
    if (summary_.is_object()) return {};
    return problem(EPROTO, path_ +
                               ": the scrub has ended without a verdict: the mount has ended, "
                               "or its daemon is of another version");
  }

  // Whether all is well.
  bool tell(const std::string& pool) {
    const bool clean = text_of(summary_, "clean") == "yes";
    if (json_) {
      Json all = summary_;
      all["findings"] = findings_;
      print_json(all);
      return clean;
    }
    const std::uint64_t found = number_of(summary_, "found");
    if (found > shown_) print(fmt::format("... and {} more\n", found - shown_));
    print(fmt::format(
        "{}: {}: {} files, {} directories, {} pins; {} in use, {} in limbo, {} free\n",
        printable(path_), clean ? "clean" : fmt::format("{} findings", found),
        text_of(summary_, "files"), text_of(summary_, "directories"), text_of(summary_, "pins"),
        size_of(summary_, "owned"), size_of(summary_, "limbo"), size_of(summary_, "free")));
    if (clean) return true;
    if (const auto why = summary_.find("stopped"); why != summary_.end() && why->is_string()) {
      print("nothing is changed any more, so that no more is destroyed; reading goes on\n");
    }
    print(
        fmt::format("what to do: save what you need, umount {}, fsck.daxfs {} (a scrub changes "
                    "nothing: what is corrected or removed above is so when that has run)\n",
                    printable(path_), printable(pool)));
    return false;
  }

 private:
  void take(const Json& line) {
    if (!line.is_object()) return;
    if (const auto found = line.find("finding"); found != line.end()) {
      ++shown_;
      if (json_) {
        findings_.push_back(*found);
        return;
      }
      bar_.clear();
      print(fmt::format("{}: {} [{}, {}]\n", text_of(*found, "object"), text_of(*found, "text"),
                        text_of(*found, "severity"), text_of(*found, "code")));
    } else if (line.contains("summary")) {
      summary_ = line.at("summary");
    } else {
      bar_.show(text_of(line, "progress"), number_of(line, "done"), number_of(line, "total"));
    }
  }

  const std::string& path_;
  const bool json_;
  ProgressBar bar_;
  std::uint64_t shown_ = 0;
  Json findings_ = Json::array();
  Json summary_;
};

}  // namespace

Outcome<bool> scrub(const std::string& path, bool json) {
  const auto mount = Mount::at(path);
  if (!mount) return std::unexpected(mount.error());
  const auto file = mount->open_control("scrub");
  if (!file) {
    if (file.error().code != EBUSY) return std::unexpected(file.error());
    return problem(EBUSY, path + ": another scrub is under way; wait for its end");
  }
  Run run(path, json);
  if (const auto done = run.read_all(file->get()); !done) return std::unexpected(done.error());
  const auto status = mount->query_one(DAXFS_QUERY_STATUS);
  return run.tell(status ? text_of(*status, "pool") : "POOL");
}

}  // namespace daxfs::ctl
