// A pool that is made, mounted, and gone at the end, whatever a test does.
#pragma once

#include <sys/stat.h>
#include <sys/statvfs.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "tests/mount/process.h"

namespace daxfs::test {

using Json = nlohmann::json;

// Ends the test as skipped if this machine or user cannot mount.
void need_mounts();

// Ends the test as skipped, too, but takes its mount down first.
[[noreturn]] void skip_here(const std::string& reason);

// Ends the test as skipped unless the machine is nobody else's (DAXFS_TEST_OWN_MACHINE): what the
// test is about to change, such as its clock, is everybody's.
void need_own_machine();

// The device-DAX node that is to be the pool (DAXFS_TEST_POOL_DEVICE), or "": pools are files then.
std::string pool_device();

// Whether somebody chose where pools lie, where the kernel may do less than with memory.
bool on_persistent_memory();

// Makes a pool: a file of this size at `path`, or the device. Its path. Without a size it is of no
// importance; a test that asks for one is skipped on a device, unless it asks for "8M+": a device
// may be larger.
std::string make_pool(const std::string& path, const std::string& size = {});

// A directory in DAXFS_TEST_POOL_DIR, or else in memory, that everybody may enter; removed with
// what is in it.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  std::string path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Unmounted and checked for consistency at the end, unless told otherwise.
class Mount {
 public:
  struct Setup {
    std::string size = {};  // see make_pool()
    std::string options = {};
    std::string pool = {};  // where; else in a directory of its own
  };
  Mount();
  explicit Mount(const Setup& setup);
  ~Mount();
  Mount(const Mount&) = delete;
  Mount& operator=(const Mount&) = delete;

  std::string path() const { return dir_.path("mnt"); }
  std::string path(const std::string& name) const { return path() + "/" + name; }
  const std::string& pool() const { return pool_; }
  std::string beside(const std::string& name) const { return dir_.path(name); }

  // Mounts with these options; waits until it answers.
  void mount(const std::string& options = {});
  // Unmounts, waits for the end of the daemon, and checks that it was a good one.
  void unmount();
  void remount(const std::string& options = {});
  // kill -9, and the dead mount away.
  void kill_daemon();
  // It has been told to end, and unmounts itself: waits for that.
  void end_of_daemon();
  pid_t daemon() const { return daemon_->pid(); }
  // Waits for the daemon's end, and takes away what is left of the mount.
  Finished daemon_ends();
  // What the daemon has logged so far.
  std::string log() const { return daemon_->err(); }
  // The pool must be sound (it is not mounted); its free space in bytes.
  std::uint64_t check_pool() const;

  // Runs a command of the build (its name and arguments) as another user, who may be barred from
  // the build's directory.
  Finished run_as(uid_t user, std::vector<std::string> command) const;

  // daxfsctl VIEW --json.
  Json ctl(const std::string& view, const std::string& name = {}) const;
  Json status() const { return ctl("status"); }
  std::uint64_t free() const { return status()["free"]; }
  std::uint64_t limbo() const { return status()["limbo"]; }
  // Until free and limbo are so (releases come a little later than the close that causes them).
  bool space_becomes(std::uint64_t free, std::uint64_t limbo) const;

 private:
  TempDir dir_;
  std::string pool_;
  std::optional<Process> daemon_;  // in the foreground, as our child
};

// daxfs_map, which must succeed. The test is skipped where the device maps in coarser steps than it
// pins.
char* view_of(int fd, std::uint64_t pin_id, std::size_t* length);

// The stat of a path, without following a link.
struct stat status_of(const std::string& path);

}  // namespace daxfs::test
