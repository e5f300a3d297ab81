#include "tests/fuzz/operate.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vector>

#include "client/daxfs.h"
#include "tests/fuzz/access_list.h"
#include "tests/fuzz/target.h"
#include "tests/model/mounted.h"

namespace daxfs::fuzz {
namespace {

// A damaged size can be anything: so much of the holes and the data of a file is read.
constexpr unsigned kMostRuns = 40;
constexpr std::uint64_t kMostBytes = 1 << 20;

class Checked {
 public:
  explicit Checked(Expect expect) : expect_(expect) {}

  template <class T>
  bool good(const std::expected<T, Errno>& result, const char* what, InodeNumber inode) const {
    if (result) return true;
    const int code = result.error().code;
    require(code > 0 && code < 4096,
            fmt::format("{} of inode {}: errno {}", what, inode.value, code));
    const bool is_damage = code == EIO || code == EUCLEAN;
    require(expect_ == Expect::damaged || !is_damage,
            fmt::format("{} of inode {}: {}", what, inode.value, strerrorname_np(code)));
    return false;
  }

 private:
  Expect expect_;
};

class Reader : Checked {
 public:
  Reader(Filesystem& fs, Expect expect) : Checked(expect), fs_(fs) {}

  void inode(InodeNumber number) {
    const auto st = fs_.attributes().get(number);
    if (!good(st, "stat", number)) return;
    extended_attributes(number);
    if (S_ISLNK(st->st_mode)) good(fs_.names().read_symlink(number), "readlink", number);
    if (S_ISDIR(st->st_mode)) directory(number);
    if (S_ISREG(st->st_mode)) file(number);
  }

 private:
  void extended_attributes(InodeNumber number) {
    const auto names = fs_.xattrs().list(number);
    if (!good(names, "listxattr", number)) return;
    for (const std::string& name : *names) good(fs_.xattrs().get(number, name), "getxattr", number);
  }

  void directory(InodeNumber number) {
    std::vector<std::string> names;
    const Status listed = fs_.names().read_directory(number, 0, [&](const auto& entry) {
      if (entry.cookie > 2) names.emplace_back(entry.name);
      return true;
    });
    if (!good(listed, "readdir", number)) return;
    for (const std::string& name : names) {
      const auto entry = fs_.names().lookup(number, name);
      if (good(entry, "lookup", number)) fs_.names().forget(entry->inode, 1);
    }
  }

  void file(InodeNumber number) {
    auto open = fs_.files().open(number, O_RDONLY);
    if (!good(open, "open", number)) return;
    good(fs_.extents().of_range(**open, FileOffset(0), ByteCount(INT64_MAX), 500), "extents",
         number);
    FileOffset at(0);
    std::uint64_t left = kMostBytes;
    for (unsigned i = 0; i < kMostRuns && left > 0; ++i) {
      const auto data = fs_.space().seek(**open, at, SEEK_DATA);
      if (!good(data, "SEEK_DATA", number)) break;
      const auto hole = fs_.space().seek(**open, *data, SEEK_HOLE);
      if (!good(hole, "SEEK_HOLE", number)) break;
      require(*hole > *data, "a run of data that does not go on");
      const std::uint64_t length = std::min(left, (*hole - *data).value);
      const auto bytes = testing::read(fs_, **open, data->value, length);
      if (good(bytes, "read", number)) {
        require(!bytes->empty() && bytes->size() <= length, "another length than was asked for");
      }
      left -= length;
      at = *hole;
    }
    // What a hole reads as, at the end of the file.
    good(testing::read(fs_, **open, at.value, 9000), "read", number);
    fs_.files().release(std::move(*open));
  }

  Filesystem& fs_;
};

class Operator : Checked {
 public:
  Operator(Filesystem& fs, Input& input, Expect expect) : Checked(expect), fs_(fs), in_(input) {}

  void operate() {
    using Kind = void (Operator::*)();
    static constexpr Kind kKinds[] = {
        &Operator::create,     &Operator::make_directory, &Operator::make_symlink,
        &Operator::remove,     &Operator::rename,         &Operator::link,
        &Operator::write,      &Operator::truncate,       &Operator::change_space,
        &Operator::set_xattr,  &Operator::remove_xattr,   &Operator::pin,
        &Operator::attributes,
    };
    (this->*kKinds[in_.below(std::size(kKinds))])();
  }

 private:
  InodeNumber some_inode() { return InodeNumber(1 + in_.below(80)); }

  // A name that is there, or a new one.
  std::string some_name(InodeNumber directory) {
    const std::uint64_t wanted = in_.below(24);
    std::string found = fmt::format("new{}", wanted);
    std::uint64_t number = 0;
    const Status listed = fs_.names().read_directory(directory, 2, [&](const auto& entry) {
      if (number++ != wanted) return true;
      found = entry.name;
      return false;
    });
    if (listed || listed.error().code != ENOTDIR) good(listed, "readdir", directory);
    return found;
  }

