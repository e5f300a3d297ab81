// The model run: choosing, operations on names and attributes, remounts.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/xattr.h>

#include <algorithm>
#include <array>
#include <iterator>

#include "base/clock.h"
#include "tests/model/model_run.h"

namespace daxfs::testing {
namespace {

constexpr std::size_t kMostNodes = 70;

}  // namespace

// --- choices ---

ModelRun::NodeId ModelRun::any_node() {
  for (;;) {
    auto it = ref_.nodes().begin();
    std::advance(it, static_cast<std::ptrdiff_t>(below(ref_.nodes().size())));
    if (it->second.links > 0) return it->first;
  }
}

ModelRun::NodeId ModelRun::any_directory() {
  if (chance(2)) return any_node();  // perhaps no directory at all
  std::vector<NodeId> found;
  for (const auto& [id, node] : ref_.nodes()) {
    if (node.is_directory()) found.push_back(id);
  }
  return found[below(found.size())];
}

ModelRun::NodeId ModelRun::any_file() {
  std::vector<NodeId> found;
  for (const auto& [id, node] : ref_.nodes()) {
    if (node.is_regular() && node.links > 0) found.push_back(id);
  }
  return found.empty() ? 0 : found[below(found.size())];
}

std::string ModelRun::any_name() {
  const std::uint64_t kind = below(200);
  if (kind == 0) return std::string(256, 'x');
  std::string name(1, static_cast<char>('a' + below(12)));
  if (kind < 25) name.append(100 + below(2) * 154, 'l');
  return name;
}

std::string ModelRun::any_bytes(std::size_t length) {
  std::string out(length, '\0');
  for (char& c : out) c = static_cast<char>(random_());
  return out;
}

// --- names ---

void ModelRun::note_lookup(const Result<Entry>& entry, NodeId id) {
  require(entry->attributes.st_ino == entry->inode.value, "an entry with another inode");
  ref_.node(id).real = entry->inode;
  if (chance(10)) {
    lookups_.push_back(entry->inode);
  } else {
    fs().names().forget(entry->inode, 1);
  }
}

bool ModelRun::may_lack_inodes() const {
  return longest_free_run() < pmem::kChunkBlocks + 1 &&
         mounted_->volume->inodes().used() == mounted_->volume->inodes().capacity();
}

void ModelRun::make() {
  if (ref_.nodes().size() >= kMostNodes) return unlink();
  const NodeId parent = any_directory();
  const std::string name = any_name();
  ReferenceFs::NewNode what{.mode = static_cast<mode_t>(below(010000)),
                            .rdev = 0,
                            .target = {},
                            .uid = static_cast<uid_t>(below(3)),
                            .gid = static_cast<gid_t>(below(3)),
                            .umask = chance(50) ? static_cast<mode_t>(below(01000)) : 0};
  const Caller caller{what.uid, what.gid, 0, what.umask};
  Result<Entry> got;
  const std::uint64_t kind = below(10);
  if (kind < 5) {
    what.mode |= S_IFREG;
  } else if (kind < 8) {
    what.mode = S_IFDIR | (what.mode & 07777);
  } else if (kind < 9) {
    what.mode = S_IFLNK | 0777;
    what.target = any_name() + any_name();
  } else {
    what.mode |= std::array<mode_t, 4>{S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK}[below(4)];
    if (S_ISCHR(what.mode) || S_ISBLK(what.mode)) what.rdev = static_cast<dev_t>(0x100 + below(9));
  }
  log("make {}/\"{}\" mode {:o}", parent, name, what.mode);
  if (S_ISDIR(what.mode)) {
    got = fs().names().make_directory(real(parent), name, what.mode, caller);
  } else if (S_ISLNK(what.mode)) {
    got = fs().names().make_symlink(real(parent), name, what.target, caller);
  } else {
    got = fs().names().make_node(real(parent), name, what.mode, what.rdev, caller);
  }
  const bool no_run = ref_.node(parent).standard && longest_free_run() < 3;
  if (no_space(code_of(got), short_of(1) || may_lack_inodes() || no_run, {parent})) return;
  const auto expected = ref_.make(parent, name, what);
  agree(code_of(got), code_of(expected));
  check_attributes(parent);
  if (!got) return;
  for (const auto& [id, node] : ref_.nodes()) {
    require(node.real != got->inode, "inode {} is in use", got->inode.value);
  }
  require(std::ranges::find(lookups_, got->inode) == lookups_.end(),
          "inode {} is still known to the kernel", got->inode.value);
  note_lookup(got, *expected);
  check_attributes(*expected);
}

void ModelRun::link() {
  const NodeId unnamed = chance(50) ? ref_.any_linkable() : 0;
  const NodeId id = unnamed != 0 ? unnamed : any_node();
  const NodeId parent = any_directory();
  const std::string name = any_name();
  log("link {} {}/\"{}\"", id, parent, name);
  const auto got = fs().names().link(real(id), real(parent), name);
  if (no_space(code_of(got), short_of(1), {parent, id})) return;
  agree(code_of(got), code_of(ref_.link(id, parent, name)));
  if (got) note_lookup(got, id);
  check_attributes(id);
  check_attributes(parent);
}

void ModelRun::unlink() {
  const NodeId parent = any_directory();
  const std::string name = any_name();
  const NodeId victim = ref_.lookup(parent, name).value_or(0);
  log("unlink {}/\"{}\" ({})", parent, name, victim);
  const Status got = fs().names().unlink(real(parent), name);
  agree(code_of(got), code_of(ref_.unlink(parent, name)));
  check_attributes(parent);
  check_attributes(victim);
}

void ModelRun::remove_directory() {
  const NodeId parent = any_directory();
  const std::string name = any_name();
  log("rmdir {}/\"{}\"", parent, name);
  const Status got = fs().names().remove_directory(real(parent), name);
  agree(code_of(got), code_of(ref_.remove_directory(parent, name)));
  check_attributes(parent);
}

void ModelRun::rename() {
  const NodeId from = any_directory();
  const NodeId to = chance(40) ? from : any_directory();
  const std::string name = any_name();
  const std::string new_name = any_name();
  unsigned flags = std::array{0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE}[below(5)];
  if (flags != RENAME_EXCHANGE && chance(15) && ref_.nodes().size() < kMostNodes)
    flags |= RENAME_WHITEOUT;
  const NodeId source = ref_.lookup(from, name).value_or(0);
  const NodeId target = ref_.lookup(to, new_name).value_or(0);
  log("rename {}/\"{}\" ({}) -> {}/\"{}\" ({}) flags {}", from, name, source, to, new_name, target,
      flags);
  const Status got = testing::rename(fs(), real(from), name, real(to), new_name, flags);
  const bool no_run = ref_.node(from).standard && longest_free_run() < 3;
  const bool no_whiteout = (flags & RENAME_WHITEOUT) != 0 && (may_lack_inodes() || no_run);
  if (no_space(code_of(got), short_of(1) || no_whiteout, {from, to})) return;
  agree(code_of(got), code_of(ref_.rename(from, name, to, new_name, flags)));
  if (got && (flags & RENAME_WHITEOUT) != 0 && source != target) {
    const auto whiteout = fs().names().lookup(real(from), name);
    require(whiteout.has_value(), "no whiteout: errno {}", code_of(whiteout));
    const NodeId id = *ref_.lookup(from, name);
    note_lookup(whiteout, id);
    check_attributes(id);
  }
  for (const NodeId id : {from, to, source, target}) check_attributes(id);
}

void ModelRun::lookup() {
  const NodeId parent = any_directory();
  const std::string name = chance(5) ? (chance(50) ? "." : "..") : any_name();
  log("lookup {}/\"{}\"", parent, name);
  const auto got = fs().names().lookup(real(parent), name);
  const auto expected = ref_.lookup(parent, name);
  agree(code_of(got), code_of(expected));
  if (!got) return;
  require(got->inode == real(*expected), "inode {} instead of {}", got->inode.value,
          real(*expected).value);
  note_lookup(got, *expected);
}

void ModelRun::forget_lookup() {
  if (lookups_.empty()) return;
  const std::size_t i = below(lookups_.size());
  log("forget inode {}", lookups_[i].value);
  fs().names().forget(lookups_[i], 1);
  lookups_.erase(lookups_.begin() + static_cast<std::ptrdiff_t>(i));
}

void ModelRun::list_in_steps() {
  if (listing_.directory == 0 || !ref_.exists(listing_.directory)) {
    listing_ = {};
    const NodeId id = any_directory();
    if (!ref_.node(id).is_directory()) return;
    listing_.directory = id;
    listing_.removals_at_start = ref_.node(id).removals.size();
    listing_.there_at_start = {".", ".."};
    for (const auto& [name, child] : ref_.node(id).entries) listing_.there_at_start.insert(name);
  }
  const NodeId id = listing_.directory;
  const Node& node = ref_.node(id);
  // Names that went away since may have come back elsewhere: they can be seen twice, or not at all.
  const std::set<std::string> removed(
      node.removals.begin() + static_cast<std::ptrdiff_t>(listing_.removals_at_start),
      node.removals.end());
  std::size_t room = 1 + below(6);
  bool at_end = true;
  log("list {} from {}", id, listing_.cookie);
  const Status got = fs().names().read_directory(
      node.real, listing_.cookie, [&](const Names::DirectoryEntry& entry) {
        if (room-- == 0) return at_end = false;
        const std::string name(entry.name);
        const auto child = ref_.lookup(id, name);
        require(child && real(*child) == entry.inode, "\"{}\" is listed but not there", name);
        require(entry.cookie > listing_.cookie, "cookies go backwards at \"{}\"", name);
        require(listing_.seen.insert(name).second || removed.contains(name),
                "\"{}\" is listed twice", name);
        listing_.cookie = entry.cookie;
        return true;
      });
  agree(code_of(got), 0);
  if (!at_end) return;
  for (const std::string& name : listing_.there_at_start) {
    require(listing_.seen.contains(name) || removed.contains(name), "\"{}\" was not listed", name);
  }
  listing_ = {};
}

// --- attributes ---

void ModelRun::change_attributes() {
  const NodeId id = any_node();
  AttributeChange change;
  if (chance(40)) change.mode = static_cast<mode_t>(below(010000));
  if (chance(30)) change.uid = static_cast<uid_t>(below(3));
  if (chance(30)) change.gid = static_cast<gid_t>(below(3));
  if (chance(30)) change.mtime_ns = static_cast<std::int64_t>(random_() >> 2);
  if (chance(10)) change.ctime_ns = static_cast<std::int64_t>(random_() >> 2);
  if (chance(10)) change.drop_privileges = true;
  log("setattr {}", id);
  const auto got = testing::set_attributes(fs(), real(id), change);
  const bool writes_list = change.mode && ref_.node(id).access;
  if (no_space(code_of(got), writes_list && longest_free_run() < 64, {id})) return;
  agree(code_of(got), code_of(ref_.set_attributes(id, change)));
  check_attributes(id);
}

void ModelRun::set_xattr() {
  const NodeId id = any_node();
  static constexpr std::array kPrefixes{"user.", "trusted.", "security.", "user.", "system."};
  const std::string name = kPrefixes[below(kPrefixes.size())] + any_name().substr(0, 200);
  const std::uint64_t kind = below(100);
  const std::string value = any_bytes(kind == 0   ? (64 << 10) + 1
                                      : kind < 10 ? below(12000)
                                                  : below(100));
  const int flags = std::array<int, 4>{0, 0, XATTR_CREATE, XATTR_REPLACE}[below(4)];
  log("setxattr {} \"{}\" {} bytes, flags {}", id, name, value.size(), flags);
  const Status got = fs().xattrs().set(real(id), name, value, flags, testing::kRoot);
  std::size_t total = sizeof(pmem::XattrHeader) + name.size() + value.size() + 8;
  for (const auto& [other, content] : ref_.node(id).xattrs) {
    if (other != name) total += other.size() + content.size() + 8;
  }
  const bool no_room = longest_free_run() < blocks_for(ByteCount(total)).value || total > 256 << 10;
  if (no_space(code_of(got), no_room, {id})) return;
  agree(code_of(got), code_of(ref_.set_xattr(id, name, value, flags)));
  check_attributes(id);
}

void ModelRun::remove_xattr() {
  const NodeId id = any_node();
  const auto& xattrs = ref_.node(id).xattrs;
  std::string name = "user." + any_name();
  if (!xattrs.empty() && chance(80)) {
    name = std::next(xattrs.begin(), static_cast<std::ptrdiff_t>(below(xattrs.size())))->first;
  }
  if (name.size() > 255) return;
  log("removexattr {} \"{}\"", id, name);
  const Status got = fs().xattrs().remove(real(id), name, testing::kRoot);
  // What is left is written anew, to another place.
  if (no_space(code_of(got), longest_free_run() < 64, {id})) return;
  agree(code_of(got), code_of(ref_.remove_xattr(id, name)));
  check_attributes(id);
}

void ModelRun::set_acl() {
  const NodeId id = any_node();
  const bool standard = chance(50);
  ReferenceAcl acl;
  const auto bits = [this] { return static_cast<unsigned>(below(8)); };
  acl.owner = bits();
  acl.group = bits();
  acl.other = bits();
  for (std::uint64_t n = below(4); n > 0; --n) {
    (chance(50) ? acl.users : acl.groups)[static_cast<std::uint32_t>(below(5))] = bits();
  }
  if (!acl.users.empty() || !acl.groups.empty() || chance(20)) acl.mask = bits();
  const bool drop_setgid = chance(30);
  std::string value = acl.encoded();
  const bool forged = chance(10);
  if (forged) value.resize(value.size() - 1 - below(7));
  log("setacl {} {} {:o}{}", id, standard ? "default" : "access", acl.mode(),
      forged ? ", forged" : "");
  const std::string name = standard ? "system.posix_acl_default" : "system.posix_acl_access";
  const Status got = fs().xattrs().set(real(id), name, value, 0, testing::kRoot, drop_setgid);
  if (forged) {
    agree(code_of(got), EINVAL);
    return check_attributes(id);
  }
  if (no_space(code_of(got), longest_free_run() < 64, {id})) return;
  agree(code_of(got), code_of(ref_.set_acl(id, standard, acl, drop_setgid)));
  check_attributes(id);
}

void ModelRun::get_xattrs() {
  const NodeId id = any_node();
  const std::string name = "user." + any_name();
  log("getxattr {} \"{}\"", id, name);
  const auto got = fs().xattrs().get(real(id), name);
  const auto expected = ref_.get_xattr(id, name);
  agree(code_of(got), code_of(expected));
  require(!got || *got == *expected, "another value");
  const auto names = fs().xattrs().list(real(id));
  require(names.has_value(), "listxattr fails");
  std::set<std::string> want;
  for (const auto& [n, value] : ref_.node(id).xattrs) want.insert(n);
  require(std::set(names->begin(), names->end()) == want, "other attribute names");
}

// --- remount ---

void ModelRun::remount() {
  const bool clean = chance(50);
  ++seen_.remounts;
  log("remount, {}", clean ? "clean" : "crash");
  while (!handles_.empty() && chance(70)) do_close(below(handles_.size()));
  // What is still open is never released: so it is when the kernel's connection breaks.
  static auto* const abandoned = new std::vector<OpenFileRef>();
  if (clean) {
    for (Handle& handle : handles_) abandoned->push_back(std::move(handle.file));
    fs().unmount();
    handles_.clear();
    mounted_.reset();
  } else {
    // All that was stored is there; what the old filesystem does on its way out is not.
    auto image = std::make_unique<HeapMedium>(medium_->size());
    image->write(PoolOffset(0), {medium_->at(PoolOffset(0)), medium_->size().value});
    handles_.clear();
    mounted_.reset();
    medium_ = std::move(image);
  }
  lookups_.clear();
  ref_.remount();
  mounted_ = std::make_unique<Mounted>(*medium_, options_for(setup_));
  require(mounted_->volume->report().was_clean == clean, "the mount thinks it was {}",
          clean ? "unclean" : "clean");
  require(mounted_->volume->report().replayed == 0, "the journal was not empty");
  check_everything();
}

}  // namespace daxfs::testing
