// null-fuse: the fastest filesystem that libfuse allows, as the yardstick of tools/bench.
//
// It runs with the library, the session options and the wire hooks of daxfs, replies constant
// memory to reads, discards writes, copies the arguments of daxfs' pin ioctls in and out, and keeps
// names in a hash table. What daxfs costs above it is daxfs' own work.
#include <fuse_lowlevel.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "client/daxfs.h"
#include "fuse_ops/request_loop.h"
#include "fuse_ops/signals.h"

namespace daxfs::bench {
namespace {

constexpr std::size_t kMaxIo = std::size_t{1} << 20;
constexpr std::uint64_t kBigFileSize = std::uint64_t{1} << 30;
constexpr double kForever = 86400;
constexpr const char* kBigFile = "null";
constexpr ino_t kSomeInode = 0xffffffff;  // of directory entries: readdir(3) skips number 0

struct Inode {
  mode_t mode = S_IFREG | 0644;
  std::atomic<std::uint64_t> size = 0;
  std::uint64_t lookups = 0;  // guarded by NullFs::mutex_
  bool linked = true;         // guarded by NullFs::mutex_
};

// The only directory. An inode number is the address of its Inode; the kernel's lookup count and
// the name keep it alive. Thread-safe.
class NullFs {
 public:
  NullFs() {
    content_.reset(new (std::align_val_t{4096}) std::array<char, kMaxIo>);
    content_->fill('\x5a');
    add(kBigFile, S_IFREG | 0666)->size = kBigFileSize;
  }
  ~NullFs() {
    for (auto& [name, inode] : names_) delete inode;
  }
  NullFs(const NullFs&) = delete;
  NullFs& operator=(const NullFs&) = delete;

  char* content() { return content_->data(); }

  // The inode of the name with one lookup more, or nullptr.
  Inode* lookup(const char* name) {
    const std::lock_guard lock(mutex_);
    const auto it = names_.find(std::string_view(name));
    if (it == names_.end()) return nullptr;
    ++it->second->lookups;
    return it->second;
  }

  // As lookup(), made if missing.
  Inode* create(const char* name, mode_t mode) {
    const std::lock_guard lock(mutex_);
    const auto it = names_.find(std::string_view(name));
    Inode* inode = it == names_.end() ? add(name, mode) : it->second;
    ++inode->lookups;
    return inode;
  }

  bool unlink(const char* name) {
    const std::lock_guard lock(mutex_);
    const auto it = names_.find(std::string_view(name));
    if (it == names_.end()) return false;
    drop(it);
    return true;
  }

  bool rename(const char* from, const char* to) {
    const std::lock_guard lock(mutex_);
    const auto source = names_.find(std::string_view(from));
    if (source == names_.end()) return false;
    const auto target = names_.find(std::string_view(to));
    if (target == source) return true;
    if (target != names_.end()) drop(target);
    auto node = names_.extract(source);
    node.key() = to;
    names_.insert(std::move(node));
    return true;
  }

  void forget(Inode* inode, std::uint64_t count) {
    const std::lock_guard lock(mutex_);
    inode->lookups -= count;
    if (inode->lookups == 0 && !inode->linked) delete inode;
  }

  // In an order that lasts as long as no name comes or goes.
  std::vector<std::string> names() {
    const std::lock_guard lock(mutex_);
    std::vector<std::string> all;
    for (const auto& [name, inode] : names_) all.push_back(name);
    return all;
  }

 private:
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  using Names = std::unordered_map<std::string, Inode*, Hash, std::equal_to<>>;
  struct AlignedDelete {
    void operator()(std::array<char, kMaxIo>* memory) const {
      ::operator delete (memory, std::align_val_t{4096});
    }
  };

  Inode* add(const char* name, mode_t mode) {
    auto* inode = new Inode;
    inode->mode = mode;
    names_.emplace(name, inode);
    return inode;
  }
  void drop(Names::iterator it) {
    Inode* inode = it->second;
    names_.erase(it);
    inode->linked = false;
    if (inode->lookups == 0) delete inode;
  }

