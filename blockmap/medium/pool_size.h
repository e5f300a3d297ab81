// How small and how large a pool can be.
#pragma once

#include <cstdint>

namespace daxfs::pmem {

inline constexpr std::uint64_t kMinPoolBytes = 4ull << 20;
inline constexpr std::uint64_t kMaxPoolBytes = 1ull << 60;

}  // namespace daxfs::pmem
