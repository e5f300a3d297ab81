// The C interface beneath the library: ioctls with any number, size and contents on files of every
// kind, while others take the blocks away.
//
//   input: mount, then steps: what, on which descriptor, with which arguments
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <unistd.h>

#include <cstring>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>

#include "client/daxfs.h"
#include "src/control_directory.h"
#include "tests/fuzz/kernel.h"
#include "tests/fuzz/policy_words.h"
#include "tests/fuzz/small_pool.h"
#include "tests/fuzz/target.h"

namespace daxfs::fuzz {
namespace {

constexpr unsigned kMostSteps = 50;
constexpr std::uint64_t kStatus = ControlDirectory::kDirectory.value + 1;

class Program {
 public:
  Program(Kernel& kernel, Input& input) : kernel_(kernel), in_(input) {
    open(kSparseFile, O_RDWR);
    open(kSparseFile, O_RDWR);
    open(kDenseFile, O_RDWR);
    open(kDenseFile, O_RDONLY);
    open(kDenseFile, O_WRONLY | O_DIRECT);
    open(kInnerFile, O_RDWR);
    open(kStatus, O_RDONLY);
    kernel_.send(FUSE_OPENDIR, FUSE_ROOT_ID, bytes_of(fuse_open_in{}), {});
  }

  void step() {
    using Kind = void (Program::*)();
    static constexpr Kind kKinds[] = {
        &Program::pin,      &Program::pin,       &Program::pin,         &Program::unpin,
        &Program::extents,  &Program::extents,   &Program::pin_extents, &Program::lease,
        &Program::lease,    &Program::unlease,   &Program::next_event,  &Program::adopt,
        &Program::query,    &Program::query,     &Program::pool,        &Program::policy,
        &Program::anything, &Program::truncate,  &Program::punch,       &Program::close,
        &Program::replace,  &Program::interrupt, &Program::attach,      &Program::detach,
        &Program::direct,   &Program::direct};
    const auto kind = kKinds[in_.below(std::size(kKinds))];
    const std::uint32_t user = in_.below(4) == 0 ? 1000 : 0;
    const auto process = in_.below(4) == 0 ? 1 : static_cast<std::uint32_t>(::getpid());
    sender_ = {user, user, process};
    (this->*kind)();
  }

 private:
  void open(std::uint64_t node, int flags) {
    kernel_.send(FUSE_OPEN, node, bytes_of(fuse_open_in{static_cast<std::uint32_t>(flags), 0}), {});
  }
  const Handle& some_handle() {
    if (kernel_.handles().empty()) open(kSparseFile, O_RDONLY);
    return kernel_.handles()[in_.below(16) % kernel_.handles().size()];
  }
  std::uint64_t some_offset() {
    static constexpr std::uint64_t kOffsets[] = {
        0,         1, 4096, 12288, 30 * 4096, 1ull << 40, INT64_MAX, UINT64_MAX, UINT64_MAX - 4095,
        1ull << 63};
    return in_.below(4) == 0 ? in_.one_of(kOffsets) : in_.below(40) * 4096 + in_.below(2);
  }
  std::uint64_t some_id(const std::vector<std::uint64_t>& known) {
    if (known.empty() || in_.below(8) == 0) return in_.u64();
    return known[in_.below(16) % known.size()];
  }

  // What the ioctl answered with, if it did.
  std::optional<std::string> issue(std::uint32_t command, std::string in, std::size_t out_size) {
    const Handle& handle = some_handle();
    fuse_ioctl_in body{};
    body.fh = handle.fh;
    body.flags = handle.directory ? FUSE_IOCTL_DIR : 0;
    body.cmd = command;
    body.in_size = static_cast<std::uint32_t>(in.size());
    body.out_size = static_cast<std::uint32_t>(out_size);
    const auto number =
        kernel_.send(FUSE_IOCTL, handle.node, std::string(bytes_of(body)) + in, sender_);
    const auto answer = kernel_.answer(number);
    const auto lacks = [&](unsigned direction, std::size_t size) {
      return (_IOC_DIR(command) & direction) != 0 && size < _IOC_SIZE(command);
    };
    if (lacks(_IOC_WRITE, in.size()) || lacks(_IOC_READ, out_size)) {
      require(answer && answer->error == ENOTTY, "an ioctl with less than its number says");
    }
    if (!answer || answer->error != 0) return std::nullopt;
    require(answer->body.size() >= sizeof(fuse_ioctl_out), "an ioctl without a result");
    std::string data = answer->body.substr(sizeof(fuse_ioctl_out));
    require(data.size() <= out_size, "more than there is room for");
    return data;
  }
  template <class T>
  std::optional<T> issue(std::uint32_t command, const T& in) {
    const std::size_t out_size = (_IOC_DIR(command) & _IOC_READ) != 0 ? sizeof in : 0;
    const bool takes = (_IOC_DIR(command) & _IOC_WRITE) != 0;
    const auto data = issue(command, takes ? std::string(bytes_of(in)) : std::string(), out_size);
    if (!data || data->size() != sizeof(T)) return std::nullopt;
    T out;
    std::memcpy(&out, data->data(), sizeof out);
    return out;
  }

