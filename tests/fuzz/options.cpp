// What people write: mount options, policies, sizes, times. Anything is understood or refused with
// a sentence, and what is understood can be said again.
//
//   input: which parser, then words; or, as it stands, the text
#include "src/options.h"

#include <fmt/format.h>

#include <array>

#include "base/size_text.h"
#include "src/policy_settings.h"
#include "tests/fuzz/policy_words.h"
#include "tests/fuzz/target.h"

namespace daxfs::fuzz {
namespace {

constexpr ByteCount kPool(1ull << 40);

template <class T>
bool understood(const Outcome<T>& outcome) {
  if (outcome) return true;
  require(!outcome.error().text.empty() && outcome.error().code > 0, "refused without a reason");
  return false;
}

void require_sane(const GateOptions& gate) {
  constexpr std::uint64_t kYear = 366ull * 24 * 3'600'000;
  for (const std::uint64_t time :
       {gate.wait_timeout_ms, gate.break_timeout_ms, gate.short_timeout_ms}) {
    require(time <= kYear, "longer than a year");
  }
  require(gate.break_timeout_ms > 0, "no time for a break");
  const std::string text = format_policy(gate);
  const auto again = change_policy(GateOptions{}, text, true, kPool);
  require(again && format_policy(*again) == text, "said again, it means something else: " + text);
}

void mount_options(const std::string& text) {
  const auto options = parse_mount_options(text);
  if (!understood(options)) return;
  require(options->gate.pin_policy != PinPolicy::ignore || options->unsafe_demo,
          "ignore without unsafe_demo");
  require_sane(resolve(*options, kPool));
}

void policy(const std::string& text) {
  const GateOptions before{.short_timeout_ms = 4711};
  const auto changed = change_policy(before, text, false, kPool);
  if (!understood(changed)) return;
  require(changed->pin_policy != PinPolicy::ignore, "ignore without unsafe_demo");
  require_sane(*changed);
}

void size(const std::string& text) {
  const auto parsed = parse_size(text);
  if (!understood(parsed)) return;
  require(parsed->value >= 1, "nothing at all");
  require(!format_size(*parsed).empty(), "a size that cannot be said");
}

void time(const std::string& text) {
  for (const std::uint64_t unit : {1u, 1000u}) {
    const auto parsed = parse_duration_ms(text, unit);
    if (understood(parsed)) require(*parsed <= 366ull * 24 * 3'600'000, "longer than a year");
  }
}

void file_policy(const std::string& text) {
  const auto parsed = parse_pin_policy(text);
  if (parsed) require(to_string(*parsed) == text, "a policy of another name");
}

using Parser = void (*)(const std::string&);
constexpr std::array<Parser, 5> kParsers = {mount_options, policy, size, time, file_policy};

}  // namespace

void make_seeds(const std::function<void(const std::string&, const std::string&)>& add) {
  static constexpr const char* kTexts[] = {
      "pin_policy=defer,on_timeout=refuse,wait_timeout=none,break_timeout=45s,short_timeout=1000",
      "longterm=lease,pin_limit=64MiB,limbo_limit=25%,ro,relatime,x-systemd.automount,_netdev",
      "pin_policy=ignore,unsafe_demo,nosuid,strictatime,nonempty,limbo_limit=512M,pin_limit=none",
      "defer wait_timeout=5s\nlongterm=forbid",
      "16384P",
      "0x10",
      "64MB",
      "1h",
      "90min",
      "refuse",
      "18446744073709551615h",
      "307445734561825861m",
      "17179869184G",
      "wait_timeout=5124095576030432h"};
  for (std::size_t parser = 0; parser < kParsers.size(); ++parser) {
    for (std::size_t i = 0; i < std::size(kTexts); ++i) {
      add(fmt::format("parser-{}-text-{}", parser, i),
          std::string{static_cast<char>(parser), 1} + kTexts[i]);
      // Words: their numbers.
      std::string words{static_cast<char>(parser), 0, 15};
      for (std::size_t word = 0; word < 15; ++word) {
        words += static_cast<char>((i * 7 + word * (i + 1)) % std::size(kPolicyWords));
      }
      add(fmt::format("parser-{}-words-{}", parser, i), words);
    }
  }
}

}  // namespace daxfs::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace daxfs::fuzz;
  Input input({data, size});
  const Parser parser = kParsers.at(input.below(kParsers.size()));
  parser(input.flag() ? input.rest() : policy_text(input));
  return 0;
}
