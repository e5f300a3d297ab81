#include "tests/crash/tree_state.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <stdexcept>
#include <vector>

#include "base/clock.h"
#include "tests/model/mounted.h"

namespace daxfs::testing {
namespace {

class Walk {
 public:
  explicit Walk(Filesystem& fs) : fs_(fs) {}

  void visit(InodeNumber inode, const std::string& path, TreeState& out) {
    std::int64_t birth = 0;
    const auto st = need(fs_.attributes().get(inode, &birth), path);
    FileState& state = out[path];
    state = {.inode = inode.value,
             .mode = st.st_mode,
             .links = st.st_nlink,
             .uid = st.st_uid,
             .gid = st.st_gid,
             .size = static_cast<std::uint64_t>(st.st_size),
             .blocks = static_cast<std::uint64_t>(st.st_blocks) / 8,
             .content = {},
             .xattrs = {},
             .flags = need(fs_.inode_flags().get(inode), path),
             .mtime = from_timespec(st.st_mtim),
             .ctime = from_timespec(st.st_ctim),
             .birth = birth};
    for (const std::string& name : need(fs_.xattrs().list(inode), path)) {
      state.xattrs[name] = need(fs_.xattrs().get(inode, name), path);
    }
    if (S_ISLNK(st.st_mode)) state.content = need(fs_.names().read_symlink(inode), path);
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
    auto file = need(fs_.files().open(inode, O_RDONLY), path);
    std::string out;
    out.reserve(size);
    while (out.size() < size) {
      const std::string part = need(testing::read(fs_, *file, out.size(), size - out.size()), path);
      if (part.empty()) throw std::runtime_error(fmt::format("\"{}\" ends early", path));
      out += part;
    }
    fs_.files().release(std::move(file));
    return out;
  }

  void visit_children(InodeNumber inode, const std::string& path, TreeState& out) {
    std::vector<std::pair<std::string, InodeNumber>> children;
    const Status listed =
        fs_.names().read_directory(inode, 2, [&](const Names::DirectoryEntry& entry) {
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
    for (std::size_t i = at; i < at + length; ++i) {
      if (found[i] != (i < a.size() ? a[i] : '\0')) return false;
    }
    return true;
  };
  for (std::size_t at = 0; at < found.size(); at += 8) {
    const std::size_t length = std::min<std::size_t>(8, found.size() - at);
    if (!same(one, at, length) && !same(other, at, length)) return false;
  }
  return true;
}

std::optional<std::string> other_names(const TreeState& found, const TreeState& expected) {
  for (const auto& [path, state] : found) {
    if (!expected.contains(path)) return fmt::format("\"{}\" is there", path);
  }
  for (const auto& [path, state] : expected) {
    if (!found.contains(path)) return fmt::format("\"{}\" is missing", path);
  }
  return std::nullopt;
}

template <class T>
std::optional<std::string> other_number(const std::string& path, const char* what, T have, T want) {
  if (have == want) return std::nullopt;
  return fmt::format("\"{}\" has {} {} instead of {}", path, what, have, want);
}

std::optional<std::string> other_identity(const std::string& path, const FileState& have,
                                          const FileState& want) {
  if (auto text = other_number(path, "inode", have.inode, want.inode)) return text;
  if (auto text = other_number(path, "mode", have.mode, want.mode)) return text;
  if (auto text = other_number(path, "links", have.links, want.links)) return text;
  if (auto text = other_number(path, "uid", have.uid, want.uid)) return text;
  if (auto text = other_number(path, "gid", have.gid, want.gid)) return text;
  if (auto text = other_number(path, "time of birth", have.birth, want.birth)) return text;
  if (auto text = other_number(path, "flags", have.flags, want.flags)) return text;
  if (have.xattrs != want.xattrs) return fmt::format("\"{}\" has other attributes", path);
  return std::nullopt;
}

// Sizes and blocks as before, data and times partly as after (data_first); or both anything between
// before and after (in_steps).
std::optional<std::string> not_between(const std::string& path, const FileState& have,
                                       const FileState& before, const FileState& after,
                                       bool in_steps) {
  if (auto text = other_identity(path, have, before)) return text;
  const auto number = [&](const char* what, std::uint64_t is, std::uint64_t was,
                          std::uint64_t will_be) -> std::optional<std::string> {
    if (!in_steps) return other_number(path, what, is, was);
    if (std::min(was, will_be) <= is && is <= std::max(was, will_be)) return std::nullopt;
    return fmt::format("\"{}\" has {} {}, which is not between {} and {}", path, what, is, was,
                       will_be);
  };
  if (auto text = number("size", have.size, before.size, after.size)) return text;
  if (auto text = number("blocks", have.blocks, before.blocks, after.blocks)) return text;
  const auto time = [&](const char* what, std::int64_t is, std::int64_t was,
                        std::int64_t will_be) -> std::optional<std::string> {
    if (is == was || is == will_be) return std::nullopt;
    return fmt::format("\"{}\" has {} {}, neither {} nor {}", path, what, is, was, will_be);
  };
  if (auto text = time("mtime", have.mtime, before.mtime, after.mtime)) return text;
  if (auto text = time("ctime", have.ctime, before.ctime, after.ctime)) return text;
  if (!content_is_mixed(have.content, before.content, after.content)) {
    return fmt::format("\"{}\" has content that is neither old nor new", path);
  }
  return std::nullopt;
}

}  // namespace

TreeState state_of(Filesystem& fs) {
  TreeState out;
  Walk(fs).visit(kRootInode, "", out);
  return out;
}

std::uint64_t blocks_of(const TreeState& tree) {
  std::set<std::uint64_t> counted;
  std::uint64_t blocks = 0;
  for (const auto& [path, state] : tree) {
    if (counted.insert(state.inode).second) blocks += state.blocks;
  }
  return blocks;
}

std::optional<std::string> difference(const TreeState& found, const TreeState& expected) {
  if (auto text = other_names(found, expected)) return text;
  for (const auto& [path, want] : expected) {
    const FileState& have = found.at(path);
    if (auto text = other_identity(path, have, want)) return text;
    if (auto text = other_number(path, "size", have.size, want.size)) return text;
    if (auto text = other_number(path, "blocks", have.blocks, want.blocks)) return text;
    if (auto text = other_number(path, "mtime", have.mtime, want.mtime)) return text;
    if (auto text = other_number(path, "ctime", have.ctime, want.ctime)) return text;
    if (have.content == want.content) continue;
    const auto at = std::ranges::mismatch(have.content, want.content).in1 - have.content.begin();
    return fmt::format("\"{}\" has other content from byte {} on", path, at);
  }
  return std::nullopt;
}

std::optional<std::string> difference_in_flight(const TreeState& found, const TreeState& before,
                                                const TreeState& after, Promise promise) {
  const auto not_after = difference(found, after);
  if (!not_after) return std::nullopt;
  auto not_before = difference(found, before);
  if (!not_before) return std::nullopt;
  if (promise != Promise::atomic) {
    not_before = other_names(found, before);
    for (const auto& [path, have] : found) {
      if (not_before) break;
      not_before =
          not_between(path, have, before.at(path), after.at(path), promise == Promise::in_steps);
    }
    if (!not_before) return std::nullopt;
  }
  return fmt::format("neither as before ({}) nor as after ({})", *not_before, *not_after);
}

}  // namespace daxfs::testing