  std::uint32_t some_flags() {
    return in_.below(16) == 0 ? in_.u32() : static_cast<std::uint32_t>(in_.below(16));
  }
  std::uint32_t reserved() { return in_.below(32) == 1 ? in_.u32() : 0; }

  void pin() {
    const daxfs_pin_args args{some_offset(), some_offset() + 1, some_flags(), reserved(), 0};
    if (const auto out = issue(DAXFS_IOC_PIN, args)) pins_.push_back(out->pin_id);
  }
  void unpin() { issue(DAXFS_IOC_UNPIN, daxfs_unpin_args{some_id(pins_)}); }
  void adopt() { issue(DAXFS_IOC_ADOPT, daxfs_unpin_args{some_id(pins_)}); }
  void lease() {
    const auto flags = some_flags() & (in_.flag() ? ~0u : 3u);
    const daxfs_lease_args args{some_offset(), some_offset() + 1, flags, reserved(),
                                some_id(leases_)};
    if (const auto out = issue(DAXFS_IOC_LEASE, args)) leases_.push_back(out->lease_id);
  }
  void unlease() { issue(DAXFS_IOC_UNLEASE, daxfs_unlease_args{some_id(leases_)}); }
  void next_event() { issue(DAXFS_IOC_NEXT_EVENT, daxfs_event{}); }

  void check(const std::optional<daxfs_extents_args>& out) {
    if (out) check(out->extents, out->count, out->more);
  }
  void check(const daxfs_extent* extents, std::uint32_t count, std::uint32_t more) {
    require(count <= DAXFS_EXTENTS_PER_CALL && more <= 1, "impossible extents");
    for (std::uint32_t i = 0; i < count; ++i) {
      const daxfs_extent& extent = extents[i];
      require(extent.length > 0 && extent.length % DAXFS_BLOCK_SIZE == 0 &&
                  extent.pool_offset % DAXFS_BLOCK_SIZE == 0 &&
                  extent.pool_offset + extent.length <= 4 << 20,
              "an extent that lies outside of the pool");
    }
  }
  void extents() {
    daxfs_extents_args args{};
    args.offset = some_offset();
    args.length = some_offset();
    args.cursor = in_.flag() ? some_offset() : 0;
    check(issue(DAXFS_IOC_EXTENTS, args));
  }
  void pin_extents() {
    daxfs_extents_args args{};
    args.pin_id = some_id(pins_);
    args.cursor = in_.flag() ? some_offset() : in_.below(4);
    check(issue(DAXFS_IOC_PIN_EXTENTS, args));
  }
  void attach() {
    const daxfs_attach_args args{in_.u64(), reserved(), 0, 0, 0};
    const auto out = issue(DAXFS_IOC_ATTACH, args);
    if (!out) return;
    require(out->doorbell % DAXFS_BLOCK_SIZE == 0 && out->doorbell < out->pool_length,
            "a doorbell that lies outside of the pool");
    attached_.push_back(out->pin_id);
  }
  void detach() { issue(DAXFS_IOC_DETACH, daxfs_unpin_args{some_id(attached_)}); }
  void direct() {
    const auto args = std::make_unique<daxfs_direct_args>();
    args->pin_id = some_id(in_.below(8) == 0 ? pins_ : attached_);
    args->offset = some_offset();
    args->length = some_offset();
    const auto out = issue(DAXFS_IOC_DIRECT, *args);
    if (!out) return;
    require(out->epoch == DAXFS_EPOCH_NONE || out->epoch % 2 == 0, "a closed epoch is given out");
    require(out->epoch != DAXFS_EPOCH_NONE || out->count == 0, "extents without an epoch");
    check(out->extents, out->count, out->more);
  }
  void query() {
    daxfs_query_args args{};
    args.what = static_cast<std::uint32_t>(in_.below(8) == 0 ? in_.u32() : 1 + in_.below(7));
    args.cursor = in_.below(3) == 0 ? in_.u64() : in_.below(20);
    const auto out = issue(DAXFS_IOC_QUERY, args);
    if (!out) return;
    require(out->length <= sizeof out->text, "an impossible length");
    std::string_view lines(out->text, out->length);
    while (!lines.empty()) {
      const auto end = lines.find('\n');
      require(end != std::string_view::npos, "half a line");
      require(nlohmann::json::accept(lines.substr(0, end)), "no JSON: " + std::string(lines));
      lines.remove_prefix(end + 1);
    }
  }
  void pool() { issue(DAXFS_IOC_POOL, daxfs_pool_args{}); }
  void policy() {
    const std::string text = policy_text(in_);
    daxfs_policy_args args{};
    args.length = static_cast<std::uint32_t>(in_.below(16) == 1 ? in_.u32() : text.size());
    args.reserved = reserved();
    std::memcpy(args.text, text.data(), std::min(text.size(), sizeof args.text));
    issue(DAXFS_IOC_POLICY, args);
  }
  // Any number, any sizes.
  void anything() {
    const auto number = static_cast<std::uint32_t>(in_.below(17));
    const auto size = static_cast<std::uint32_t>(in_.below(1 << _IOC_SIZEBITS));
    const auto direction = static_cast<std::uint32_t>(in_.below(4));
    std::uint32_t command = _IOC(direction, DAXFS_IOC_MAGIC, number, size);
    // Numbers that there are, with what is too little for them.
    static constexpr std::uint32_t kKnown[] = {
        DAXFS_IOC_PIN,    DAXFS_IOC_UNPIN,  DAXFS_IOC_PIN_EXTENTS, DAXFS_IOC_EXTENTS,
        DAXFS_IOC_POOL,   DAXFS_IOC_QUERY,  DAXFS_IOC_LEASE,       DAXFS_IOC_UNLEASE,
        DAXFS_IOC_ADOPT,  DAXFS_IOC_POLICY, DAXFS_IOC_NEXT_EVENT,  DAXFS_IOC_ATTACH,
        DAXFS_IOC_DETACH, DAXFS_IOC_DIRECT, DAXFS_IOC_REMOUNT};
    if (in_.flag()) command = in_.one_of(kKnown);
    issue(command, in_.text(300), in_.below(16384));
  }

