// Whole trees: compared, and taken away.
#pragma once

#include <functional>
#include <string>

#include "tests/differential/world.h"

namespace daxfs::differential {

// "" if both directories hold the same: names, types, modes, owners, sizes, times that were set,
// links, contents, attributes, flags. Whoever calls it must be able to read everything.
// `has_times`: files whose times are compared.
std::string difference_of_trees(const std::array<std::string, 2>& roots,
                                const std::function<bool(std::uint64_t inode)>& has_times);

// With everything in it, whatever protects it.
void remove_tree(const std::string& root);

}  // namespace daxfs::differential