  std::uint64_t some_offset() {
    switch (in_.below(4)) {
      case 0:
        return in_.below(2 << 20);
      case 1:
        return in_.below(512) * kBlockSize;
      case 2:
        return in_.below(20'000);
      default:
        return (std::uint64_t{1} << (20 + in_.below(43))) - in_.below(3);
    }
  }

  void forget(const Result<Entry>& entry, const char* what, InodeNumber inode) {
    if (good(entry, what, inode)) fs_.names().forget(entry->inode, 1);
  }

  OpenFileRef some_file() {
    const InodeNumber inode = some_inode();
    auto open = fs_.files().open(inode, O_RDWR);
    return good(open, "open", inode) ? std::move(*open) : nullptr;
  }

  void create() {
    const InodeNumber parent = some_inode();
    static constexpr mode_t kTypes[] = {S_IFREG, S_IFREG, S_IFIFO, S_IFCHR};
    const mode_t type = in_.one_of(kTypes);
    forget(fs_.names().make_node(parent, some_name(parent), type | 0600, 5, {}), "mknod", parent);
  }
  void make_directory() {
    const InodeNumber parent = some_inode();
    forget(fs_.names().make_directory(parent, some_name(parent), 0700, {}), "mkdir", parent);
  }
  void make_symlink() {
    const InodeNumber parent = some_inode();
    const std::string name = some_name(parent);
    forget(fs_.names().make_symlink(parent, name, std::string(1 + in_.below(4200), 't'), {}),
           "symlink", parent);
  }
  void remove() {
    const InodeNumber parent = some_inode();
    const std::string name = some_name(parent);
    const Status removed = fs_.names().unlink(parent, name);
    if (!removed && removed.error().code == EISDIR) {
      good(fs_.names().remove_directory(parent, name), "rmdir", parent);
    } else {
      good(removed, "unlink", parent);
    }
  }
  void rename() {
    const InodeNumber from = some_inode();
    const InodeNumber to = some_inode();
    const std::string name = some_name(from);
    const std::string new_name = some_name(to);
    const auto flags = static_cast<unsigned>(in_.below(4));
    good(testing::rename(fs_, from, name, to, new_name, flags), "rename", from);
  }
  void link() {
    const InodeNumber inode = some_inode();
    const InodeNumber parent = some_inode();
    forget(fs_.names().link(inode, parent, some_name(parent)), "link", inode);
  }
  void write() {
    auto file = some_file();
    if (!file) return;
    const std::uint64_t offset = some_offset();
    const std::string data(in_.below(20'000), 'w');
    good(testing::write(fs_, *file, offset, data, in_.flag()), "write", file->inode->number);
    fs_.files().release(std::move(file));
  }
  void truncate() {
    const InodeNumber inode = some_inode();
    good(testing::truncate(fs_, inode, some_offset()), "truncate", inode);
  }
  void change_space() {
    auto file = some_file();
    if (!file) return;
    const std::uint64_t offset = some_offset();
    const std::uint64_t length = 1 + some_offset();
    const FileOffset from(offset);
    const ByteCount count(length);
    Status done;
    switch (in_.below(3)) {
      case 0:
        done = testing::punch(fs_, *file, offset, length);
        break;
      case 1:
        done = fs_.space().zero_range(*file, from, count, in_.flag());
        break;
      default:
        done = fs_.space().allocate(*file, from, count, in_.flag());
    }
    good(done, "fallocate", file->inode->number);
    fs_.files().release(std::move(file));
  }
  void set_xattr() {
    const InodeNumber inode = some_inode();
    const std::uint64_t kind = in_.below(6);
    const std::string name = kind == 4   ? "system.posix_acl_access"
                             : kind == 5 ? "system.posix_acl_default"
                                         : fmt::format("user.{}", kind);
    const std::string value = kind < 4 ? std::string(in_.below(9000), 'v') : access_list(in_);
    good(fs_.xattrs().set(inode, name, value, static_cast<int>(in_.below(3)), {}), "setxattr",
         inode);
  }
  void remove_xattr() {
    const InodeNumber inode = some_inode();
    const auto names = fs_.xattrs().list(inode);
    if (!good(names, "listxattr", inode) || names->empty()) return;
    good(fs_.xattrs().remove(inode, (*names)[in_.below(names->size())], {}), "removexattr", inode);
  }
  void pin() {
    auto file = some_file();
    if (!file) return;
    const InodeNumber inode = file->inode->number;
    const PinRange range{FileOffset(some_offset()), ByteCount(1 + some_offset()),
                         static_cast<std::uint32_t>(in_.below(8))};
    const auto pinned = testing::pin(fs_, *file, range);
    if (good(pinned, "pin", inode)) {
      good(fs_.extents().of_pin(*file, *pinned, 0, 500), "pin extents", inode);
      if (in_.flag()) good(testing::unpin(fs_, *file, *pinned), "unpin", inode);
    }
    fs_.files().release(std::move(file));
  }
  void attributes() {
    const InodeNumber inode = some_inode();
    if (in_.below(8) == 7) return flags(inode);
    AttributeChange change;
    change.mode = static_cast<mode_t>(in_.below(07777 + 1));
    change.uid = static_cast<uid_t>(in_.below(3));
    change.mtime_ns = static_cast<std::int64_t>(in_.u64());
    good(testing::set_attributes(fs_, inode, change), "setattr", inode);
  }

  // Mostly none, or nothing would happen any more.
  void flags(InodeNumber inode) {
    const std::uint64_t flags = in_.below(4) == 3 ? in_.below(128) : 0;
    good(fs_.inode_flags().set(inode, static_cast<std::uint16_t>(flags)), "chattr", inode);
  }

  Filesystem& fs_;
  Input& in_;
};

}  // namespace

void read_everything(Filesystem& fs, Expect expect) {
  Reader reader(fs, expect);
  const InodeTable& inodes = fs.mount().volume.inodes();
  for (std::uint64_t n = 1; n <= inodes.capacity(); ++n) {
    // What is in use but damaged is asked for as well.
    const auto record = inodes.load(InodeNumber(n));
    if (record || record.error().code != ENOENT) reader.inode(InodeNumber(n));
  }
}

void operate(Filesystem& fs, Input& input, std::uint64_t count, Expect expect) {
  Operator user(fs, input, expect);
  for (; count > 0; --count) user.operate();
}

}  // namespace daxfs::fuzz
