#include "tools/hold/pattern.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <random>

namespace daxfs::hold {
namespace {

constexpr std::size_t kUnit = 64;
constexpr std::size_t kWords = kUnit / sizeof(std::uint64_t);

struct Unit {
  std::uint64_t holder;
  std::uint64_t offset;
  std::uint64_t generation;
  std::uint64_t checksum;
  std::array<std::uint64_t, kWords - 4> filler;
};
static_assert(sizeof(Unit) == kUnit);

// splitmix64's finaliser: every bit of the input changes about half of the output's.
constexpr std::uint64_t mix(std::uint64_t n) {
  n += 0x9e3779b97f4a7c15u;
  n = (n ^ (n >> 30)) * 0xbf58476d1ce4e5b9u;
  n = (n ^ (n >> 27)) * 0x94d049bb133111ebu;
  return n ^ (n >> 31);
}

constexpr std::uint64_t checksum_of(std::uint64_t holder, std::uint64_t offset,
                                    std::uint64_t generation) {
  return mix(holder ^ mix(offset ^ mix(generation)));
}

Unit make_unit(HolderTag holder, std::uint64_t offset, Generation generation) {
  Unit unit = {holder.value, offset, generation.value, 0, {}};
  unit.checksum = checksum_of(unit.holder, unit.offset, unit.generation);
  for (std::size_t i = 0; i < unit.filler.size(); ++i) unit.filler[i] = mix(unit.checksum + i + 1);
  return unit;
}

// Calls piece(unit, first byte within the unit, first byte within the range, length) for each unit
// touched, until it returns false.
template <class Piece>
void for_each_unit(FileOffset at, std::size_t size, HolderTag holder, Generation generation,
                   Piece piece) {
  for (std::size_t done = 0; done < size;) {
    const std::uint64_t position = at.value + done;
    const std::size_t skip = static_cast<std::size_t>(position % kUnit);
    const std::size_t length = std::min(kUnit - skip, size - done);
    const Unit unit = make_unit(holder, position - skip, generation);
    if (!piece(reinterpret_cast<const std::byte*>(&unit) + skip, done, length)) return;
    done += length;
  }
}

bool all_zero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

// Whose unit this is. Another holder's pattern for other parts of its file may lie here at any
// multiple of a block, so units stay aligned and a whole one tells.
std::string attribute(std::span<const std::byte> bytes, std::uint64_t position, HolderTag self,
                      Generation generation) {
  if (all_zero(bytes)) return "zeroes";
  if (bytes.size() == kUnit) {
    Unit unit;
    std::memcpy(&unit, bytes.data(), sizeof unit);
    if (unit.checksum == checksum_of(unit.holder, unit.offset, unit.generation)) {
      const Unit whole = make_unit({unit.holder}, unit.offset, {unit.generation});
      const std::string damage = unit.filler == whole.filler ? "" : ", damaged behind its tag";
      if (unit.holder != self.value) {
        return fmt::format("pattern of another holder {:016x}: its file offset {}, generation {}{}",
                           unit.holder, unit.offset, unit.generation, damage);
      }
      if (unit.offset != position) {
        return fmt::format(
            "this holder's own pattern of another place: file offset {}, generation {}{}",
            unit.offset, unit.generation, damage);
      }
      if (unit.generation != generation.value) {
        return fmt::format("this holder's own stale generation {} instead of {}{}", unit.generation,
                           generation.value, damage);
      }
      return "this holder's own pattern" + damage;
    }
  }
  return "somebody else's bytes";
}

}  // namespace

Pattern Pattern::random() {
  std::random_device source;
  const std::uint64_t high = source();
  const std::uint64_t low = source();
  return Pattern(HolderTag{(high << 32) | (low & 0xffffffffu)});
}

void Pattern::fill(FileOffset at, std::span<std::byte> out, Generation generation) const {
  for_each_unit(at, out.size(), holder_, generation,
                [&](const std::byte* bytes, std::size_t from, std::size_t length) {
                  std::memcpy(out.data() + from, bytes, length);
                  return true;
                });
}

std::optional<Foreign> Pattern::check(FileOffset at, std::span<const std::byte> found,
                                      Generation generation) const {
  std::optional<Foreign> foreign;
  for_each_unit(at, found.size(), holder_, generation,
                [&](const std::byte* bytes, std::size_t from, std::size_t length) {
                  foreign = compare(FileOffset(at.value + from), {bytes, length},
                                    found.subspan(from, length), holder_, generation);
                  return !foreign.has_value();
                });
  return foreign;
}

std::optional<Foreign> compare(FileOffset at, std::span<const std::byte> expected,
                               std::span<const std::byte> found, HolderTag self,
                               Generation generation) {
  if (std::equal(expected.begin(), expected.end(), found.begin())) return std::nullopt;
  const auto differing = std::mismatch(expected.begin(), expected.end(), found.begin()).second;
  const std::size_t index = static_cast<std::size_t>(differing - found.begin());

  Foreign foreign;
  foreign.offset = at + ByteCount(index);
  foreign.size = std::min(foreign.found.size(), expected.size() - index);
  std::copy_n(expected.begin() + static_cast<std::ptrdiff_t>(index), foreign.size,
              foreign.expected.begin());
  std::copy_n(differing, foreign.size, foreign.found.begin());

  const std::uint64_t unit_start = foreign.offset.value - foreign.offset.value % kUnit;
  const std::uint64_t begin = std::max(unit_start, at.value);
  const std::uint64_t end = std::min(unit_start + kUnit, at.value + found.size());
  foreign.attribution = attribute(found.subspan(static_cast<std::size_t>(begin - at.value),
                                                static_cast<std::size_t>(end - begin)),
                                  begin, self, generation);
  return foreign;
}

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte b : bytes) {
    if (!text.empty()) text += ' ';
    text += fmt::format("{:02x}", std::to_integer<unsigned>(b));
  }
  return text;
}

}  // namespace daxfs::hold
