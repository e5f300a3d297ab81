// Extended attributes and access control lists.
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "tests/differential/steps.h"

namespace daxfs::differential {
namespace {

constexpr const char* kAccess = "system.posix_acl_access";
constexpr const char* kDefault = "system.posix_acl_default";
constexpr const char* kNames[] = {
    "user.a", "user.b",   "user.c", "trusted.a", "security.a", "security.capability",
    "user.",  "nobody.a", kAccess,  kDefault};

// Few and small: an ext4 has one block for all of a file's, and daxfs more.
std::string some_value(Dice& dice) {
  std::string value(dice.below(dice.one_in(4) ? 120 : 12), '\0');
  fill(value.data(), value.size(), dice.next());
  return value;
}

std::string capability() {
  const vfs_cap_data data{.magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE,
                          .data = {{.permitted = 1u << CAP_NET_RAW, .inheritable = 0}, {}}};
  return {reinterpret_cast<const char*>(&data), sizeof data};
}

Answer set(const std::string& path, const std::string& name, const std::string& value, int flags,
           bool follow) {
  return answer_of((follow ? setxattr : lsetxattr)(path.c_str(), name.c_str(), value.data(),
                                                   value.size(), flags));
}

void set_attribute(World& world, Dice& dice) {
  static constexpr int kFlags[] = {0, 0, 0, XATTR_CREATE, XATTR_REPLACE, 3};
  const std::string file = some_path(dice);
  std::string name = kNames[dice.below(8)];
  if (dice.one_in(50)) name = "user." + std::string(250 + dice.below(2), 'n');
  const std::string value = name == "security.capability" ? capability() : some_value(dice);
  const int flags = dice.of(kFlags);
  const bool follow = dice.one_in(2);
  world.about({file});
  world.both(
      "setxattr " + file + " " + name + " " + std::to_string(value.size()) + " flags " +
          std::to_string(flags),
      [&](unsigned side) { return set(world.path(side, file), name, value, flags, follow); });
}

void get_attribute(World& world, Dice& dice) {
  const std::string file = some_path(dice);
  const std::string name = dice.of(kNames);
  const bool follow = dice.one_in(2);
  const std::size_t room = dice.one_in(5) ? dice.below(10) : 4096;
  world.both("getxattr " + file + " " + name, [&](unsigned side) {
    std::string value(room, '\0');
    Answer answer = answer_of((follow ? getxattr : lgetxattr)(
        world.path(side, file).c_str(), name.c_str(), value.data(), value.size()));
    value.resize(answer.error != 0 || room == 0 ? 0 : static_cast<std::size_t>(answer.result));
    answer.data = value;
    return answer;
  });
}

void list_attributes(World& world, Dice& dice) {
  const std::string file = some_path(dice);
  world.both("listxattr " + file, [&](unsigned side) {
    std::string names(4096, '\0');
    Answer answer =
        answer_of(llistxattr(world.path(side, file).c_str(), names.data(), names.size()));
    names.resize(answer.error != 0 ? 0 : static_cast<std::size_t>(answer.result));
    // In any order.
    std::vector<std::string> lines;
    for (std::size_t at = 0; at < names.size(); at += lines.back().size() + 1)
      lines.emplace_back(names.c_str() + at);
    std::ranges::sort(lines);
    for (const std::string& line : lines) answer.data += line + " ";
    return answer;
  });
}

// Only a directory has a default list. The kernel removes it from a file without asking the daemon,
// who alone knows that the file is protected.
bool is_empty_removal(World& world, const std::string& file) {
  return !world.is_directory(file) && world.is_protected(file);
}

void remove_attribute(World& world, Dice& dice) {
  const std::string file = some_path(dice);
  const std::string name = dice.of(kNames);
  if (name == kDefault && is_empty_removal(world, file)) return;
  // A chown(2) of nothing behind it looks like a write to daxfs, and leaves set-id bits.
  if (name == std::string("security.capability")) return;
  world.about({file});
  world.both("removexattr " + file + " " + name, [&](unsigned side) {
    return answer_of(lremovexattr(world.path(side, file).c_str(), name.c_str()));
  });
}

struct Entry {
  std::uint16_t tag;
  std::uint16_t permissions;
  std::uint32_t id = UINT32_MAX;
};
enum : std::uint16_t {
  kOwner = 1,
  kUser = 2,
  kOwningGroup = 4,
  kGroup = 8,
  kMask = 16,
  kOther = 32
};

std::string some_list(Dice& dice) {
  const auto permissions = [&] { return static_cast<std::uint16_t>(dice.below(8)); };
  std::vector<Entry> entries{{kOwner, permissions()}};
  for (const std::uint32_t id : {1001u, 1002u, 1003u, 4242u})
    if (dice.one_in(4)) entries.push_back({kUser, permissions(), id});
  entries.push_back({kOwningGroup, permissions()});
  for (const std::uint32_t id : {1001u, 1002u, 2000u})
    if (dice.one_in(4)) entries.push_back({kGroup, permissions(), id});
  if (entries.size() > 2 || dice.one_in(3)) entries.push_back({kMask, permissions()});
  entries.push_back({kOther, permissions()});
  // What must be refused: an entry too many, too few, out of order, of no kind.
  if (dice.one_in(12)) entries.push_back(entries[dice.below(entries.size())]);
  if (dice.one_in(12))
    entries.erase(entries.begin() + static_cast<std::ptrdiff_t>(dice.below(entries.size())));
  if (dice.one_in(12) && entries.size() > 1) std::swap(entries.front(), entries.back());
  if (dice.one_in(20) && !entries.empty()) entries[0].tag = 3;
  if (dice.one_in(20) && !entries.empty()) entries[0].permissions = 9;
  const std::uint32_t version = dice.one_in(30) ? 1 : 2;
  std::string list(reinterpret_cast<const char*>(&version), sizeof version);
  for (const Entry& entry : entries)
    list.append(reinterpret_cast<const char*>(&entry), sizeof entry);
  if (dice.one_in(30)) list.pop_back();
  if (dice.one_in(30)) list.clear();
  return list;
}

void set_list(World& world, Dice& dice) {
  const std::string file = some_path(dice);
  const std::string name = dice.one_in(2) ? kAccess : kDefault;
  const std::string list = some_list(dice);
  if (list.size() <= 4 && name == kDefault && is_empty_removal(world, file)) return;
  world.about({file});
  std::string shown;
  for (std::size_t at = 4; at + sizeof(Entry) <= list.size(); at += sizeof(Entry)) {
    Entry entry{};
    std::copy_n(list.data() + at, sizeof entry, reinterpret_cast<char*>(&entry));
    shown += " " + std::to_string(entry.tag) + ":" + std::to_string(entry.permissions) +
             (entry.id == UINT32_MAX ? "" : ":" + std::to_string(entry.id));
  }
  world.both("setfacl " + file + " " + name + shown,
             [&](unsigned side) { return set(world.path(side, file), name, list, 0, true); });
}

constexpr Step kSteps[] = {
    {"setxattr", 7, set_attribute},    {"getxattr", 5, get_attribute},
    {"listxattr", 3, list_attributes}, {"removexattr", 4, remove_attribute},
    {"setfacl", 6, set_list},
};

}  // namespace

std::span<const Step> xattr_steps() { return kSteps; }

}  // namespace daxfs::differential
