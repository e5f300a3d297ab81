// What a pool-to-be holds already, so that mkfs destroys nothing by accident.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "blockmap/medium/medium.h"

namespace daxfs {

// Describes what lies in a regular file ("a daxfs pool", "an ext4 filesystem", "data ..."); nullopt
// if every byte is zero. Holes are skipped, so that a large sparse file costs nothing.
Outcome<std::optional<std::string>> existing_data_in_file(int fd, const std::string& path);

// The same for a device, which can only be looked at through its mapping: its first 2 MiB and
// its last block.
std::optional<std::string> existing_data_in_device(const Medium& medium);

}  // namespace daxfs
