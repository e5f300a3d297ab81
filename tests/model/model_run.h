// One random run: the same operations in daxfs and in the reference, compared after each.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/model/mounted.h"
#include "tests/model/reference_fs.h"

namespace daxfs::testing {

struct Mismatch : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class ModelRun {
 public:
  struct Setup {
    std::uint64_t seed = 1;
    std::uint64_t pool_bytes = 16 << 20;
    PinPolicy policy = PinPolicy::refuse;
    std::uint32_t limbo_percent = 25;
  };
  explicit ModelRun(const Setup& setup);

  // Throws Mismatch at the first difference.
  void run(std::size_t operations);

  // What was done last, oldest first, one operation a line.
  std::string history() const;
  std::uint64_t steps() const { return step_; }
  // How often an operation found no space, was refused because of pins, or put blocks into limbo: a
  // run that never does that tests less than it says.
  struct Seen {
    std::uint64_t no_space = 0;
    std::uint64_t short_writes = 0;
    std::uint64_t refused = 0;
    std::uint64_t limbo = 0;
    std::uint64_t remounts = 0;
  };
  const Seen& seen() const { return seen_; }

 private:
  using NodeId = ReferenceFs::NodeId;
  using Node = ReferenceFs::Node;
  struct HeldPin {
    PinId real;
    ReferenceFs::Pin ref;
    bool write;
  };
  struct Handle {
    OpenFileRef file;
    NodeId node;
    bool readable;
    bool writable;
    std::vector<HeldPin> pins;
  };
  // A directory being listed in steps, while it changes and over remounts.
  struct Listing {
    NodeId directory = 0;
    std::uint64_t cookie = 0;
    std::set<std::string> there_at_start;
    std::set<std::string> seen;
    std::size_t removals_at_start = 0;
  };

  // --- choices ---
  std::uint64_t below(std::uint64_t n) { return n == 0 ? 0 : random_() % n; }
  bool chance(unsigned percent) { return below(100) < percent; }
  NodeId any_node();
  NodeId any_directory();
  NodeId any_file();
  bool may_lack_inodes() const;
  std::string any_name();
  std::string any_bytes(std::size_t length);
  std::uint64_t any_offset(const Node& node);
  std::uint64_t any_length();
  Handle* any_handle();

  // --- operations (model_names.cpp, model_files.cpp) ---
  void step();
  void make();
  void make_unnamed();
  void link();
  void unlink();
  void remove_directory();
  void rename();
  void lookup();
  void list_in_steps();
  void change_attributes();
  void set_xattr();
  void remove_xattr();
  void set_acl();
  void get_xattrs();
  void open();
  void close();
  void write();
  void scatter();
  void read();
  void truncate();
  void allocate();
  void zero_range();
  void punch();
  void seek();
  void take_pin();
  void drop_pin();
  void look_through_pin();
  void forget_lookup();
  void remount();

  void do_write(Handle& handle, std::uint64_t offset, const std::string& data, bool drop);
  void do_space(const char* what, bool zero);
  void do_close(std::size_t index);
  void note_lookup(const Result<Entry>& entry, NodeId id);

  // --- comparing (model_compare.cpp) ---
  template <class... Args>
  void log(fmt::format_string<Args...> format, Args&&... args) {
    log_text(fmt::format(format, std::forward<Args>(args)...));
  }
  void log_text(std::string text);
  template <class... Args>
  void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
    if (!condition) throw Mismatch(fmt::format(format, std::forward<Args>(args)...));
  }
  // True if daxfs said ENOSPC: then it must have been so (`short_of`), and the nodes are as before.
  bool no_space(int code, bool short_of, std::initializer_list<NodeId> unchanged);
  // 0 for success.
  template <class T>
  static int code_of(const std::expected<T, Errno>& result) {
    return result ? 0 : result.error().code;
  }
  void agree(int real, int expected);
  // Whether so many data blocks, and what metadata they may need, could be more than there is.
  bool short_of(std::uint64_t blocks) const;
  std::uint64_t longest_free_run() const;
  // Without space for records, more of what was preallocated may have been zeroed, and is written
  // now, than was asked for.
  void learn_zeroed(NodeId id);

  void check_attributes(NodeId id);
  void check_content(NodeId id);
  void check_directory(NodeId id);
  void check_space();
  void check_everything();
  static MountOptions options_for(const Setup& setup);
  InodeNumber real(NodeId id) { return ref_.node(id).real; }
  Filesystem& fs() { return *mounted_->fs; }

  const Setup setup_;
  std::mt19937_64 random_;
  std::unique_ptr<HeapMedium> medium_;
  std::unique_ptr<Mounted> mounted_;
  ReferenceFs ref_;
  std::vector<Handle> handles_;
  std::vector<InodeNumber> lookups_;  // references that the "kernel" still has
  Listing listing_;
  std::deque<std::string> history_;
  std::uint64_t step_ = 0;
  std::int64_t started_ = 0;  // file time before the operation
  Seen seen_;
};

}  // namespace daxfs::testing
