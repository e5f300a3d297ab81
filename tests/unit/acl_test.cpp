// Access control lists by themselves.
#include "blockmap/acl.h"

#include <sys/stat.h>

#include <array>
#include <cstring>
#include <random>

#include "tests/unit/catch.h"

using namespace daxfs;
using Tag = Acl::Tag;

namespace {

struct Raw {
  std::uint16_t tag;
  std::uint16_t permissions;
  std::uint32_t id = UINT32_MAX;
};

std::string raw(const std::vector<Raw>& entries, std::uint32_t version = 2) {
  std::string out(reinterpret_cast<const char*>(&version), sizeof version);
  for (const Raw& entry : entries) {
    out.append(reinterpret_cast<const char*>(&entry), sizeof entry);
  }
  return out;
}

constexpr Raw owner(std::uint16_t bits) { return {0x01, bits}; }
constexpr Raw user(std::uint32_t id, std::uint16_t bits) { return {0x02, bits, id}; }
constexpr Raw owning_group(std::uint16_t bits) { return {0x04, bits}; }
constexpr Raw group(std::uint32_t id, std::uint16_t bits) { return {0x08, bits, id}; }
constexpr Raw mask(std::uint16_t bits) { return {0x10, bits}; }
constexpr Raw other(std::uint16_t bits) { return {0x20, bits}; }

Acl parsed(const std::vector<Raw>& entries) {
  const auto acl = Acl::parse(raw(entries));
  REQUIRE(acl);
  return *acl;
}

bool is_refused(const std::string& value) {
  const auto acl = Acl::parse(value);
  return !acl && acl.error().code == EINVAL;
}

}  // namespace

TEST_CASE("acl: valid lists are read and written as they are") {
  const std::vector<std::vector<Raw>> valid = {
      {owner(6), owning_group(4), other(0)},
      {owner(6), owning_group(4), mask(0), other(7)},
      {owner(0), user(1, 7), owning_group(0), mask(7), other(0)},
      {owner(7), owning_group(1), group(5, 2), mask(4), other(2)},
      {owner(7), user(2, 1), user(1, 1), user(1, 2), owning_group(1), group(9, 2), group(5, 2),
       mask(4), other(2)},  // the kernel asks for no order of ids, and for no difference
      {owner(7), user(0, 1), owning_group(1), group(UINT32_MAX - 1, 2), mask(4), other(2)},
  };
  for (const auto& entries : valid) {
    const std::string value = raw(entries);
    const auto acl = Acl::parse(value);
    REQUIRE(acl);
    CHECK(acl->value() == value);
    CHECK(acl->entries().size() == entries.size());
  }
  CHECK(Acl::parse("")->empty());
  CHECK(Acl::parse(raw({}))->empty());
  // An id that means nothing is not kept.
  CHECK(Acl::parse(raw({{0x01, 6, 77}, owning_group(4), other(0)}))->value() ==
        raw({owner(6), owning_group(4), other(0)}));
}

TEST_CASE("acl: whatever is no list is refused") {
  const std::vector<Raw> good = {owner(6),    user(1, 7), owning_group(4),
                                 group(5, 2), mask(7),    other(0)};
  const std::string value = raw(good);
  for (std::size_t length = 1; length < value.size(); ++length) {
    if (length == 4) continue;  // no entries
    CHECK(is_refused(value.substr(0, length)));
  }
  CHECK(is_refused(value + '\0'));
  for (const std::uint32_t version : {0u, 1u, 3u, 0x02000000u})
    CHECK(is_refused(raw(good, version)));
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (const int tag : {0x00, 0x03, 0x40, 0x81, 0xffff}) {
      auto bad = good;
      bad[i].tag = static_cast<std::uint16_t>(tag);
      CHECK(is_refused(raw(bad)));
    }
    for (const int bits : {8, 0x10, 0x8007}) {
      auto bad = good;
      bad[i].permissions = static_cast<std::uint16_t>(bits);
      CHECK(is_refused(raw(bad)));
    }
    // Twice, and not at all. Named ones may be there any number of times.
    auto twice = good;
    twice.insert(twice.begin() + static_cast<std::ptrdiff_t>(i), good[i]);
    const bool named = good[i].tag == 0x02 || good[i].tag == 0x08;
    CHECK(is_refused(raw(twice)) == !named);
    auto without = good;
    without.erase(without.begin() + static_cast<std::ptrdiff_t>(i));
    CHECK(is_refused(raw(without)) == !named);
    for (std::size_t j = 0; j < i; ++j) {
      auto swapped = good;
      std::swap(swapped[i], swapped[j]);
      CHECK(is_refused(raw(swapped)));
    }
  }
  CHECK(is_refused(raw({owner(6), user(UINT32_MAX, 1), owning_group(4), mask(7), other(0)})));
  CHECK(is_refused(raw({owner(6), owning_group(4), group(UINT32_MAX, 1), mask(7), other(0)})));
  std::mt19937 random(7);
  for (int i = 0; i < 20'000; ++i) {
    std::string noise = value;
    noise[random() % noise.size()] = static_cast<char>(random());
    noise.resize(random() % 3 == 0 ? random() % 60 : noise.size(), static_cast<char>(random()));
    // What is taken can be written, and is taken again.
    if (const auto acl = Acl::parse(noise)) CHECK(Acl::parse(acl->value()));
  }
}

