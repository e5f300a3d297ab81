#include "src/control_directory.h"

#include <dirent.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "base/clock.h"
#include "base/require.h"
#include "client/daxfs.h"
#include "src/policy_settings.h"

namespace daxfs {
namespace {

using Kind = ControlFile::Kind;

struct Node {
  std::string_view name;
  Kind kind;
  mode_t mode;
};

// In the order of their inode numbers. Pins, leases and waiting requests show everybody his own.
// A user who may not switch policies is told so (EPERM) rather than kept out.
constexpr std::array kNodes = {
    Node{"status", Kind::status, 0444},   Node{"pins", Kind::pins, 0444},
    Node{"leases", Kind::leases, 0444},   Node{"limbo", Kind::limbo, 0444},
    Node{"policy", Kind::policy, 0666},   Node{"events", Kind::events, 0400},
    Node{"metrics", Kind::metrics, 0444}, Node{"scrub", Kind::scrub, 0400},
    Node{"release", Kind::release, 0200}, Node{"waiting", Kind::waiting, 0444},
    Node{"map", Kind::map, 0444},         Node{"attached", Kind::attached, 0444},
};

constexpr InodeNumber number_of(std::size_t node) {
  return InodeNumber{ControlDirectory::kDirectory.value + 1 + node};
}

const Node* node_of(InodeNumber inode) {
  const std::uint64_t index = inode.value - number_of(0).value;
  return inode >= number_of(0) && index < kNodes.size() ? &kNodes[index] : nullptr;
}

std::uint32_t query_of(Kind kind) {
  switch (kind) {
    case Kind::pins:
      return DAXFS_QUERY_PINS;
    case Kind::leases:
      return DAXFS_QUERY_LEASES;
    case Kind::attached:
      return DAXFS_QUERY_ATTACHED;
    case Kind::limbo:
      return DAXFS_QUERY_LIMBO;
    case Kind::waiting:
      return DAXFS_QUERY_WAITING;
    default:
      return DAXFS_QUERY_STATUS;
  }
}

// As much text as is made at a time.
constexpr std::size_t kPage = 16000;

}  // namespace

ControlFile::ControlFile(Filesystem& filesystem, Kind kind, const Caller& caller)
    : filesystem_(filesystem),
      kind_(kind),
      caller_(caller),
      holder_(filesystem.gate().new_holder()) {}

ControlFile::~ControlFile() {
  if (events_) filesystem_.events().leave(events_);
}

Result<std::unique_ptr<ControlFile>> ControlFile::open(
    Filesystem& filesystem, Kind kind, const Caller& caller,
    const std::function<void(HolderId)>& has_news) {
  std::unique_ptr<ControlFile> file(new ControlFile(filesystem, kind, caller));
  const bool trusted = filesystem.callers().is_trusted(caller);
  if (kind == Kind::release && !trusted) return fail(EPERM);
  if (kind == Kind::scrub) {
    if (!trusted) return fail(EPERM);
    auto scrub = Scrub::begin(filesystem);
    if (!scrub) return std::unexpected(scrub.error());
    file->scrub_ = std::move(*scrub);
  }
  if (kind == Kind::events) {
    if (!trusted) return fail(EACCES);
    auto reader =
        filesystem.reports().listen([has_news, holder = file->holder()] { has_news(holder); });
    if (!reader) return std::unexpected(reader.error());
    file->events_ = std::move(*reader);
  }
  return file;
}

void ControlFile::begin_anew() {
  start_ = cursor_ = 0;
  text_.clear();
  ended_ = any_ = false;
}

Result<std::string> ControlFile::read(std::uint64_t offset, std::size_t length) {
  const MutexLock guard(mutex_);
  if (scrub_) return read_scrub(length);
  if (offset == 0 || offset < start_) begin_anew();
  for (;;) {
    // What lies before the offset has been read, or is not wanted.
    const std::size_t passed = std::min<std::uint64_t>(offset - start_, text_.size());
    text_.erase(0, passed);
    start_ += passed;
    if (ended_ || (start_ == offset && text_.size() >= length)) break;
    if (const Status made = read_on(); !made) return std::unexpected(made.error());
  }
  if (start_ < offset) return std::string();
  return text_.substr(0, length);
}

std::string ControlFile::read_scrub(std::size_t length) {
  if (text_.empty()) scrub_->step(text_);
  std::string text = text_.substr(0, length);
  text_.erase(0, text.size());
  return text;
}

Status ControlFile::read_on() {
  if (kind_ == Kind::release) return fail(EBADF);
  ended_ = true;
  switch (kind_) {
    case Kind::policy:
      text_ += format_policy(filesystem_.gate().options());
      return {};
    case Kind::metrics:
      text_ += filesystem_.reports().metrics();
      return {};
    case Kind::map:
      text_ += filesystem_.reports().pool_map(caller_);
      return {};
    default:
      break;
  }
  std::string lines;
  const Status made =
      filesystem_.reports().report(query_of(kind_), cursor_, kPage, lines, nullptr, caller_);
  if (!made) return made;
  ended_ = cursor_ == DAXFS_QUERY_END;
  if (kind_ == Kind::status) {
    text_ += lines;
    return {};
  }
  for (std::size_t at = 0; at < lines.size();) {
    const std::size_t end = lines.find('\n', at);
    text_ += any_ ? ",\n  " : "[\n  ";
    text_.append(lines, at, end - at);
    any_ = true;
    at = end + 1;
  }
  if (ended_) text_ += any_ ? "\n]\n" : "[]\n";
  return {};
}

Status ControlFile::write(std::string_view text, const Caller& caller) {
  if (kind_ == Kind::release) return filesystem_.files().release_pin(text, caller);
  if (kind_ != Kind::policy) return fail(EBADF);
  // A program that runs as root may write what a stranger gave it as its standard error.
  if (!filesystem_.callers().is_trusted(caller_)) return fail(EPERM);
  const auto set = filesystem_.policies().set(text, caller);
  return set ? Status() : fail(set.error().code);
}

ControlDirectory::ControlDirectory(Filesystem& filesystem)
    : filesystem_(filesystem), group_(getgid()), made_(file_time_now()) {}

ControlDirectory::~ControlDirectory() = default;

Result<Entry> ControlDirectory::lookup(InodeNumber parent, std::string_view name) const {
  DAXFS_REQUIRE(has(parent, name), "{} in inode {} is no control file", name, parent.value);
  InodeNumber found = kDirectory;
  if (contains(parent)) {
    if (name == "..") return Entry{.inode = kRootInode};
    if (name == ".") {
      found = parent;
    } else {
      const auto* node = std::find_if(kNodes.begin(), kNodes.end(),
                                      [&](const Node& one) { return one.name == name; });
      if (parent != kDirectory) return fail(ENOTDIR);
      if (node == kNodes.end()) return fail(ENOENT);
      found = number_of(static_cast<std::size_t>(node - kNodes.begin()));
    }
  }
  const auto known = attributes(found);
  if (!known) return std::unexpected(known.error());
  return Entry{.inode = found, .attributes = *known};
}

Result<struct stat> ControlDirectory::attributes(InodeNumber inode) const {
  const Node* node = node_of(inode);
  if (node == nullptr && inode != kDirectory) return fail(ESTALE);
  struct stat out {};
  out.st_ino = inode.value;
  out.st_mode = node != nullptr ? S_IFREG | node->mode : S_IFDIR | 0555u;
  out.st_nlink = node != nullptr ? 1 : 2;
  out.st_uid = filesystem_.callers().mounter();
  out.st_gid = group_;
  out.st_blksize = static_cast<blksize_t>(kBlockSize);
  out.st_atim = out.st_mtim = out.st_ctim = to_timespec(made_);
  return out;
}

Status ControlDirectory::list(
    InodeNumber inode, std::uint64_t cookie,
    const std::function<bool(const Names::DirectoryEntry&)>& visit) const {
  if (inode != kDirectory) return fail(ENOTDIR);
  if (cookie < 1 && !visit({kDirectory, DT_DIR, ".", 1})) return {};
  if (cookie < 2 && !visit({kRootInode, DT_DIR, "..", 2})) return {};
  for (std::size_t i = cookie <= 2 ? 0 : cookie - 2; i < kNodes.size(); ++i) {
    if (!visit({number_of(i), DT_REG, kNodes[i].name, i + 3})) return {};
  }
  return {};
}

Result<struct stat> ControlDirectory::set_attributes(InodeNumber inode,
                                                     const AttributeChange& change) const {
  const Node* node = node_of(inode);
  const bool written =
      node != nullptr && (node->kind == Kind::policy || node->kind == Kind::release);
  const bool empties = written && change.size == 0;
  if (!empties || change.mode || change.uid || change.gid) return fail(EPERM);
  return attributes(inode);
}

Result<ControlFile*> ControlDirectory::open(InodeNumber inode, const Caller& caller,
                                            const std::function<void(HolderId)>& has_news) {
  const Node* node = node_of(inode);
  if (node == nullptr) return fail(ESTALE);
  auto file = ControlFile::open(filesystem_, node->kind, caller, has_news);
  if (!file) return std::unexpected(file.error());
  const MutexLock guard(mutex_);
  files_.push_back(std::move(*file));
  return files_.back().get();
}

void ControlDirectory::close(ControlFile* file) {
  const auto find = [&](const auto& open) { return open.get() == file; };
  std::unique_ptr<ControlFile> closed;  // without the lock
  const MutexLock guard(mutex_);
  const auto found = std::find_if(files_.begin(), files_.end(), find);
  closed = std::move(*found);
  files_.erase(found);
}

}  // namespace daxfs
