// Mount options: what `-o` takes, checked before anything is mounted.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "blockmap/result.h"
#include "blockmap/units.h"
#include "lease/policy.h"

namespace daxfs {

enum class AtimeMode : std::uint8_t { relatime, strictatime, noatime };

struct MountOptions {
  GateOptions gate;
  // limbo_limit= as given: a size, or a percentage of the pool (resolved when its size is known).
  ByteCount limbo_limit_bytes{0};
  std::uint32_t limbo_limit_percent = 25;  // used when limbo_limit_bytes is 0
  AtimeMode atime = AtimeMode::relatime;
  bool read_only = false;
  bool unsafe_demo = false;
  bool nonempty = false;  // the mount point may have entries, which the mount covers
  // Options that are the kernel's business, handed on to the mount (nosuid, noexec, ...).
  std::vector<std::string> kernel;
};

// Parses a comma-separated option list. The Problem names the option, what is wrong with its value,
// and what would be right. Options that mount(8) and fstab use for themselves (auto, nofail,
// _netdev, x-*, ...) are ignored.
Outcome<MountOptions> parse_mount_options(std::string_view text);

// A time such as 500ms, 2s, 1m; a plain number counts in `plain_unit_ms`.
Outcome<std::uint64_t> parse_duration_ms(std::string_view text, std::uint64_t plain_unit_ms);

// For --help: every option of ours with its default and meaning.
struct OptionHelp {
  std::string_view name;  // as written, with its values
  std::string_view text;
};
std::span<const OptionHelp> mount_option_help();

}  // namespace daxfs
