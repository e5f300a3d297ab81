// The FUSE protocol: sequences of messages as a kernel may send them, from anybody, with any
// contents, to the daemon's session.
//
//   input: mount, kernel, then messages: opcode, who sends, where to, what
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <linux/fuse.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <iterator>
#include <random>

#include "client/daxfs.h"
#include "tests/fuzz/access_list.h"
#include "tests/fuzz/kernel.h"
#include "tests/fuzz/small_pool.h"
#include "tests/fuzz/target.h"

namespace daxfs::fuzz {
namespace {

constexpr unsigned kMostMessages = 60;

// Names as the kernel lets them through: no slash, ended by a NUL.
constexpr const char* kNames[] = {"f",      "g",    "dir",     "h",      "link",   "new",
                                  "other",  ".",    "..",      ".daxfs", "status", "policy",
                                  "events", "pins", "metrics", "leases", "limbo"};

class Client {
 public:
  Client(Kernel& kernel, Input& input) : kernel_(kernel), in_(input) {}

  void send() {
    using Kind = void (Client::*)();
    // Often is what others need.
    static constexpr Kind kKinds[] = {
        &Client::lookup,  &Client::lookup,  &Client::open,      &Client::open,
        &Client::opendir, &Client::forget,  &Client::getattr,   &Client::setattr,
        &Client::make,    &Client::remove,  &Client::rename,    &Client::link,
        &Client::read,    &Client::read,    &Client::write,     &Client::release,
        &Client::xattr,   &Client::create,  &Client::interrupt, &Client::ioctl,
        &Client::ioctl,   &Client::poll,    &Client::fallocate, &Client::lseek,
        &Client::plain,   &Client::unknown, &Client::tmpfile,   &Client::statx,
    };
    const auto kind = kKinds[in_.below(std::size(kKinds))];
    sender_ = some_sender();
    (this->*kind)();
  }

