// Mount options: what `-o` takes, checked before anything is mounted.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "src/policy_settings.h"

namespace daxfs {

enum class AtimeMode : std::uint8_t { relatime, strictatime, noatime };
std::string_view to_string(AtimeMode mode);

// What the kernel's page cache does with writes (docs/cache.md).
enum class CacheMode : std::uint8_t {
  through,    // it has them, and hands each on at once: durable when write(2) returns
  writeback,  // it keeps them until fsync(2), close(2), or a while later: durable at fsync
  none,       // handles go past it
};
std::string_view to_string(CacheMode mode);

struct MountOptions : PolicySettings {
  AtimeMode atime = AtimeMode::relatime;
  CacheMode cache = CacheMode::through;
  bool read_only = false;
  bool acl = true;           // access control lists
  bool says_access = false;  // ro or rw
  bool says_cache = false;
  bool says_acl = false;
  bool says_atime = false;
  // For a remount: the list is what the kernel shows of the mount, with changes, as mount(8) makes
  // it where fstab has no line. What is not in it is not wanted.
  bool shows_mount = false;
  bool unsafe_demo = false;
  bool direct = false;    // programs may attach (direct_access.h)
  bool remount = false;   // a mount that there is, is changed
  bool nonempty = false;  // the mount point may have entries, which the mount covers
  // Options that are the kernel's business, handed on to the mount (nosuid, noexec, ...).
  std::vector<std::string> kernel;
  std::vector<std::string> policy_words;  // the settings of the policy as they were written
};

// Parses a comma-separated option list. The Problem names the option, what is wrong with its value,
// and what would be right. Options that mount(8) and fstab use for themselves (auto, nofail,
// _netdev, x-*, ...) are ignored.
Outcome<MountOptions> parse_mount_options(std::string_view text);

// For --help: every option of ours with its default and meaning.
std::vector<OptionHelp> mount_option_help();

}  // namespace daxfs