  void truncate() {
    fuse_setattr_in body{};
    body.valid = FATTR_SIZE;
    body.size = some_offset();
    kernel_.send(FUSE_SETATTR, 2 + in_.below(4), bytes_of(body), sender_);
  }
  void punch() {
    const Handle& handle = some_handle();
    if (handle.directory) return;
    fuse_fallocate_in body{};
    body.fh = handle.fh;
    body.offset = some_offset();
    body.length = some_offset();
    body.mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    kernel_.send(FUSE_FALLOCATE, handle.node, bytes_of(body), sender_);
  }
  void close() {
    if (kernel_.handles().empty()) return;
    kernel_.release(in_.below(16) % kernel_.handles().size(), sender_);
    if (in_.flag()) open(2 + in_.below(4), O_RDWR);
  }
  // Renames another file over it.
  void replace() {
    const fuse_rename_in to{FUSE_ROOT_ID};
    const std::string names = in_.flag() ? std::string("f\0g\0", 4) : std::string("g\0f\0", 4);
    kernel_.send(FUSE_RENAME, FUSE_ROOT_ID, std::string(bytes_of(to)) + names, sender_);
  }
  void interrupt() {
    const fuse_interrupt_in which{kernel_.last_request() - 2 * in_.below(6)};
    kernel_.send(FUSE_INTERRUPT, 0, bytes_of(which), {});
  }

  Kernel& kernel_;
  Input& in_;
  Sender sender_;
  std::vector<std::uint64_t> pins_;
  std::vector<std::uint64_t> attached_;
  std::vector<std::uint64_t> leases_;
};

}  // namespace

void make_seeds(const std::function<void(const std::string&, const std::string&)>& add) {
  for (unsigned mount = 0; mount < 10; ++mount) {
    for (unsigned variant = 0; variant < 3; ++variant) {
      std::mt19937_64 random(mount * 3 + variant);
      std::string bytes{static_cast<char>(mount)};
      for (unsigned i = 0; i < 400; ++i) bytes += static_cast<char>(random());
      add(fmt::format("mount-{}-{}", mount, variant), bytes);
    }
  }
}

}  // namespace daxfs::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace daxfs::fuzz;
  on_small_pool(Input({data, size}), [](daxfs::Filesystem& fs, KernelRelay& relay, Input& choices) {
    Kernel kernel(fs, relay, true);
    Program program(kernel, choices);
    for (unsigned i = 0; i < kMostSteps && !choices.empty(); ++i) program.step();
  });
  return 0;
}
