#include "tools/ctl/views.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string_view>
#include <utility>
#include <vector>

#include "client/daxfs.h"
#include "tools/ctl/print.h"
#include "tools/ctl/query.h"

namespace daxfs::ctl {
namespace {

// Two columns.
class Overview {
 public:
  void add(std::string_view name, std::string value) {
    text_ += fmt::format("{:<16}{}\n", name, value);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

bool is_zero(const Json& object, std::string_view key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() || *found == 0;
}

std::string seconds_of(const Json& object, std::string_view key) {
  return text_of(object, key) + " s";
}

std::string limit_of(const Json& object, std::string_view key) {
  return is_zero(object, key) ? "none" : size_of(object, key);
}

std::string share_of(const Json& object, std::string_view key) {
  const auto of = object.find("total");
  const auto amount = object.find(key);
  if (of == object.end() || amount == object.end() || !of->is_number() || !amount->is_number() ||
      of->get<double>() <= 0) {
    return size_of(object, key);
  }
  return fmt::format("{} ({:.1f}%)", size_of(object, key),
                     100 * amount->get<double>() / of->get<double>());
}

void add_policy(Overview& overview, const Json& policy) {
  overview.add("pin_policy", text_of(policy, "pin_policy"));
  overview.add("on_timeout", text_of(policy, "on_timeout"));
  overview.add("wait_timeout",
               is_zero(policy, "wait_timeout") ? "none" : seconds_of(policy, "wait_timeout"));
  overview.add("break_timeout", seconds_of(policy, "break_timeout"));
  overview.add("short_timeout", seconds_of(policy, "short_timeout"));
  overview.add("exit_grace", seconds_of(policy, "exit_grace"));
  overview.add("longterm", text_of(policy, "longterm"));
  overview.add("pin_limit", limit_of(policy, "pin_limit"));
  overview.add("user_limit",
               is_zero(policy, "user_limit") ? "none" : text_of(policy, "user_limit"));
  // Unlike the others, a limit of zero is one: nothing may go to limbo.
  overview.add("limbo_limit", size_of(policy, "limbo_limit"));
}

// A daemon that is older than this says nothing of it.
void add_degraded(Overview& overview, const Json& status) {
  const auto degraded = status.find("degraded");
  if (degraded == status.end() || !degraded->is_array()) return;
  if (degraded->empty()) overview.add("state", "in order");
  for (const Json& one : *degraded) {
    overview.add("degraded", text_of(one, "text"));
    overview.add("  way out", text_of(one, "way_out"));
  }
}

using Row = std::function<std::vector<std::string>(const Json&)>;

Outcome<void> show_list(const Mount& mount, std::uint32_t what, bool json,
                        std::vector<Table::Column> columns, std::string_view empty,
                        const Row& row) {
  if (json) {
    JsonArray array;
    auto asked = mount.query(what, [&](const Json& object) {
      array.add(object);
      return true;
    });
    if (asked) array.finish();
    return asked;
  }
  Table table(std::move(columns));
  const auto asked = mount.query(what, [&](const Json& object) {
    table.add(row(object));
    return true;
  });
  if (!asked) return asked;
  print(table.empty() ? empty : table.text());
  return {};
}

// What is special about a pin, behind its kind.
std::string state_of(const Json& pin) {
  std::vector<std::string> words;
  if (pin.value("grace", Json()).is_number()) {
    words.push_back(fmt::format("grace, {} s", text_of(pin, "grace")));
  } else if (text_of(pin, "survivor") == "yes") {
    words.emplace_back("survivor");
  }
  const Json keeper = pin.value("kept_by", Json());
  if (keeper.is_string()) {
    words.push_back(
        fmt::format("its process has ended, another's {} keeps it", keeper.get<std::string>()));
  }
  return words.empty() ? "" : fmt::format(" ({})", fmt::join(words, "; "));
}

}  // namespace

Outcome<void> show_status(const std::string& path, bool json) {
  const auto mount = Mount::at(path);
  if (!mount) return std::unexpected(mount.error());
  const auto status = mount->query_one(DAXFS_QUERY_STATUS);
  if (!status) return std::unexpected(status.error());
  if (json) {
    print_json(*status);
    return {};
  }
  const Json pins = part(*status, "pins");
  Overview overview;
  overview.add("pool", text_of(*status, "pool"));
  add_degraded(overview, *status);
  overview.add("uuid", text_of(*status, "uuid"));
  overview.add("mounted at", text_of(*status, "mountpoint"));
  overview.add("block size", size_of(*status, "block_size"));
  overview.add("dax", text_of(*status, "dax"));
  overview.add("granularity", text_of(*status, "granularity"));
  overview.add("cache", text_of(*status, "cache"));
  overview.add("total", size_of(*status, "total"));
  overview.add("free", share_of(*status, "free"));
  overview.add("limbo", share_of(*status, "limbo"));
  overview.add("pins", fmt::format("{} long, {} short, {}", text_of(pins, "long"),
                                   text_of(pins, "short"), size_of(pins, "bytes")));
  overview.add("leases", text_of(*status, "leases"));
  overview.add("waiting", text_of(*status, "waiting"));
  add_policy(overview, part(*status, "policy"));
  print(overview.text());
  return {};
}

Outcome<void> show_policy(const std::string& path, bool json) {
  const auto mount = Mount::at(path);
  if (!mount) return std::unexpected(mount.error());
  const auto status = mount->query_one(DAXFS_QUERY_STATUS);
  if (!status) return std::unexpected(status.error());
  const Json policy = part(*status, "policy");
  if (json) {
    print_json(policy);
    return {};
  }
  Overview overview;
  add_policy(overview, policy);
  print(overview.text());
  return {};
}

Outcome<void> set_policy(const std::string& path, const std::string& settings, bool json) {
  const auto mount = Mount::at(path);
  if (!mount) return std::unexpected(mount.error());
  if (const auto set = mount->set_policy(settings); !set) return set;
  if (settings.find("ignore") != std::string::npos) {
    fmt::print(stderr,
               "daxfsctl: pin_policy=ignore frees pinned blocks: holders WILL see and cause "
               "corruption\n");
  }
  return show_policy(path, json);
}

Outcome<void> release(const std::string& path, std::uint64_t pin) {
  const auto mount = Mount::at(path);
  if (!mount) return std::unexpected(mount.error());
  const auto control = mount->open_control("release", O_WRONLY);
  if (!control) return std::unexpected(control.error());
  const std::string text = fmt::format("{}\n", pin);
  if (::write(control->get(), text.data(), text.size()) == static_cast<ssize_t>(text.size())) {
    return {};
  }
  switch (const int code = errno) {
    case ENOENT:
      return problem(code, fmt::format("{}: pin {}: no such pin is left of a former mount; see "
                                       "`daxfsctl pins`",
                                       path, pin));
    case EBUSY:
      return problem(code,
                     fmt::format("{}: pin {}: its process lives, or somebody maps its blocks; "
                                 "end that process (lslocks names it)",
                                 path, pin));
    default:
      return problem(code, fmt::format("{}: pin {}: {}", path, pin, std::strerror(code)));
  }
}

Outcome<void> show_pins(const std::string& path, bool json) {
  const auto mount = Mount::at(path);
  if (!mount) return std::unexpected(mount.error());
  return show_list(*mount, DAXFS_QUERY_PINS, json,
                   {{"PIN", true},
                    {"KIND"},
                    {"MODE"},
                    {"OFFSET", true},
                    {"LENGTH", true},
                    {"PID", true},
                    {"COMMAND"},
                    {"UID", true},
                    {"SINCE"},
                    {"LEASE"},
                    {"INODE", true},
                    {"PATH"}},
                   "no pins\n", [](const Json& pin) -> std::vector<std::string> {
                     const bool write = text_of(pin, "write") == "yes";
                     const std::string kind = text_of(pin, "kind");
                     return {
                         text_of(pin, "id"),      kind + state_of(pin),   write ? "write" : "read",
                         text_of(pin, "offset"),  size_of(pin, "length"), text_of(pin, "pid"),
                         text_of(pin, "command"), text_of(pin, "uid"),    time_of(pin, "since"),
                         text_of(pin, "lease"),   text_of(pin, "inode"),  text_of(pin, "path")};
                   });
}

Outcome<void> show_leases(const std::string& path, bool json) {
  const auto mount = Mount::at(path);
  if (!mount) return std::unexpected(mount.error());
  return show_list(*mount, DAXFS_QUERY_LEASES, json,
                   {{"LEASE", true},
                    {"KIND"},
                    {"OFFSET", true},
                    {"LENGTH", true},
                    {"PID", true},
                    {"COMMAND"},
                    {"UID", true},
                    {"BREAKING"},
                    {"DEADLINE"},
                    {"INODE", true},
                    {"PATH"}},
                   "no leases\n", [](const Json& lease) -> std::vector<std::string> {
                     const bool exclusive = text_of(lease, "exclusive") == "yes";
                     return {text_of(lease, "id"),       exclusive ? "exclusive" : "shared",
                             text_of(lease, "offset"),   size_of(lease, "length"),
                             text_of(lease, "pid"),      text_of(lease, "command"),
                             text_of(lease, "uid"),      text_of(lease, "breaking"),
                             time_of(lease, "deadline"), text_of(lease, "inode"),
                             text_of(lease, "path")};
                   });
}

Outcome<void> show_attached(const std::string& path, bool json) {
  const auto mount = Mount::at(path);
  if (!mount) return std::unexpected(mount.error());
  return show_list(*mount, DAXFS_QUERY_ATTACHED, json,
                   {{"ID", true},
                    {"PID", true},
                    {"COMMAND"},
                    {"UID", true},
                    {"REVOKED", true},
                    {"CLOSED"},
                    {"INODE", true},
                    {"PATH"}},
                   "nobody is attached\n", [](const Json& one) -> std::vector<std::string> {
                     return {text_of(one, "id"),      text_of(one, "pid"),
                             text_of(one, "command"), text_of(one, "uid"),
                             text_of(one, "revoked"), text_of(one, "closed"),
                             text_of(one, "inode"),   text_of(one, "path")};
                   });
}

Outcome<void> show_limbo(const std::string& path, bool json) {
  const auto mount = Mount::at(path);
  if (!mount) return std::unexpected(mount.error());
  return show_list(*mount, DAXFS_QUERY_LIMBO, json,
                   {{"POOL OFFSET", true}, {"LENGTH", true}, {"PINS", true}, {"SINCE"}},
                   "nothing in limbo\n", [](const Json& run) -> std::vector<std::string> {
                     return {text_of(run, "pool_offset"), size_of(run, "length"),
                             text_of(run, "pins"), time_of(run, "since")};
                   });
}

Outcome<void> show_extents(const std::string& path, bool json) {
  const auto mount = Mount::file(path);
  if (!mount) return std::unexpected(mount.error());
  return show_list(*mount, DAXFS_QUERY_EXTENTS, json,
                   {{"FILE OFFSET", true},
                    {"POOL OFFSET", true},
                    {"LENGTH", true},
                    {"STATE"},
                    {"LONG", true},
                    {"SHORT", true}},
                   "no extents\n", [](const Json& extent) -> std::vector<std::string> {
                     const bool unwritten = text_of(extent, "unwritten") == "yes";
                     return {text_of(extent, "file_offset"), text_of(extent, "pool_offset"),
                             size_of(extent, "length"),      unwritten ? "unwritten" : "written",
                             text_of(extent, "long"),        text_of(extent, "short")};
                   });
}

}  // namespace daxfs::ctl
