// What ext4 makes of the same commands. daxfs is to answer as a filesystem of the kernel does.
#pragma once

#include <string>

#include "tests/mount/mount_fixture.h"

namespace daxfs::test {

// A new ext4 on a loop device, gone at the end. The test is skipped where there can be none.
class Ext4 {
 public:
  Ext4();
  ~Ext4();
  Ext4(const Ext4&) = delete;
  Ext4& operator=(const Ext4&) = delete;
  std::string path() const { return dir_.path("mnt"); }

 private:
  TempDir dir_;
};

// Ends the test as skipped unless the command can be found.
void need_command(const std::string& name);

// Runs a script of bash in a new directory of each, and compares all that it says. In the script,
//   as UID GID[,GROUP...] COMMAND...   runs a command as another user,
//   try COMMAND...                     shows the command and its answer, errors too, and goes on.
// `again` is run in the same directory after a remount of the pool.
void require_as_on_ext4(Mount& mount, const Ext4& ext4, const std::string& script,
                        const std::string& again = {});

}  // namespace daxfs::test
