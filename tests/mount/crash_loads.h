// Work for a daemon that is going to be killed. Each load is a sequence of operations that follows
// from its seed alone, so that the number of acknowledged ones says what must be there afterwards.
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace daxfs::test {

// Makes, links, renames and removes names in a directory of its own.
class NamesLoad {
 public:
  enum class Kind { file, symlink, directory, link, rename, remove };
  struct Operation {
    Kind kind;
    std::string name;
    std::string other;  // link, rename: the new name
    unsigned id;        // file: its mode; symlink: its target
  };

  explicit NamesLoad(unsigned seed) : random_(seed) {}
  Operation next();
  // An errno.
  static int perform(const std::string& directory, const Operation& operation);
  void done(const Operation& operation);
  // Every name and what it is, of the directory or as expected. The same for the same tree.
  static std::string seen(const std::string& directory);
  std::string expected() const;

 private:
  struct Node {
    char type;  // f, l or d
    unsigned id;
  };
  std::string name();

  std::mt19937 random_;
  unsigned last_id_ = 0;
  std::map<std::string, Node> nodes_;
};

// Writes, punches and truncates one file. Every block says what it should be.
class DataLoad {
 public:
  // How a write is made durable: by being O_DIRECT, or by fsync.
  enum class Way { direct, fsync };
  enum class Kind { write, punch, truncate };
  struct Operation {
    Kind kind;
    std::size_t first, count;  // blocks; truncate: to `first`
    unsigned generation;
  };

  DataLoad(unsigned seed, Way way) : random_(seed), way_(way) {}
  Operation next();
  int perform(const std::string& path, const Operation& operation) const;
  void done(const Operation& operation);
  // What contradicts the acknowledged operations, with `pending` possibly done, or a write of it
  // half-way; "" if nothing.
  std::string check(const std::string& path, const Operation& pending) const;

 private:
  bool touches(const Operation& operation, std::size_t block) const;

  std::mt19937 random_;
  Way way_;
  unsigned generation_ = 0;
  std::vector<unsigned> blocks_;  // generation of each; 0: zeroes
};

}  // namespace daxfs::test