TEST_CASE("acl: the mode of a list, and lists that are no more than a mode") {
  CHECK(parsed({owner(6), owning_group(4), other(1)}).mode() == 0641);
  CHECK(parsed({owner(6), owning_group(4), other(1)}).is_mode_only());
  const Acl masked = parsed({owner(6), owning_group(4), mask(2), other(1)});
  CHECK(masked.mode() == 0621);
  CHECK_FALSE(masked.is_mode_only());
  const Acl named = parsed({owner(7), user(1, 7), owning_group(0), mask(5), other(0)});
  CHECK(named.mode() == 0750);
  CHECK_FALSE(named.is_mode_only());
}

TEST_CASE("acl: a change of the mode changes the mask, or else the group") {
  Acl acl = parsed({owner(6), user(1, 7), owning_group(4), mask(7), other(0)});
  acl.set_mode(S_IFREG | S_ISUID | 0524);
  CHECK(acl.value() == raw({owner(5), user(1, 7), owning_group(4), mask(2), other(4)}));
  CHECK(acl.mode() == 0524);
  Acl small = parsed({owner(6), owning_group(4), other(0)});
  small.set_mode(0713);
  CHECK(small.value() == raw({owner(7), owning_group(1), other(3)}));
}

TEST_CASE("acl: what a new file inherits, for each mode") {
  const Acl acl = parsed({owner(7), user(1, 7), owning_group(5), mask(6), other(4)});
  const Acl bare = parsed({owner(3), owning_group(5), other(4)});
  for (mode_t mode = 0; mode < 01000; ++mode) {
    Acl heir = acl;
    const mode_t made = heir.restrict_to(S_IFDIR | S_ISGID | mode);
    CHECK(made == (S_IFDIR | S_ISGID | (mode & 0764)));
    CHECK(heir.mode() == (mode & 0764));
    const auto bits = [mode](unsigned shift, unsigned most) {
      return static_cast<std::uint16_t>(mode >> shift & most);
    };
    CHECK(heir.value() == raw({owner(bits(6, 7)), user(1, 7), owning_group(5), mask(bits(3, 6)),
                               other(bits(0, 4))}));
    Acl small = bare;
    CHECK(small.restrict_to(S_IFREG | mode) == (S_IFREG | (mode & 0354)));
    CHECK(small.mode() == (mode & 0354));
  }
}

TEST_CASE("acl: faults of an inode's lists") {
  const std::string good = raw({owner(6), user(1, 7), owning_group(4), mask(4), other(0)});
  const auto faults = [](const std::map<std::string, std::string>& attributes, mode_t mode) {
    return find_acl_faults(attributes, mode);
  };
  const std::string access(kAccessAcl), standard(kDefaultAcl);
  CHECK_FALSE(faults({}, S_IFREG | 0777).any());
  CHECK_FALSE(faults({{"user.x", "?"}, {access, good}}, S_IFREG | 04640).any());
  CHECK_FALSE(faults({{access, good}, {standard, good}}, S_IFDIR | 0640).any());
  const AclFaults differs = faults({{access, good}}, S_IFREG | 0660);
  CHECK(differs.out_of_step);
  CHECK(differs.mode == 0640);
  CHECK(faults({{standard, good}}, S_IFREG | 0640).invalid.size() == 1);
  CHECK(faults({{access, good}}, S_IFLNK | 0777).invalid.size() == 1);
  CHECK(faults({{access, good.substr(1)}, {standard, ""}}, S_IFDIR | 0640).invalid.size() == 2);
  CHECK(faults({{access, raw({})}}, S_IFDIR | 0640).invalid.size() == 1);
  std::vector<Raw> many(511, user(1, 7));
  many.front() = owner(6);
  many[508] = owning_group(4);
  many[509] = mask(4);
  many[510] = other(0);
  CHECK_FALSE(faults({{access, raw(many)}}, S_IFREG | 0640).any());
  many.insert(many.begin() + 1, user(1, 7));
  CHECK(faults({{access, raw(many)}}, S_IFREG | 0640).invalid.size() == 1);
}