  std::unique_ptr<std::array<char, kMaxIo>, AlignedDelete> content_;
  std::mutex mutex_;  // guards the names and the lookup counts; nothing is taken under it
  Names names_;
};

NullFs& fs_of(fuse_req_t req) { return *static_cast<NullFs*>(fuse_req_userdata(req)); }

Inode* inode_of(fuse_ino_t ino) {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an inode number is an address
  return reinterpret_cast<Inode*>(static_cast<std::uintptr_t>(ino));
}

fuse_ino_t number_of(const Inode* inode) {
  return static_cast<fuse_ino_t>(reinterpret_cast<std::uintptr_t>(inode));
}

struct stat attributes(fuse_ino_t ino) {
  struct stat st = {};
  st.st_ino = ino;
  st.st_blksize = 4096;
  if (ino == FUSE_ROOT_ID) {
    st.st_mode = S_IFDIR | 0777;
    st.st_nlink = 2;
  } else {
    const Inode* inode = inode_of(ino);
    const std::uint64_t size = inode->size.load(std::memory_order_relaxed);
    st.st_mode = inode->mode;
    st.st_nlink = 1;
    st.st_size = static_cast<off_t>(size);
    st.st_blocks = static_cast<blkcnt_t>((size + 511) / 512);
  }
  return st;
}

fuse_entry_param entry_of(const Inode* inode) {
  fuse_entry_param entry = {};
  entry.ino = number_of(inode);
  entry.attr = attributes(entry.ino);
  entry.attr_timeout = kForever;
  entry.entry_timeout = kForever;
  return entry;
}

// As daxfs opens files: O_DIRECT past the page cache, otherwise cached for good.
void set_open_flags(fuse_file_info* fi) {
  fi->direct_io = (fi->flags & O_DIRECT) != 0;
  fi->keep_cache = !fi->direct_io;
  fi->noflush = 1;
}

void op_init(void*, fuse_conn_info* conn) {
  conn->max_write = kMaxIo;
  conn->want &=
      ~static_cast<unsigned>(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
}

void op_lookup(fuse_req_t req, fuse_ino_t, const char* name) {
  const Inode* inode = fs_of(req).lookup(name);
  if (inode == nullptr) {
    fuse_reply_err(req, ENOENT);
    return;
  }
  const fuse_entry_param entry = entry_of(inode);
  fuse_reply_entry(req, &entry);
}

void op_forget(fuse_req_t req, fuse_ino_t ino, std::uint64_t count) {
  if (ino != FUSE_ROOT_ID) fs_of(req).forget(inode_of(ino), count);
  fuse_reply_none(req);
}

void op_forget_multi(fuse_req_t req, std::size_t count, fuse_forget_data* forgets) {
  for (std::size_t i = 0; i < count; ++i) {
    if (forgets[i].ino != FUSE_ROOT_ID) {
      fs_of(req).forget(inode_of(forgets[i].ino), forgets[i].nlookup);
    }
  }
  fuse_reply_none(req);
}

void op_getattr(fuse_req_t req, fuse_ino_t ino, fuse_file_info*) {
  const struct stat st = attributes(ino);
  fuse_reply_attr(req, &st, kForever);
}

void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat* attr, int to_set, fuse_file_info*) {
  if (ino != FUSE_ROOT_ID && (to_set & FUSE_SET_ATTR_SIZE) != 0) {
    inode_of(ino)->size = static_cast<std::uint64_t>(attr->st_size);
  }
  const struct stat st = attributes(ino);
  fuse_reply_attr(req, &st, kForever);
}

void op_open(fuse_req_t req, fuse_ino_t, fuse_file_info* fi) {
  set_open_flags(fi);
  reply_open(req, *fi);
}

void op_create(fuse_req_t req, fuse_ino_t, const char* name, mode_t mode, fuse_file_info* fi) {
  set_open_flags(fi);
  const fuse_entry_param entry = entry_of(fs_of(req).create(name, mode));
  reply_create(req, entry, *fi);
}

void op_release(fuse_req_t req, fuse_ino_t, fuse_file_info*) { fuse_reply_err(req, 0); }

void op_read(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t offset, fuse_file_info*) {
  const std::uint64_t end = inode_of(ino)->size.load(std::memory_order_relaxed);
  const auto from = static_cast<std::uint64_t>(offset);
  const std::size_t available = from < end ? static_cast<std::size_t>(end - from) : 0;
  iovec reply = {.iov_base = fs_of(req).content(), .iov_len = std::min({size, available, kMaxIo})};
  fuse_reply_iov(req, &reply, 1);
}

void op_write(fuse_req_t req, fuse_ino_t ino, const char*, std::size_t size, off_t offset,
              fuse_file_info*) {
  std::atomic<std::uint64_t>& file_size = inode_of(ino)->size;
  const std::uint64_t end = static_cast<std::uint64_t>(offset) + size;
  std::uint64_t seen = file_size.load(std::memory_order_relaxed);
  while (seen < end && !file_size.compare_exchange_weak(seen, end)) {
  }
  fuse_reply_write(req, size);
}

void op_fsync(fuse_req_t req, fuse_ino_t, int, fuse_file_info*) { fuse_reply_err(req, 0); }

void op_fallocate(fuse_req_t req, fuse_ino_t, int, off_t, off_t, fuse_file_info*) {
  fuse_reply_err(req, 0);
}

void op_ioctl(fuse_req_t req, fuse_ino_t, unsigned int, void*, fuse_file_info*, unsigned flags,
              const void* in, std::size_t in_size, std::size_t out_size) {
  daxfs_pin_args args = {};
  if ((flags & FUSE_IOCTL_COMPAT) != 0 || in_size > sizeof args || out_size > sizeof args) {
    fuse_reply_err(req, ENOTTY);
    return;
  }
  if (in_size > 0) std::memcpy(&args, in, in_size);
  fuse_reply_ioctl(req, 0, &args, out_size);
}

void op_unlink(fuse_req_t req, fuse_ino_t, const char* name) {
  fuse_reply_err(req, fs_of(req).unlink(name) ? 0 : ENOENT);
}

void op_rename(fuse_req_t req, fuse_ino_t, const char* from, fuse_ino_t, const char* to,
               unsigned int flags) {
  if (flags != 0) {
    fuse_reply_err(req, EINVAL);
    return;
  }
  fuse_reply_err(req, fs_of(req).rename(from, to) ? 0 : ENOENT);
}

void op_readdir(fuse_req_t req, fuse_ino_t, std::size_t size, off_t offset, fuse_file_info*) {
  std::vector<std::string> names = fs_of(req).names();
  names.insert(names.begin(), {".", ".."});
  std::vector<char> reply(size);
  std::size_t used = 0;
  struct stat st = {};
  st.st_ino = kSomeInode;
  for (auto i = static_cast<std::size_t>(offset); i < names.size(); ++i) {
    const std::size_t needed = fuse_add_direntry(req, reply.data() + used, size - used,
                                                 names[i].c_str(), &st, static_cast<off_t>(i + 1));
    if (needed > size - used) break;
    used += needed;
  }
  fuse_reply_buf(req, reply.data(), used);
}

fuse_lowlevel_ops operations() {
  fuse_lowlevel_ops ops = {};
  ops.init = op_init;
  ops.lookup = op_lookup;
  ops.forget = op_forget;
  ops.forget_multi = op_forget_multi;
  ops.getattr = op_getattr;
  ops.setattr = op_setattr;
  ops.open = op_open;
  ops.create = op_create;
  ops.release = op_release;
  ops.read = op_read;
  ops.write = op_write;
  ops.fsync = op_fsync;
  ops.fallocate = op_fallocate;
  ops.ioctl = op_ioctl;
  ops.unlink = op_unlink;
  ops.rename = op_rename;
  ops.readdir = op_readdir;
  return ops;
}

// Mounts, serves until unmounted or signalled. An exit status.
int serve(const char* program, const char* mountpoint) {
  std::vector<std::string> words = {
      program, "-o", "fsname=null,subtype=null-fuse,default_permissions,allow_other"};
  std::vector<char*> argv;
  argv.reserve(words.size());
  for (std::string& word : words) argv.push_back(word.data());
  fuse_args args = FUSE_ARGS_INIT(static_cast<int>(argv.size()), argv.data());

  NullFs fs;
  const fuse_lowlevel_ops ops = operations();
  fuse_session* session = fuse_session_new(&args, &ops, sizeof ops, &fs);
  if (session == nullptr) return EXIT_FAILURE;
  int status = EXIT_FAILURE;
  RequestLoop loop(session, {});
  SignalsEndSession signals([] {}, [&] { loop.stop(); });
  if (fuse_session_mount(session, mountpoint) == 0) {
    status = loop.run() == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
    signals.ended();
    fuse_session_unmount(session);
  }
  fuse_session_destroy(session);
  fuse_opt_free_args(&args);
  return status;
}

}  // namespace
}  // namespace daxfs::bench

int main(int argc, char** argv) {
  if (argc != 2 || argv[1][0] == '-') {
    std::fprintf(
        stderr,
        "usage: null-fuse MOUNTPOINT\n"
        "Serves, in the foreground, a FUSE filesystem that keeps no data: a 1 GiB file '%s'\n"
        "and whatever names are made in it. tools/bench compares daxfs with it.\n",
        daxfs::bench::kBigFile);
    return 2;
  }
  return daxfs::bench::serve(argv[0], argv[1]);
}