 private:
  Sender some_sender() {
    static constexpr std::uint32_t kUsers[] = {0, 0, 1000, 65534};
    const std::uint32_t user = in_.one_of(kUsers);
    const std::uint32_t processes[] = {static_cast<std::uint32_t>(::getpid()), 1, 0, 0x7fffffff};
    return {user, user, in_.one_of(processes)};
  }
  std::uint64_t some_node() {
    const std::uint64_t choice = in_.below(32);
    if (choice == 31) return in_.u64();
    return kernel_.nodes()[choice % kernel_.nodes().size()];
  }
  const Handle* some_handle() {
    if (kernel_.handles().empty()) return nullptr;
    return &kernel_.handles()[in_.below(16) % kernel_.handles().size()];
  }
  const Handle* some_file() {
    const Handle* const handle = some_handle();
    return handle != nullptr && !handle->directory ? handle : nullptr;
  }
  std::string some_name() {
    const std::uint64_t choice = in_.below(std::size(kNames) + 2);
    std::string name;
    if (choice < std::size(kNames)) name = kNames[choice];
    if (choice == std::size(kNames)) name = std::string(250 + in_.below(12), 'n');
    if (choice > std::size(kNames)) name = in_.text(40);
    for (char& c : name) c = c == '\0' || c == '/' ? '_' : c;
    return name + '\0';
  }
  std::uint64_t some_offset() {
    static constexpr std::uint64_t kOffsets[] = {
        0,       1,           4095,       4096,          12288,      40'000,
        100'000, 1ull << 20,  INT64_MAX,  INT64_MAX - 1, UINT64_MAX, 1ull << 44,
        1 << 21, 0x7ffff000u, 1ull << 63, 1ull << 60};
    return in_.flag() ? in_.one_of(kOffsets) : in_.below(200'000);
  }
  // Of a message with the fields of T: whatever the input says.
  template <class T>
  T any() {
    T out{};
    const std::string bytes = in_.text(sizeof out);
    std::memcpy(&out, bytes.data(), bytes.size());
    return out;
  }
  void message(std::uint32_t opcode, std::uint64_t node, const std::string& body) {
    kernel_.send(opcode, node, body, sender_);
  }
  template <class T>
  void message(std::uint32_t opcode, std::uint64_t node, const T& head, const std::string& tail) {
    message(opcode, node, std::string(bytes_of(head)) + tail);
  }

  void lookup() { message(FUSE_LOOKUP, some_node(), some_name()); }
  void forget() {
    if (in_.flag()) return kernel_.forget(in_.below(8) % kernel_.nodes().size(), sender_);
    // Nodes that nobody knows.
    struct {
      fuse_batch_forget_in head{2, 0};
      fuse_forget_one one[2]{};
    } batch;
    batch.one[0] = {1ull << 40, 1};
    batch.one[1] = {in_.u64() | 1ull << 41, in_.u64()};
    message(FUSE_BATCH_FORGET, 0, batch, "");
  }
  void getattr() {
    auto body = any<fuse_getattr_in>();
    // The kernel names no file that is not open.
    const Handle* const handle =
        (body.getattr_flags & FUSE_GETATTR_FH) != 0 ? some_file() : nullptr;
    if (handle == nullptr) {
      body.getattr_flags &= ~static_cast<std::uint32_t>(FUSE_GETATTR_FH);
    } else {
      body.fh = handle->fh;
    }
    message(FUSE_GETATTR, handle != nullptr ? handle->node : some_node(), body, "");
  }
  void setattr() {
    auto body = any<fuse_setattr_in>();
    body.valid = in_.below(2) == 0 ? in_.u32() : FATTR_SIZE;
    body.size = some_offset();
    // As in ftruncate(2); the kernel names no file that is not open.
    const Handle* const handle = (body.valid & FATTR_FH) != 0 ? some_file() : nullptr;
    if (handle == nullptr) {
      body.valid &= ~static_cast<std::uint32_t>(FATTR_FH);
    } else {
      body.fh = handle->fh;
    }
    for (std::uint32_t* const part : {&body.atimensec, &body.mtimensec, &body.ctimensec}) {
      *part %= 1'000'000'000;
    }
    message(FUSE_SETATTR, handle != nullptr ? handle->node : some_node(), body, "");
  }
  void make() {
    const std::uint64_t node = some_node();
    switch (in_.below(3)) {
      case 0:
        return message(FUSE_MKNOD, node, any<fuse_mknod_in>(), some_name());
      case 1:
        return message(FUSE_MKDIR, node, any<fuse_mkdir_in>(), some_name());
      default:
        return message(FUSE_SYMLINK, node, some_name() + some_name());
    }
  }
  void remove() { message(in_.flag() ? FUSE_UNLINK : FUSE_RMDIR, some_node(), some_name()); }
  void rename() {
    const std::uint64_t node = some_node();
    if (in_.flag()) {
      return message(FUSE_RENAME, node, fuse_rename_in{some_node()}, some_name() + some_name());
    }
    const auto flags = static_cast<std::uint32_t>(in_.below(8));
    message(FUSE_RENAME2, node, fuse_rename2_in{some_node(), flags, 0}, some_name() + some_name());
  }
  void link() { message(FUSE_LINK, some_node(), fuse_link_in{some_node()}, some_name()); }
  void open() {
    static constexpr std::uint32_t kFlags[] = {2, 2, 0, 1, 2 | 0x4000, 2 | 0x400, 2 | 0x200, 0x800};
    const std::uint32_t flags = in_.below(8) == 0 ? in_.u32() : in_.one_of(kFlags);
    message(FUSE_OPEN, some_node(), fuse_open_in{flags, 0}, "");
  }
  void opendir() { message(FUSE_OPENDIR, some_node(), any<fuse_open_in>(), ""); }
  void create() {
    auto body = any<fuse_create_in>();
    body.flags = 2;
    message(FUSE_CREATE, some_node(), body, some_name());
  }
  void tmpfile() {
    auto body = any<fuse_create_in>();
    body.flags = in_.flag() ? 2 : 2 | O_EXCL;
    // At times shorter than it should be.
    if (in_.below(8) == 0) return message(FUSE_TMPFILE, some_node(), in_.text(15));
    message(FUSE_TMPFILE, some_node(), body, std::string(1, '\0'));
  }
  void statx() {
    constexpr std::uint32_t kStatx = 52;  // newer than Debian 12's kernel headers
    message(kStatx, some_node(), in_.below(8) == 0 ? in_.text(23) : std::string(24, '\1'));
  }
  void release() {
    if (kernel_.handles().empty()) return;
    kernel_.release(in_.below(16) % kernel_.handles().size(), sender_);
  }

  void read() {
    const Handle* const handle = some_handle();
    if (handle == nullptr) return;
    auto body = any<fuse_read_in>();
    body.fh = handle->fh;
    body.offset = handle->directory ? in_.below(40) : some_offset();
    body.size %= Kernel::kMostBytes + 1;
    const std::uint32_t opcode =
        !handle->directory ? FUSE_READ : (in_.flag() ? FUSE_READDIRPLUS : FUSE_READDIR);
    message(opcode, handle->node, body, "");
  }
  void write() {
    const Handle* const handle = some_file();
    if (handle == nullptr) return;
    std::string data = in_.flag() ? in_.text(300) : std::string(in_.below(20'000), 'w');
    auto body = any<fuse_write_in>();
    body.fh = handle->fh;
    body.offset = some_offset();
    body.size = static_cast<std::uint32_t>(data.size());
    message(FUSE_WRITE, handle->node, body, data);
  }
  void fallocate() {
    const Handle* const handle = some_file();
    if (handle == nullptr) return;
    static constexpr std::uint32_t kModes[] = {0, 1, 2, 3, 0x10, 0x11};
    fuse_fallocate_in body{};
    body.fh = handle->fh;
    body.offset = some_offset();
    body.length = some_offset();
    body.mode = in_.below(8) == 0 ? in_.u32() : in_.one_of(kModes);
    message(FUSE_FALLOCATE, handle->node, body, "");
  }
  void lseek() {
    const Handle* const handle = some_file();
    if (handle == nullptr) return;
    const fuse_lseek_in body{handle->fh, some_offset(), static_cast<std::uint32_t>(in_.below(6)),
                             0};
    message(FUSE_LSEEK, handle->node, body, "");
  }
  void poll() {
    const Handle* const handle = some_file();
    if (handle == nullptr) return;
    auto body = any<fuse_poll_in>();
    body.fh = handle->fh;
    message(FUSE_POLL, handle->node, body, "");
  }
  void ioctl() {
    const Handle* const handle = some_handle();
    if (handle == nullptr) return;
    static constexpr std::uint32_t kCommands[] = {
        DAXFS_IOC_PIN,   DAXFS_IOC_PIN,     DAXFS_IOC_UNPIN,      DAXFS_IOC_PIN_EXTENTS,
        DAXFS_IOC_LEASE, DAXFS_IOC_EXTENTS, DAXFS_IOC_POOL,       DAXFS_IOC_QUERY,
        DAXFS_IOC_LEASE, DAXFS_IOC_UNLEASE, DAXFS_IOC_NEXT_EVENT, DAXFS_IOC_ADOPT,
        FS_IOC_GETFLAGS, FS_IOC_SETFLAGS,   FS_IOC_FSGETXATTR,    FS_IOC_FSSETXATTR};
    fuse_ioctl_in body{};
    body.fh = handle->fh;
    body.flags = handle->directory ? FUSE_IOCTL_DIR : 0;
    body.cmd = in_.below(8) == 0 ? in_.u32() : in_.one_of(kCommands);
    body.in_size = (_IOC_DIR(body.cmd) & _IOC_WRITE) != 0 ? _IOC_SIZE(body.cmd) : 0;
    body.out_size = (_IOC_DIR(body.cmd) & _IOC_READ) != 0 ? _IOC_SIZE(body.cmd) : 0;
    // Offset and length first, in what asks for a range.
    std::string data;
    for (const std::uint64_t word : {some_offset(), some_offset()}) data += bytes_of(word);
    data += in_.text(24);
    data.resize(body.in_size);
    message(FUSE_IOCTL, handle->node, body, data);
  }

  void xattr() {
    const std::uint64_t node = some_node();
    static constexpr const char* kAttributes[] = {"user.daxfs.pin_policy",
                                                  "user.a",
                                                  "trusted.b",
                                                  "security.capability",
                                                  "system.posix_acl_access",
                                                  "system.posix_acl_default"};
    const std::string name =
        in_.below(6) == 0 ? some_name() : std::string(in_.one_of(kAttributes)) + '\0';
    switch (in_.below(4)) {
      case 0: {
        const std::uint64_t kind = in_.below(3);
        const std::string value = kind == 0   ? "defer"
                                  : kind == 1 ? in_.text(200)
                                              : access_list(in_);
        const fuse_setxattr_in body{.size = static_cast<std::uint32_t>(value.size()),
                                    .flags = static_cast<std::uint32_t>(in_.below(4)),
                                    .setxattr_flags = static_cast<std::uint32_t>(in_.below(2)),
                                    .padding = 0};
        const std::string whole(bytes_of(body));
        // Without FUSE_SETXATTR_EXT its second half is missing.
        const std::size_t length =
            kernel_.is_modern() ? whole.size() : std::size_t{FUSE_COMPAT_SETXATTR_IN_SIZE};
        return message(FUSE_SETXATTR, node, whole.substr(0, length) + name + value);
      }
      case 1:
        return message(FUSE_GETXATTR, node, fuse_getxattr_in{some_size(), 0}, name);
      case 2:
        return message(FUSE_LISTXATTR, node, fuse_getxattr_in{some_size(), 0}, "");
      default:
        return message(FUSE_REMOVEXATTR, node, name);
    }
  }
  std::uint32_t some_size() { return static_cast<std::uint32_t>(in_.below(400)); }

  void interrupt() {
    const std::uint64_t back = 2 * in_.below(20);
    const std::uint64_t last = kernel_.last_request();
    message(FUSE_INTERRUPT, 0, fuse_interrupt_in{back < last ? last - back : in_.u64() | 1}, "");
  }
  // No body, or one that is not looked at.
  void plain() {
    static constexpr std::uint32_t kOpcodes[] = {FUSE_READLINK, FUSE_STATFS, FUSE_FSYNC,
                                                 FUSE_FSYNCDIR, FUSE_ACCESS, FUSE_SYNCFS};
    message(in_.one_of(kOpcodes), some_node(), any<fuse_fsync_in>(), "");
  }
  void unknown() {
    const auto opcode = static_cast<std::uint32_t>(in_.below(2) == 0 ? in_.u32() | 1u << 20
                                                                     : FUSE_SYNCFS + in_.below(50));
    message(opcode, some_node(), in_.text(100));
  }

  Kernel& kernel_;
  Input& in_;
  Sender sender_;
};

}  // namespace

void make_seeds(const std::function<void(const std::string&, const std::string&)>& add) {
  // Every way to mount; first the files are looked up and opened.
  for (unsigned mount = 0; mount < 10; ++mount) {
    std::mt19937_64 random(mount);
    std::string bytes{static_cast<char>(mount), static_cast<char>(mount % 2)};
    // Kind, user, process, node, name.
    for (const char* const lookup :
         {"\0\0\0\0\0", "\0\0\0\0\1", "\0\0\0\0\2", "\0\0\0\0\x9", "\0\0\0\4\xb", "\0\0\0\4\xc"}) {
      bytes.append(lookup, 5);
    }
    // Kind, user, process, usual flags, which, node.
    for (char node = 1; node < 7; ++node) bytes += std::string{2, 0, 0, 1, 0, node};
    for (unsigned i = 0; i < 500; ++i) bytes += static_cast<char>(random());
    add(fmt::format("mount-{}", mount), bytes);
  }
}

}  // namespace daxfs::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace daxfs::fuzz;
  on_small_pool(Input({data, size}), [](daxfs::Filesystem& fs, KernelRelay& relay, Input& choices) {
    Kernel kernel(fs, relay, choices.flag());
    Client client(kernel, choices);
    for (unsigned i = 0; i < kMostMessages && !choices.empty(); ++i) client.send();
  });
  return 0;
}
