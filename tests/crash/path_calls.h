// Operations of a filesystem by path, for tests that tell short stories. Each throws if it fails.
#pragma once

#include <fcntl.h>
#include <fmt/format.h>

#include <stdexcept>
#include <string>

#include "client/daxfs.h"
#include "tests/model/mounted.h"

namespace daxfs::testing {

class PathCalls {
 public:
  explicit PathCalls(Filesystem& fs) : fs_(fs) {}

  Filesystem& fs() { return fs_; }

  InodeNumber find(const std::string& path) {
    InodeNumber at = kRootInode;
    for (std::size_t from = 1; from < path.size();) {
      const std::size_t slash = std::min(path.find('/', from), path.size());
      at = must(number_of(fs_, fs_.names().lookup(at, path.substr(from, slash - from))), path);
      from = slash + 1;
    }
    return at;
  }
  // Open for reading and writing. Only files: the kernel answers for all else by itself.
  OpenFileRef open(const std::string& path) {
    auto file = must(fs_.files().open(find(path), O_RDWR), path);
    if (file->inode->is_regular()) return file;
    fs_.files().release(std::move(file));
    throw std::runtime_error(path + ": no file");
  }
  void close(OpenFileRef file) { fs_.files().release(std::move(file)); }

  void create(const std::string& path, mode_t mode = S_IFREG | 0644) {
    must(number_of(fs_, fs_.names().make_node(parent(path), leaf(path), mode, 0, {})), path);
  }
  // Without a name, in this directory, and open.
  OpenFileRef create_unnamed(const std::string& directory) {
    const Entry entry =
        must(fs_.names().make_unnamed(find(directory), 0644, true, Caller{.uid = 0, .gid = 0}),
             directory);
    auto file = must(fs_.files().open(entry.inode, O_RDWR), directory);
    fs_.names().forget(entry.inode, 1);
    return file;
  }
  void name(OpenFile& file, const std::string& path) {
    must(number_of(fs_, fs_.names().link(file.inode->number, parent(path), leaf(path))), path);
  }
  void mkdir(const std::string& path) {
    must(number_of(fs_, fs_.names().make_directory(parent(path), leaf(path), 0755, {})), path);
  }
  void symlink(const std::string& target, const std::string& path) {
    must(number_of(fs_, fs_.names().make_symlink(parent(path), leaf(path), target, {})), path);
  }
  void link(const std::string& old_path, const std::string& path) {
    must(number_of(fs_, fs_.names().link(find(old_path), parent(path), leaf(path))), path);
  }
  void unlink(const std::string& path) { must(fs_.names().unlink(parent(path), leaf(path)), path); }
  void rmdir(const std::string& path) {
    must(fs_.names().remove_directory(parent(path), leaf(path)), path);
  }
  void rename(const std::string& from, const std::string& to, unsigned flags = 0) {
    must(testing::rename(fs_, parent(from), leaf(from), parent(to), leaf(to), flags), from);
  }

  void write(const std::string& path, std::uint64_t offset, const std::string& data) {
    with(path, [&](OpenFile& file) { write(file, offset, data); });
  }
  void write(OpenFile& file, std::uint64_t offset, const std::string& data) {
    if (must(testing::write(fs_, file, offset, data), "write") != data.size())
      throw std::runtime_error("short write");
  }
  void truncate(const std::string& path, std::uint64_t size) {
    must(testing::truncate(fs_, find(path), size), path);
  }
  void allocate(const std::string& path, std::uint64_t offset, std::uint64_t length,
                bool keep_size) {
    with(path, [&](OpenFile& file) {
      must(fs_.space().allocate(file, FileOffset(offset), ByteCount(length), keep_size), path);
    });
  }
  void zero_range(const std::string& path, std::uint64_t offset, std::uint64_t length) {
    with(path, [&](OpenFile& file) {
      must(fs_.space().zero_range(file, FileOffset(offset), ByteCount(length), true), path);
    });
  }
  void punch(const std::string& path, std::uint64_t offset, std::uint64_t length) {
    with(path, [&](OpenFile& file) { must(testing::punch(fs_, file, offset, length), path); });
  }
  void change(const std::string& path, const AttributeChange& change) {
    must(testing::set_attributes(fs_, find(path), change), path);
  }
  void set_xattr(const std::string& path, const std::string& name, const std::string& value) {
    must(fs_.xattrs().set(find(path), name, value, 0, Caller{.uid = 0, .gid = 0}), path);
  }
  void remove_xattr(const std::string& path, const std::string& name) {
    must(fs_.xattrs().remove(find(path), name, Caller{.uid = 0, .gid = 0}), path);
  }
  void set_flags(const std::string& path, std::uint16_t flags) {
    must(fs_.inode_flags().set(find(path), flags), path);
  }
  // Pins a range for writing, holes allocated.
  PinId pin(OpenFile& file, std::uint64_t offset, std::uint64_t length) {
    return must(testing::pin(fs_, file,
                             {.offset = FileOffset(offset),
                              .length = ByteCount(length),
                              .flags = DAXFS_PIN_ALLOCATE | DAXFS_PIN_WRITE}),
                "pin");
  }

 private:
  template <class T>
  static T must(std::expected<T, Errno> result, const std::string& path) {
    if (!result) {
      throw std::runtime_error(fmt::format("{}: {}", path, strerrorname_np(result.error().code)));
    }
    if constexpr (!std::is_void_v<T>) return std::move(*result);
  }
  template <class Use>
  void with(const std::string& path, const Use& use) {
    auto file = open(path);
    use(*file);
    close(std::move(file));
  }
  InodeNumber parent(const std::string& path) { return find(path.substr(0, path.rfind('/'))); }
  static std::string leaf(const std::string& path) { return path.substr(path.rfind('/') + 1); }

  Filesystem& fs_;
};

}  // namespace daxfs::testing
