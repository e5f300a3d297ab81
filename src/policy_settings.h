// The knobs of the gate as people write them and see them: `pin_policy=defer`, at the mount and
// live. All that there is to say of one is a row of the table in the source.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/units.h"
#include "lease/policy.h"

namespace daxfs {

struct PolicySettings {
  GateOptions gate;
  // limbo_limit= as a share of the pool, in place of gate.limbo_limit: see resolve().
  std::optional<std::uint32_t> limbo_limit_percent = 25;
};

// A line of --help.
struct OptionHelp {
  std::string_view name;  // as written, with its values
  std::string_view text;
};
// Of every knob, with its default and meaning.
std::span<const OptionHelp> policy_setting_help();

// Whether there is a knob of this name.
bool is_policy_setting(std::string_view name);

// The Problem names the setting, what is wrong with its value, and what would be right.
Outcome<void> parse_policy_setting(std::string_view name, std::string_view value,
                                   PolicySettings& out);

// What may not be combined: `ignore` needs the mount option unsafe_demo.
Outcome<void> check_policy_settings(const GateOptions& gate, bool unsafe_demo);

// Several at once, for a live mount: `defer` alone is pin_policy=defer; `name=value` else;
// separated by commas or white space. All of them or none.
Outcome<GateOptions> change_policy(const GateOptions& now, std::string_view text, bool unsafe_demo,
                                   ByteCount pool);

GateOptions resolve(const PolicySettings& settings, ByteCount pool);

// Every knob, `name=value` a line, as change_policy() takes them.
std::string format_policy(const GateOptions& gate);

// Every knob as `status` reports it: times in seconds, sizes in bytes, null for none.
nlohmann::json policy_json(const GateOptions& gate);

// A time such as 500ms, 2s, 1m; a plain number counts in `plain_unit_ms`.
Outcome<std::uint64_t> parse_duration_ms(std::string_view text, std::uint64_t plain_unit_ms);

}  // namespace daxfs
