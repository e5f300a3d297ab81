// What a filesystem does, as simply as it can be said: maps and byte strings in memory, one thread.
//
// The model test runs the same operations here and in daxfs and compares everything that a program
// can see, down to which blocks of a file are allocated. Blocks carry a token in place of a pool
// address, so that pins and limbo can be accounted: a pin holds tokens, and a token that leaves its
// file while held is in limbo.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "lease/policy.h"
#include "src/filesystem.h"
#include "tests/model/reference_acl.h"

namespace daxfs::testing {

class ReferenceFs {
 public:
  using NodeId = std::uint64_t;
  using Token = std::uint64_t;
  using Pin = std::uint64_t;
  static constexpr NodeId kRoot = 1;

  // Whether an operation changed a time, and how.
  enum class Moved : std::uint8_t { no, maybe, now };

  struct Block {
    Token token = 0;
    bool written = false;
    std::string bytes;  // kBlockSize of them, or none: zeroes
  };
  struct Node {
    mode_t mode = 0;
    uid_t uid = 0;
    gid_t gid = 0;
    dev_t rdev = 0;
    std::uint64_t links = 0;
    std::uint64_t size = 0;  // of files and symbolic links
    std::map<std::uint64_t, Block> blocks;
    std::map<std::string, std::string> xattrs;  // the lists below among them
    std::optional<ReferenceAcl> access;
    std::optional<ReferenceAcl> standard;  // of directories, for new files
    std::string target;
    // Directories.
    NodeId parent = 0;
    std::map<std::string, NodeId> entries;
    std::vector<std::string> removals;  // every name that ever went away, for listings under way

    unsigned opens = 0;
    bool linkable = false;  // has no name yet, and may be given one
    InodeNumber real;       // its number in the filesystem under test
    Moved mtime_moved = Moved::now;
    Moved ctime_moved = Moved::now;
    std::int64_t mtime = 0;  // as last seen
    std::int64_t ctime = 0;

    bool is_directory() const { return S_ISDIR(mode); }
    bool is_regular() const { return S_ISREG(mode); }
  };

  ReferenceFs(PinPolicy policy, std::uint64_t limbo_limit_blocks);

  Node& node(NodeId id) { return nodes_.at(id); }
  bool exists(NodeId id) const { return nodes_.contains(id); }
  const std::map<NodeId, Node>& nodes() const { return nodes_; }
  std::uint64_t limbo_blocks() const { return limbo_.size(); }
  std::uint64_t pins() const { return pins_.size(); }
  std::uint64_t pinned_blocks() const;

  // --- names ---
  Result<NodeId> lookup(NodeId parent, const std::string& name) const;
  struct NewNode {
    mode_t mode;
    dev_t rdev = 0;
    std::string target;
    uid_t uid = 0;
    gid_t gid = 0;
    mode_t umask = 0;
  };
  Result<NodeId> make(NodeId parent, const std::string& name, const NewNode& what);
  // Nobody has it open yet.
  Result<NodeId> make_unnamed(NodeId parent, const NewNode& what, bool linkable);
  Status link(NodeId id, NodeId parent, const std::string& name);
  Status unlink(NodeId parent, const std::string& name);
  Status remove_directory(NodeId parent, const std::string& name);
  Status rename(NodeId parent, const std::string& name, NodeId new_parent,
                const std::string& new_name, unsigned flags);
  // 0 if there is none.
  NodeId any_linkable() const;

  // --- attributes ---
  Status set_attributes(NodeId id, const AttributeChange& change);
  Result<std::string> get_xattr(NodeId id, const std::string& name) const;
  Status set_xattr(NodeId id, const std::string& name, const std::string& value, int flags);
  Status remove_xattr(NodeId id, const std::string& name);
  Status set_acl(NodeId id, bool standard, const ReferenceAcl& acl, bool drop_setgid);

  // --- files ---
  void open(NodeId id) { node(id).opens += 1; }
  void close(NodeId id);
  std::string read(NodeId id, std::uint64_t offset, std::uint64_t length) const;
  void write(NodeId id, std::uint64_t offset, std::string_view data, bool drop_privileges);
  void allocate(NodeId id, std::uint64_t offset, std::uint64_t length, bool keep_size);
  void zero_range(NodeId id, std::uint64_t offset, std::uint64_t length, bool keep_size);
  Status punch(NodeId id, std::uint64_t offset, std::uint64_t length);
  Result<std::uint64_t> seek(NodeId id, std::uint64_t from, bool data) const;

  // --- pins ---
  Result<Pin> pin(NodeId id, std::uint64_t offset, std::uint64_t length, bool write, bool allocate);
  void unpin(Pin pin);
  // What the holder of a pin finds in the block: its bytes as far as they belong to the file (or
  // did, when it was detached).
  struct HeldBlock {
    bool attached;
    std::string bytes;
  };
  std::vector<HeldBlock> held(Pin pin) const;
  // The holder writes into the pool: into the file, if the block is still in it.
  void write_held(Pin pin, std::size_t block, std::size_t within, std::string_view data);

  // The filesystem is gone and comes back: no open files, no pins, no limbo, no orphans.
  void remount();

  // Blocks of [offset, offset + length) that are holes; of them and preallocated ones together.
  std::uint64_t holes(NodeId id, std::uint64_t offset, std::uint64_t length) const;

 private:
  struct PinState {
    NodeId node;
    std::uint64_t first_block;
    bool write;
    std::vector<Token> tokens;
  };

  Block fresh(bool written) { return {.token = ++last_token_, .written = written, .bytes = {}}; }
  static void touch(Node& node, bool modified);
  Node& add(const Node& parent, const NewNode& what);
  void forget_if_dead(NodeId id);
  bool is_above(NodeId ancestor, NodeId of) const;
  void drop_name(Node& directory, const std::string& name);
  // The gate: may the blocks [first, end) of the file leave it?
  Status judge(const Node& node, std::uint64_t first, std::uint64_t end) const;
  void detach(Node& node, std::uint64_t first, std::uint64_t end);
  static void zero(Node& node, std::uint64_t offset, std::uint64_t end);
  static void drop_setid(Node& node);
  static void store_acls(Node& node);
  void grow(Node& node, std::uint64_t size);

  const PinPolicy policy_;
  const std::uint64_t limbo_limit_;
  std::map<NodeId, Node> nodes_;
  NodeId last_node_ = kRoot;
  Token last_token_ = 0;
  Pin last_pin_ = 0;
  std::map<Pin, PinState> pins_;
  std::map<Token, unsigned> pinned_;    // how many pins hold it
  std::map<Token, std::string> limbo_;  // what it held when it left its file
};

}  // namespace daxfs::testing
