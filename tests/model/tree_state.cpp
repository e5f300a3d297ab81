#include "tests/model/tree_state.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "src/clock.h"
#include "tests/model/mounted.h"

namespace daxfs::testing {
namespace {

// Files of these tests are small, except for sparse ones, of which the end matters.
constexpr std::uint64_t kMostContent = 4 << 20;

class Walk {
 public:
  explicit Walk(Filesystem& fs) : fs_(fs) {}

  void visit(InodeNumber inode, const std::string& path, TreeState& out) {
    const auto st = need(fs_.attributes(inode), path);
    FileState& state = out[path];
    state = {.mode = st.st_mode,
             .links = st.st_nlink,
             .uid = st.st_uid,
             .gid = st.st_gid,
             .size = static_cast<std::uint64_t>(st.st_size),
             .blocks = static_cast<std::uint64_t>(st.st_blocks) / 8,
             .content = {},
             .xattrs = {},
             .mtime = from_timespec(st.st_mtim),
             .ctime = from_timespec(st.st_ctim)};
    for (const std::string& name : need(fs_.list_xattrs(inode), path)) {
      state.xattrs[name] = need(fs_.get_xattr(inode, name), path);
    }
    if (S_ISLNK(st.st_mode)) state.content = need(fs_.read_symlink(inode), path);
    if (S_ISREG(st.st_mode)) state.content = content(inode, path, state.size);
    if (S_ISDIR(st.st_mode)) visit_children(inode, path, out);
  }

 private:
  template <class T>
  static T need(std::expected<T, Errno> result, const std::string& path) {
    if (result) return std::move(*result);
    throw std::runtime_error(
        fmt::format("\"{}\" cannot be read: {}", path, strerrorname_np(result.error().code)));
  }

  std::string content(InodeNumber inode, const std::string& path, std::uint64_t size) {
    auto file = need(fs_.open(inode, O_RDONLY), path);
    std::string out;
    while (out.size() < std::min(size, kMostContent)) {
      out += need(testing::read(fs_, *file, out.size(), size - out.size()), path);
    }
    fs_.release(std::move(file));
    return out;
  }

  void visit_children(InodeNumber inode, const std::string& path, TreeState& out) {
    std::vector<std::pair<std::string, InodeNumber>> children;
    const Status listed =
        fs_.read_directory(inode, 2, [&](const Filesystem::DirectoryEntry& entry) {
          children.emplace_back(entry.name, entry.inode);
          return true;
        });
    if (!listed) throw std::runtime_error(fmt::format("\"{}\" cannot be listed", path));
    for (const auto& [name, child] : children) visit(child, path + "/" + name, out);
  }

  Filesystem& fs_;
};

bool content_is_mixed(const std::string& found, const std::string& one, const std::string& other) {
  const auto same = [&](const std::string& a, std::size_t at, std::size_t length) {
    const auto byte = [&](std::size_t i) { return i < a.size() ? a[i] : '\0'; };
    for (std::size_t i = at; i < at + length; ++i) {
      if (found[i] != byte(i)) return false;
    }
    return true;
  };
  for (std::size_t at = 0; at < found.size(); at += 8) {
    const std::size_t length = std::min<std::size_t>(8, found.size() - at);
    if (!same(one, at, length) && !same(other, at, length)) return false;
  }
  return true;
}

}  // namespace

TreeState state_of(Filesystem& fs) {
  TreeState out;
  Walk(fs).visit(kRootInode, "", out);
  return out;
}

std::optional<std::string> difference(const TreeState& found, const TreeState& expected,
                                      Tolerance tolerance, const TreeState& other) {
  for (const auto& [path, state] : found) {
    if (!expected.contains(path)) return fmt::format("\"{}\" is there", path);
  }
  for (const auto& [path, want] : expected) {
    const auto there = found.find(path);
    if (there == found.end()) return fmt::format("\"{}\" is missing", path);
    const FileState& have = there->second;
    const auto number = [&](const char* what, auto a, auto b) -> std::optional<std::string> {
      if (a == b) return std::nullopt;
      return fmt::format("\"{}\" has {} {} instead of {}", path, what, a, b);
    };
    if (auto text = number("mode", have.mode, want.mode)) return text;
    if (auto text = number("links", have.links, want.links)) return text;
    if (auto text = number("uid", have.uid, want.uid)) return text;
    if (auto text = number("gid", have.gid, want.gid)) return text;
    if (auto text = number("size", have.size, want.size)) return text;
    if (auto text = number("blocks", have.blocks, want.blocks)) return text;
    if (have.xattrs != want.xattrs) return fmt::format("\"{}\" has other attributes", path);
    if (tolerance == Tolerance::none) {
      if (auto text = number("mtime", have.mtime, want.mtime)) return text;
      if (auto text = number("ctime", have.ctime, want.ctime)) return text;
    }
    if (have.content == want.content) continue;
    const auto before = other.find(path);
    const bool mixed = tolerance == Tolerance::content && before != other.end() &&
                       content_is_mixed(have.content, want.content, before->second.content);
    if (mixed) continue;
    const auto at = std::ranges::mismatch(have.content, want.content).in1 - have.content.begin();
    return fmt::format("\"{}\" has other content from byte {} on", path, at);
  }
  return std::nullopt;
}

}  // namespace daxfs::testing
